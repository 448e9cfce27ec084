"""The choice of the epoch by reward-model score, against epochs whose responses are known."""

import json
import shutil

import pytest
import torch

from reward.model import (
    load_reward_model,
    load_reward_tokenizer,
    new_reward_model,
    save_reward_model,
)
from stages.contracts import Context, UserError
from stages.lm.batching import collate
from stages.lm.loading import model_hash, save_model
from stages.lm.process import prepare_process
from stages.lm.tokens import encode_prompt
from stages.records.schemas import Prompt
from stages.records.tables import write_table
from stages.step1_sft import selected
from stages.step1_sft.config import SftSelectedConfig
from stages.step1_sft.selected import Epoch, best_epoch

CONFIG = SftSelectedConfig(max_response_tokens=5)


@pytest.fixture
def assets(tmp_path, tiny_model, tiny_model_folder, tiny_tokenizer):
    """Three epochs: the first never ends a response, the second at once, the third by chance."""
    save_model(tiny_model, tiny_tokenizer, tmp_path / "sft" / "model")
    reward_model = new_reward_model(tiny_model_folder / "model", seed=0)
    tokenizer = load_reward_tokenizer(tiny_model_folder / "model")
    save_reward_model(reward_model, tokenizer, tmp_path / "reward_model" / "model")
    for number, eos in enumerate((-10.0, 10.0, 0.0), start=1):
        folder = tmp_path / "sft" / "epochs" / f"epoch_{number:02d}"
        save_model(always(tiny_model, eos, tiny_tokenizer.eos_token_id), tiny_tokenizer, folder)
        (folder / "validation.json").write_text(json.dumps({"loss": number / 10, "accuracy": 0.0}))
    asked = [[{"role": "user", "content": text}] for text in ("list the cat", "the dog")]
    write_table(tmp_path / "prompts" / "validation.parquet", [Prompt(prompt=p) for p in asked])
    return {name: tmp_path / name for name in ("sft", "reward_model", "prompts")}


def always(model, eos, eos_token_id):
    """The last state is all ones whatever was read; EOS alone has a logit, 16 times `eos`."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(float("embed_tokens" in name or "norm" in name))
        model.lm_head.weight[eos_token_id] = eos
    return model


def run_stage(folder, assets):
    prepare_process(CONFIG.threads, CONFIG.seed)
    context = Context.at(folder)
    (folder / "out").mkdir(exist_ok=True)
    report = selected.run(CONFIG, **assets, out=folder / "out", context=context)
    return report, [
        json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


def minus_length(_score, _prompts, responses, _pad_token_id):
    return torch.tensor([-float(len(tokens)) for tokens in responses])


def test_the_epoch_of_the_highest_score_is_published(tmp_path, assets, monkeypatch):
    """Where short is good, the one that ends at once: 1 token, against 5. Mutations: the lowest
    score; the lowest validation loss, which is the first epoch's; epochs counted from 0."""
    monkeypatch.setattr(selected, "score_responses", minus_length)
    report, logged = run_stage(tmp_path / "run", assets)
    assert report.metrics["selected_epoch"] == 2
    assert report.metrics["reward"] == -1
    assert report.metrics["validation_loss"] == 0.2
    out = tmp_path / "run" / "out"
    assert model_hash(out / "model") == model_hash(assets["sft"] / "epochs" / "epoch_02")
    assert [record["step"] for record in logged] == [1, 2, 3]
    assert [record["values"]["sft_selected/eos_rate"] for record in logged[:2]] == [0, 1]
    assert logged[0]["values"]["sft_selected/reward"] == -5
    assert len(json.loads((out / "epochs.json").read_text())) == 3


def test_the_scores_are_the_reward_models(tmp_path, assets, tiny_tokenizer):
    """Of the epoch whose responses are EOS alone, recomputed one prompt at a time."""
    _, logged = run_stage(tmp_path / "run", assets)
    model = load_reward_model(assets["reward_model"] / "model")
    scores = []
    for text in ("list the cat", "the dog"):
        prompt = encode_prompt(tiny_tokenizer, [{"role": "user", "content": text}])
        batch = collate([prompt], [[tiny_tokenizer.eos_token_id]], 0)
        scores.append(float(model.scores(batch).detach()))
    assert logged[1]["values"]["sft_selected/reward"] == pytest.approx(sum(scores) / 2, abs=1e-5)


def test_of_equal_epochs_the_first():
    def epoch(reward):
        return Epoch(reward=reward, eos_rate=1.0, response_tokens=1.0, validation_loss=0.0)

    assert best_epoch([epoch(0.1), epoch(0.7), epoch(0.7)]) == 1


def test_without_epochs_it_is_refused(tmp_path, assets):
    shutil.rmtree(assets["sft"] / "epochs")
    with pytest.raises(UserError, match="every epoch"):
        run_stage(tmp_path / "run", assets)
