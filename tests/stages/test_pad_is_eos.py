"""Padding with EOS changes nothing: SFT, reward model, PPO and DPO tell by lengths what is real."""

from pathlib import Path

import pytest
import torch

from stages.contracts import Context, GoldKind
from stages.lm.loading import load_causal_lm, load_tokenizer, save_model
from stages.lm.process import prepare_process
from stages.records.schemas import Comparison, Demonstration
from stages.records.tables import write_table
from tests.stages.step3_policy.ppo.small_ppo import small_config, write_inputs

PADS = ("own", "eos")


@pytest.fixture
def starts(tiny_model, tiny_tokenizer, tmp_path) -> dict[str, Path]:
    """One model twice: its tokenizer pads with a token of its own, or with EOS."""
    tiny_model.config.pad_token_id = None
    folders = {pad: tmp_path / pad for pad in PADS}
    for pad, folder in folders.items():
        save_model(tiny_model, tiny_tokenizer, folder / "model")
        tokenizer = load_tokenizer(folder / "model")
        specials = ["<user>", "<assistant>", "<pad>"]
        tokenizer.add_special_tokens({"additional_special_tokens": specials})
        tokenizer.pad_token = tokenizer.eos_token if pad == "eos" else "<pad>"
        tokenizer.save_pretrained(folder / "model")
    return folders


@pytest.fixture
def tables(tmp_path) -> Path:
    """Responses of unequal lengths, so that every batch is padded."""
    asked = [[{"role": "user", "content": "write about the cat" + " cat" * n}] for n in range(8)]
    short, long = "the cat .", "the cat is red and blue . " * 2
    for split in ("train", "validation"):
        write_table(
            tmp_path / "demonstrations" / f"{split}.parquet",
            [
                Demonstration(prompt=p, response=short if n % 2 else long)
                for n, p in enumerate(asked)
            ],
        )
        write_table(
            tmp_path / "comparisons" / f"{split}.parquet",
            [
                Comparison(
                    prompt=p,
                    completions=[short, long],
                    source=["a", "b"],
                    finished=[True, False],
                    ranks=[1, 2],
                )
                for p in asked
            ],
        )
    return tmp_path


def run_both(starts, tmp_path, stage):
    """What a stage makes of both, and whether their models are the same tensor by tensor."""
    reports, weights = [], []
    for pad, start in starts.items():
        out = tmp_path / "out" / pad
        prepare_process(1, 0)
        reports.append(stage(start, out, Context.at(tmp_path / "work" / pad)))
        weights.append(load_causal_lm(out / "model").state_dict() if out.exists() else {})
    own, eos = weights
    assert own.keys() == eos.keys()
    assert all(torch.allclose(own[name], eos[name], atol=1e-6) for name in own)
    return reports


def test_sft(starts, tables, tmp_path):
    from stages.step1_sft.config import SftConfig
    from stages.step1_sft.sft import run

    config = SftConfig(
        lr=1e-2, epochs=2, batch_size=4, microbatch_size=4, residual_dropout=0.0, max_length=64
    )
    demonstrations = tables / "demonstrations"
    own, eos = run_both(
        starts,
        tmp_path,
        lambda start, out, context: run(
            config, base=start, demonstrations=demonstrations, out=out, context=context
        ),
    )
    assert own.metrics["validation_loss"] == pytest.approx(eos.metrics["validation_loss"], abs=1e-5)


def test_dpo(starts, tables, tmp_path):
    from stages.step3_policy.config import DpoConfig, Optimizer
    from stages.step3_policy.dpo import run

    config = DpoConfig(
        lr=1e-2, batch_size=4, microbatch_size=4, warmup_steps=0, optimizer=Optimizer.adamw
    )
    own, eos = run_both(
        starts,
        tmp_path,
        lambda start, out, context: run(
            config, sft=start, comparisons=tables / "comparisons", out=out, context=context
        ),
    )
    assert own.metrics["validation_loss"] == pytest.approx(eos.metrics["validation_loss"], abs=1e-5)


def test_the_reward_model(starts, tables, tmp_path):
    """It takes a pad of its own, which Transformers finds the end of a text by."""
    from reward.model import load_reward_tokenizer
    from stages.step2_reward.config import RewardModelConfig
    from stages.step2_reward.reward_model import run

    config = RewardModelConfig(lr=1e-2, batch_size=4, max_length=64)
    reports = {}
    for pad, start in starts.items():
        reports[pad] = run(
            config,
            sft=start,
            comparisons=tables / "comparisons",
            demonstrations=tables / "demonstrations",
            out=tmp_path / "out" / pad,
            context=Context.at(tmp_path / "work" / pad),
        )
        tokenizer = load_reward_tokenizer(tmp_path / "out" / pad / "model")
        assert tokenizer.pad_token_id != tokenizer.eos_token_id
    own, eos = (reports[pad].metrics for pad in PADS)
    assert own["validation_loss"] == pytest.approx(eos["validation_loss"], abs=1e-5)
    assert own["reward_bias"] == pytest.approx(eos["reward_bias"], abs=1e-5)


def test_ppo(starts, tmp_path):
    from stages.step3_policy.ppo.stage import run

    config = small_config(iterations=2, gold=GoldKind.none)
    inputs = write_inputs(starts["own"], tmp_path / "inputs")
    own, eos = run_both(
        starts,
        tmp_path,
        lambda start, out, context: run(
            config, **(inputs | {"ppo_init": start}), out=out, context=context
        ),
    )
    assert own.metrics["validation.kl"] == pytest.approx(eos.metrics["validation.kl"], abs=1e-5)
    assert own.metrics["validation.kl"] != 0
