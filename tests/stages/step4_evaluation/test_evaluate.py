"""The whole stage on the small world, and each measure against a slow way to take it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from reward.config import FinishedRule, ModelTerm, RewardConfig, RulesConfig
from reward.model import load_reward_tokenizer, new_reward_model, save_reward_model
from reward.text_model import TextRewardModel
from stages.contracts import Context, GoldKind, InterruptedRunError, Journal, UserError
from stages.lm.loading import load_causal_lm, load_tokenizer
from stages.lm.tokens import encode_document
from stages.records.schemas import Comparison, Prompt, Text
from stages.records.tables import read_table, write_table
from stages.step4_evaluation.answers import Exam
from stages.step4_evaluation.config import EvaluationConfig
from stages.step4_evaluation.evaluate import model_folders, policy_kl, run
from stages.step4_evaluation.pretraining import read_documents, text_loss
from stages.world.gold import gold_reward
from tests.reward.test_text_model import write_reward_model

SMALL = {
    "num_prompts": 8,
    "max_response_tokens": 6,
    "reward_model_prompts": 4,
    "completions_per_prompt": 3,
    "pretrain_tokens": 60,
    "max_length": 64,
    "num_samples": 3,
}


@pytest.fixture(scope="session")
def assets(world: Path) -> dict[str, Path]:
    """All upstream folders; the policy is another untrained model, with an average beside it."""
    tokenizer = load_reward_tokenizer(world / "sft" / "model")
    save_reward_model(
        new_reward_model(world / "sft" / "model", seed=3), tokenizer, world / "reward_model/model"
    )
    shutil.copytree(world / "base" / "model", world / "policy" / "model")
    shutil.copytree(world / "start" / "model", world / "policy" / "ema")
    for split in ("train", "validation"):
        write_table(world / "comparisons" / f"{split}.parquet", _comparisons(world))
    names = ("policy", "sft", "base", "reward_model", "comparisons", "prompts", "text")
    return {name: world / name for name in names} | {"ppo_init": world / "start"}


def _comparisons(world: Path) -> list[Comparison]:
    return [
        Comparison(
            prompt=row.prompt,
            completions=["one", "two", "three two"],
            source=["sft"] * 3,
            finished=[True] * 3,
            ranks=[1, 2, 3],
            scores=[0.9, 0.1, 0.5],
        )
        for row in read_table(world / "prompts" / "validation.parquet", Prompt)
    ]


@pytest.fixture(scope="session")
def exam(world: Path, assets: dict[str, Path]) -> Exam:
    rows = read_table(world / "prompts" / "test.parquet", Prompt)[:8]
    tokenizer = load_tokenizer(world / "sft" / "model")
    return Exam(EvaluationConfig(**SMALL), tokenizer, rows, assets["reward_model"] / "model")


def evaluate(assets: dict[str, Path], out: Path, **changes) -> dict[str, float]:
    out.mkdir(parents=True, exist_ok=True)
    config = EvaluationConfig(**{**SMALL, **changes})
    return run(config, **assets, out=out, context=Context.at(out / "work")).metrics


def test_every_figure_is_there(assets: dict[str, Path], tmp_path: Path) -> None:
    figures = evaluate(assets, tmp_path)
    for model in ("policy", "sft", "base", "ppo_init", "ema"):
        for name in ("gold_mean", "perfect", "proxy_mean", "eos_rate", "response_tokens"):
            assert f"evaluation.{model}_{name}" in figures
        assert f"evaluation.{model}_pretrain_loss" in figures
    for name in (
        "evaluation.policy_win_rate_vs_sft_ci95.low",
        "evaluation.sft_win_rate_vs_base",
        "evaluation.ema_win_rate_vs_sft",
        "evaluation.pretrain_loss_delta",
        "reward_model.accuracy_gold",
        "reward_model.accuracy_labels",
    ):
        assert name in figures
    assert figures["reward_model.label_ceiling"] == pytest.approx(2 / 3)  # gold swaps 2 and 3
    assert figures["evaluation.policy_kl"] > 0
    assert json.loads((tmp_path / "figures.json").read_text()) == figures


def test_files_for_the_report(assets: dict[str, Path], tmp_path: Path) -> None:
    figures = evaluate(assets, tmp_path)
    samples = json.loads((tmp_path / "samples.json").read_text())
    assert len(samples) == 3
    for name in ("prompt", "sft", "policy", "sft_gold", "policy_gold", "sft_proxy", "policy_proxy"):
        assert name in samples[0]
    for entry in json.loads((tmp_path / "calibration.json").read_text()):
        assert set(entry) == {"low", "high", "predicted", "observed", "count"}
    scores = json.loads((tmp_path / "score_distributions.json").read_text())
    assert [source["name"] for source in scores] == ["base", "sft", "ppo_init", "policy", "ema"]
    for source in scores:
        assert source["mean"] == pytest.approx(figures[f"evaluation.{source['name']}_proxy_mean"])


def test_the_same_run_gives_the_same_figures(assets: dict[str, Path], tmp_path: Path) -> None:
    first = evaluate(assets, tmp_path / "first", sequences_per_batch=3)
    again = evaluate(assets, tmp_path / "again", sequences_per_batch=256)
    assert first == pytest.approx(again, abs=1e-6)
    assert first != evaluate(assets, tmp_path / "other", seed=1)


def test_a_policy_that_is_its_start(assets: dict[str, Path], tmp_path: Path) -> None:
    """No KL and no tax. Mutation: KL of the start's own answers, or against SFT."""
    same = assets | {"policy": assets["ppo_init"]}
    figures = evaluate(same, tmp_path)
    assert figures["evaluation.policy_kl"] == pytest.approx(0, abs=1e-5)
    assert figures["evaluation.pretrain_loss_delta"] == 0
    assert "evaluation.ema_gold_mean" not in figures


