"""Best-of-n: the unbiased estimator, the KL, and the asset it writes."""

import itertools
import json

import numpy as np
import pytest
import torch

from reward.model import (
    load_reward_model,
    load_reward_tokenizer,
    new_reward_model,
    save_reward_model,
)
from stages.contracts import Context, GoldKind, InterruptedRunError, UserError
from stages.lm.loading import load_causal_lm, model_hash
from stages.lm.process import prepare_process
from stages.lm.tokens import decode_response
from stages.records.schemas import Prompt
from stages.records.tables import write_table
from stages.step3_policy import best_of_n, best_samples
from stages.step3_policy.best_of_n_config import BestOfNConfig
from stages.step3_policy.best_of_n_curve import best_of_n_kl, best_of_n_mean, best_of_n_weights

KL = {1: 0, 2: 0.193147, 4: 0.636294, 8: 1.204442, 16: 1.835089, 64: 3.174508, 512: 5.240278}


@pytest.mark.parametrize(("n", "expected"), KL.items())
def test_kl_of_best_of_n(n, expected):
    assert best_of_n_kl(n) == pytest.approx(expected, abs=1e-6)


def test_hand_worked_estimate():
    """Of [1, 2, 3, 4] two are drawn: the best is 2, 3 or 4 in 1, 2 or 3 of 6 draws: 10/3."""
    scores = np.array([[3.0, 1.0, 4.0, 2.0]])
    assert best_of_n_mean(scores, scores, 2) == pytest.approx(10 / 3)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_the_mean_over_every_subset(n):
    """Reference: all subsets. Fails if gold is sorted by itself, or the worst is taken."""
    generator = np.random.default_rng(0)
    proxy, gold = generator.normal(size=(2, 5, 6))
    kept = [
        values[max(subset, key=lambda i, scores=scores: scores[i])]
        for scores, values in zip(proxy, gold, strict=True)
        for subset in itertools.combinations(range(6), n)
    ]
    assert best_of_n_mean(proxy, gold, n) == pytest.approx(np.mean(kept))


@pytest.mark.parametrize("n", [1, 5, 64])
def test_weights_sum_to_one(n):
    assert best_of_n_weights(64, n).sum() == pytest.approx(1)


@pytest.fixture
def assets(tmp_path, tiny_model_folder):
    reward_model = new_reward_model(tiny_model_folder / "model", seed=0)
    tokenizer = load_reward_tokenizer(tiny_model_folder / "model")
    save_reward_model(reward_model, tokenizer, tmp_path / "reward_model" / "model")
    records = [
        Prompt(prompt=[{"role": "user", "content": f"list the {noun}"}])
        for noun in ("cat", "dog", "ball")
    ]
    write_table(tmp_path / "prompts" / "validation.parquet", records)
    return {
        "sft": tiny_model_folder,
        "reward_model": tmp_path / "reward_model",
        "prompts": tmp_path / "prompts",
    }


def tiny_config(**changes):
    values = {"n": 3, "curve_prompts": 2, "curve_samples": 8, "max_response_tokens": 6}
    return BestOfNConfig(**values | {"gold": GoldKind.none} | changes)


def run_stage(folder, assets, config, should_stop=lambda: False):
    prepare_process(config.threads, config.seed)
    context = Context.at(folder)
    context.should_stop = should_stop
    return best_of_n.run(config, **assets, out=folder / "out", context=context)


def test_writes_both_models_and_n(tmp_path, assets):
    report = run_stage(tmp_path / "run", assets, tiny_config())
    out = tmp_path / "run" / "out"
    assert json.loads((out / "best_of_n.json").read_text()) == {"n": 3}
    assert model_hash(out / "model") == model_hash(assets["sft"] / "model")
    load_causal_lm(out / "model")
    load_reward_model(out / "reward_model")
    assert report.metrics["kl"] == pytest.approx(best_of_n_kl(3))
    assert "gold" not in report.metrics


def test_the_curve_rises_in_the_proxy_and_does_not_depend_on_batches(tmp_path, assets):
    run_stage(tmp_path / "run", assets, tiny_config())
    run_stage(tmp_path / "split", assets, tiny_config(sequences_per_batch=3))
    curves = []
    for folder in ("run", "split"):
        lines = (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert [record["step"] for record in records] == [1, 2, 3, 4, 8]
        curves.append([record["values"]["best_of_n/proxy"] for record in records])
    assert curves[0] == sorted(curves[0])
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)


def test_gold_belongs_to_the_sample_it_judges(tmp_path, assets, tiny_tokenizer, monkeypatch):
    """With one function of prompt and text as proxy and as gold, the two curves are one. Fails if
    gold is paired with another sample, or another prompt."""

    def worth(prompt, text):
        return len(text) + 100 * ("dog" in prompt)

    def score(_scores, prompts, responses, _pad_token_id):
        texts = [decode_response(tiny_tokenizer, response) for response in responses]
        asked = [tiny_tokenizer.decode(prompt) for prompt in prompts]
        return torch.tensor([float(worth(p, t)) for p, t in zip(asked, texts, strict=True)])

    def gold(prompt, text, finished):
        return worth(prompt[-1]["content"], text)

    monkeypatch.setattr(best_samples, "score_responses", score)
    monkeypatch.setattr("stages.world.gold.gold_reward", gold)
    run_stage(tmp_path / "run", assets, tiny_config(gold=GoldKind.world))
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)["values"]
        assert values["best_of_n/gold"] == values["best_of_n/proxy"]


def test_asked_to_stop(tmp_path, assets):
    with pytest.raises(InterruptedRunError):
        run_stage(tmp_path / "run", assets, tiny_config(), should_stop=lambda: True)


def test_n_needs_as_many_samples():
    with pytest.raises(UserError, match="curve_samples"):
        tiny_config(n=9)
