"""The PPO initialisation model: the share of text, both validation losses, and what it refuses."""

import json

import pytest

from stages.contracts import Context, InterruptedRunError, UserError
from stages.lm.loading import model_hash
from stages.lm.process import prepare_process
from stages.step1_sft import ppo_init
from stages.step1_sft.config import PpoInitConfig


def tiny_config(**changes):
    values = {"lr": 5e-3, "epochs": 2, "batch_size": 4, "microbatch_size": 4, "text_share": 0.25}
    return PpoInitConfig(**values | {"checkpoint_every": 5} | changes)


DOCUMENTS = [[1, i, 2] for i in range(16)]


def run_stage(folder, base, demonstrations, text, config, should_stop=lambda: False):
    prepare_process(config.threads, config.seed)
    context = Context.at(folder)
    context.should_stop = should_stop
    inputs = {"base": base, "demonstrations": demonstrations, "text": text}
    return ppo_init.run(config, **inputs, out=folder / "out", context=context)


def test_the_paper_mixes_one_document_into_ten_sequences():
    """App. C.3. 9 demonstrations take 1 document: 10% of the whole, not of the demonstrations."""
    config = PpoInitConfig()
    assert len(ppo_init.mixed_in(config, DOCUMENTS, 90)) == 10
    assert ppo_init.mixed_in(PpoInitConfig(text_share=0), DOCUMENTS, 9) == []


def test_documents_are_drawn_without_replacement():
    config = tiny_config(text_share=0.5)
    documents = ppo_init.mixed_in(config, DOCUMENTS, 16)
    assert len({tuple(document.input_ids) for document in documents}) == 16


def test_too_little_text_is_the_users_fault():
    config = tiny_config(text_share=0.5)
    with pytest.raises(UserError, match="too little pretraining text"):
        ppo_init.mixed_in(config, DOCUMENTS, 17)


def test_both_losses_are_logged_and_a_stopped_run_ends_the_same(
    tmp_path, tiny_model_folder, demonstrations, text
):
    inputs = (tiny_model_folder, demonstrations, text, tiny_config())
    report = run_stage(tmp_path / "whole", *inputs)
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])["values"]
    assert last["loss/validation"] == report.metrics["validation_loss"]
    assert last["loss/validation_text"] == report.metrics["validation_loss_text"]
    asked = iter(range(1, 100))
    with pytest.raises(InterruptedRunError):
        run_stage(tmp_path / "stopped", *inputs, lambda: next(asked) >= 9)
    run_stage(tmp_path / "stopped", *inputs)
    whole, stopped = (tmp_path / name / "out" / "model" for name in ("whole", "stopped"))
    assert model_hash(whole) == model_hash(stopped)