def test_without_gold_nothing_is_named_gold(assets: dict[str, Path], tmp_path: Path) -> None:
    figures = evaluate(assets, tmp_path, gold=GoldKind.none)
    assert "evaluation.policy_proxy_win_rate_vs_sft" in figures
    assert "evaluation.policy_win_rate_vs_sft" not in figures
    assert "reward_model.accuracy_gold" not in figures


def test_prompts_the_world_does_not_know(assets: dict[str, Path], tmp_path: Path) -> None:
    unknown = Prompt(prompt=[{"role": "user", "content": "what is the meaning of one ?"}])
    write_table(tmp_path / "prompts" / "test.parquet", [unknown])
    with pytest.raises(UserError, match=r"evaluation\.gold=none"):
        evaluate(assets | {"prompts": tmp_path / "prompts"}, tmp_path / "out")


def test_it_stops_when_asked(assets: dict[str, Path], tmp_path: Path) -> None:
    context = Context(
        checkpoints=tmp_path, journal=Journal(tmp_path / "j"), should_stop=lambda: True
    )
    with pytest.raises(InterruptedRunError):
        run(EvaluationConfig(**SMALL), **assets, out=tmp_path, context=context)


def test_the_start_is_examined_once(tmp_path: Path) -> None:
    sft, base, policy = tmp_path / "sft", tmp_path / "base", tmp_path / "policy"
    assert list(model_folders(policy, sft, sft, base)) == ["base", "sft", "policy"]
    other = model_folders(policy, tmp_path / "start", sft, base)
    assert list(other) == ["base", "sft", "ppo_init", "policy"]


def test_answers_are_judged_with_their_own_prompts(exam: Exam, assets: dict[str, Path]) -> None:
    """Mutation: gold of a neighbour's prompt."""
    answers = exam.answer(load_causal_lm(assets["sft"] / "model"), "sft")
    assert answers.gold is not None
    for row, prompt in enumerate(exam.prompts):
        gold = gold_reward(prompt.prompt, answers.texts[row], answers.finished[row])
        assert answers.gold[row] == gold


def test_models_have_noise_of_their_own(exam: Exam, assets: dict[str, Path]) -> None:
    """The same model under two names answers differently, under one name the same."""
    model = load_causal_lm(assets["sft"] / "model")
    one, again, other = (exam.answer(model, name).tokens for name in ("sft", "sft", "policy"))
    assert one == again
    assert one != other


def test_models_answer_as_the_config_says(assets: dict[str, Path], world: Path) -> None:
    """Greedy: each token is the likeliest after the whole text so far, by a forward without cache.

    Mutation: `greedy` not handed on.
    """
    rows = read_table(world / "prompts" / "test.parquet", Prompt)[:4]
    tokenizer = load_tokenizer(world / "sft" / "model")
    config = EvaluationConfig(**{**SMALL, "greedy": True})
    exam = Exam(config, tokenizer, rows, assets["reward_model"] / "model")
    model = load_causal_lm(assets["policy"] / "model")
    for prompt, response in zip(exam.encoded, exam.answer(model, "policy").tokens, strict=True):
        for place in range(len(response)):
            text = torch.tensor([[*prompt, *response[:place]]])
            assert response[place] == int(model(input_ids=text).logits[0, -1].argmax())
    one = EvaluationConfig(**{**SMALL, "top_k": 1, "temperature": 3.0})
    likeliest = Exam(one, tokenizer, rows, assets["reward_model"] / "model")
    assert likeliest.answer(model, "policy").tokens == exam.answer(model, "policy").tokens


def test_best_of_n_takes_the_best(exam: Exam, assets: dict[str, Path]) -> None:
    """Against all n samples at hand. Mutation: argmin, or the first sample."""
    model = load_causal_lm(assets["sft"] / "model")
    rows = [row for row in range(8) for _ in range(4)]
    every = exam.sample(model, "policy", rows, [0, 1, 2, 3] * 8, exam.reward_model, exam.sampling)
    best = exam.answer_best_of(model, "policy", 4, exam.reward_model)
    for row in range(8):
        assert best.proxy[row] == pytest.approx(every.proxy[4 * row : 4 * row + 4].max(), abs=1e-6)
        assert best.texts[row] in every.texts[4 * row : 4 * row + 4]


def test_best_of_n_has_its_closed_form_kl(
    exam: Exam, assets: dict[str, Path], tmp_path: Path
) -> None:
    """log 4 - 3/4 = 0.636294."""
    (tmp_path / "best_of_n.json").write_text('{"n": 4}')
    answers = exam.answer(load_causal_lm(assets["sft"] / "model"), "sft")
    assert policy_kl(exam, answers, {}, tmp_path) == pytest.approx(0.636294, abs=1e-6)


def test_best_of_n_as_policy(assets: dict[str, Path], tmp_path: Path) -> None:
    policy = tmp_path / "best_of_n"
    shutil.copytree(assets["sft"] / "model", policy / "model")
    shutil.copytree(assets["reward_model"] / "model", policy / "reward_model")
    (policy / "best_of_n.json").write_text('{"n": 8}')
    sft = {"policy": policy, "ppo_init": assets["sft"]}
    figures = evaluate(assets | sft, tmp_path / "out")
    assert figures["evaluation.policy_proxy_mean"] > figures["evaluation.sft_proxy_mean"]
    assert figures["evaluation.pretrain_loss_delta"] == 0


def test_logprobs_of_whole_responses(exam: Exam, assets: dict[str, Path]) -> None:
    """Token by token from full logits. Mutation: the mean, or the prompt's tokens too."""
    model = load_causal_lm(assets["base"] / "model")
    answers = exam.answer(model, "base")
    sums = exam.logprobs(model, answers)
    for row, (prompt, response) in enumerate(zip(exam.encoded, answers.tokens, strict=True)):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + response])).logits[0]
        logprobs = logits.log_softmax(-1)
        expected = sum(
            logprobs[len(prompt) + t - 1, token].item() for t, token in enumerate(response)
        )
        assert sums[row] == pytest.approx(expected, abs=1e-4)


def test_text_loss_is_a_mean_over_tokens(world: Path) -> None:
    """Document by document from full logits. Mutation: a mean over documents."""
    model = load_causal_lm(world / "sft" / "model")
    documents = [[1, 7, 8, 9, 10, 2], [1, 9, 2]]
    nats = []
    for document in documents:
        with torch.no_grad():
            logprobs = model(input_ids=torch.tensor([document])).logits[0].log_softmax(-1)
        nats += [-logprobs[t, document[t + 1]].item() for t in range(len(document) - 1)]
    assert text_loss(model, documents, 0) == pytest.approx(np.mean(nats), abs=1e-5)


def test_enough_text_is_read_in_whole_documents(world: Path) -> None:
    tokenizer = load_tokenizer(world / "sft" / "model")
    path = world / "text" / "validation.parquet"
    documents = read_documents(path, tokenizer, num_tokens=60, max_length=64)
    predicted = [len(document) - 1 for document in documents]
    assert sum(predicted) >= 60 > sum(predicted[:-1])
    assert documents[0][-1] == encode_document(tokenizer, "one")[-1]
    whole = read_documents(path, tokenizer, num_tokens=10**6, max_length=64)
    assert len(whole) == len(read_table(path, Text))  # all there is
    assert whole[: len(documents)] == documents


def test_without_a_reward_model_the_reward_is_the_proxy(
    assets: dict[str, Path], tmp_path: Path
) -> None:
    """The share of responses that ended, as the rule says. Mutation: gold as the proxy."""
    rules = RewardConfig(
        model=ModelTerm(weight=0.0), rules=RulesConfig(finished=FinishedRule(weight=2.0))
    )
    others = {k: p for k, p in assets.items() if k not in ("reward_model", "comparisons")}
    figures = evaluate(others, tmp_path, reward=rules)
    for model in ("policy", "sft", "base"):
        ended = figures[f"evaluation.{model}_eos_rate"]
        assert figures[f"evaluation.{model}_proxy_mean"] == pytest.approx(2 * ended)
    assert not [name for name in figures if name.startswith("reward_model.")]
    assert not (tmp_path / "calibration.json").exists()


def test_a_reward_model_of_another_tokenizer_is_given_text(
    assets: dict[str, Path], tmp_path: Path
) -> None:
    """The figures of its own labels and the proxies are there, by its own reading."""
    foreign = write_reward_model(tmp_path / "foreign", "three two one write say about the a")
    figures = evaluate(assets | {"reward_model": foreign.parent}, tmp_path / "out")
    assert {"reward_model.accuracy_labels", "reward_model.accuracy_gold"} <= set(figures)
    rows = read_table(assets["prompts"] / "test.parquet", Prompt)[:3]
    samples = json.loads((tmp_path / "out" / "samples.json").read_text())
    scores = TextRewardModel(foreign)(
        [row.prompt for row in rows],
        [sample["policy"] for sample in samples],
        [sample["policy_finished"] for sample in samples],
    )
    assert [sample["policy_proxy"] for sample in samples] == pytest.approx(scores, abs=1e-5)
