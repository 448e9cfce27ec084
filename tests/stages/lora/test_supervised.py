"""SFT, the reward model and DPO with adapters: what is trained, what is published, resume."""

import json
from itertools import count
from pathlib import Path

import pytest
import torch

from reward.model import load_reward_model
from stages.contracts import InterruptedRunError, UserError
from stages.lm.batching import collate
from stages.lm.loading import load_causal_lm, model_hash
from stages.lm.peft.adapters import adapter_of, base_of, load_adapted
from stages.lm.peft.config import PeftKind
from stages.lm.process import prepare_process
from stages.step3_policy import dpo
from stages.step3_policy.config import DpoConfig, Optimizer
from tests.stages.lora.chain import context_at, never, run_reward_model, run_sft


def losses(folder: Path) -> list[float]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [r["values"]["loss/train"] for r in records if "loss/train" in r["values"]]


def stop_at(step: int):
    ticks = count(1)
    return lambda: next(ticks) == step


def test_sft_publishes_merged_weights_with_the_adapter_beside(world: Path, sft: Path) -> None:
    """Mutations: the last epoch's adapter instead of the best one's; alpha left out of the merge
    (`merged_weights` without scaling is in test_adapters)."""
    merged, apart = load_causal_lm(sft / "model"), load_adapted(world / "base/model", sft / "model")
    tokens = torch.arange(5, 25)[None]
    assert torch.allclose(merged(tokens).logits, apart(tokens).logits, atol=1e-5)
    assert not torch.allclose(
        merged(tokens).logits, load_causal_lm(world / "base/model")(tokens).logits, atol=1e-2
    )
    assert base_of(adapter_of(sft / "model")) == model_hash(world / "base" / "model")
    assert {path.name for path in (sft / "epochs" / "epoch_01").iterdir()} == {
        "adapter",
        "validation.json",
    }


def test_sft_trains_the_adapter_alone(world: Path, tmp_path: Path) -> None:
    """The merged weights differ from the base's in adapted layers only; the contract names it."""
    report = run_sft(world, tmp_path, epochs=1)
    assert report.contract["base_sha256"] == model_hash(world / "base" / "model")
    before = load_causal_lm(world / "base" / "model").state_dict()
    after = load_causal_lm(tmp_path / "out" / "model").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj" in name}


@pytest.mark.parametrize("stopped_after", [3, 5, 7])
def test_sft_continues_bit_for_bit(
    world: Path, sft: Path, tmp_path: Path, stopped_after: int
) -> None:
    """Mutation: the adapter's own dropout, or the generators, not as they were."""
    with pytest.raises(InterruptedRunError):
        run_sft(world, tmp_path, stop_at(stopped_after))
    run_sft(world, tmp_path)
    assert model_hash(tmp_path / "out/model") == model_hash(sft / "model")
    assert model_hash(tmp_path / "out/model/adapter") == model_hash(sft / "model/adapter")


def test_an_epoch_selected_by_reward_is_its_adapter_merged(
    world: Path, sft: Path, reward_model: Path, tmp_path: Path
) -> None:
    """Mutations: the base's own responses are scored; another epoch's adapter is published."""
    from stages.step1_sft import selected
    from stages.step1_sft.config import SftSelectedConfig

    (tmp_path / "out").mkdir()
    report = selected.run(
        SftSelectedConfig(max_response_tokens=8, peft=PeftKind.lora),
        sft=sft,
        reward_model=reward_model,
        prompts=world / "prompts",
        out=tmp_path / "out",
        context=context_at(tmp_path),
        base=world / "base",
    )
    epoch = sft / "epochs" / f"epoch_{int(report.metrics['selected_epoch']):02d}"
    assert model_hash(tmp_path / "out/model/adapter") == model_hash(epoch / "adapter")
    assert report.contract["base_sha256"] == model_hash(world / "base" / "model")
    tokens = torch.arange(5, 25)[None]
    apart = load_adapted(world / "base/model", epoch)
    merged = load_causal_lm(tmp_path / "out/model")
    assert torch.allclose(merged(tokens).logits, apart(tokens).logits, atol=1e-5)
    first, second = json.loads((tmp_path / "out" / "epochs.json").read_text())
    assert first["reward"] != second["reward"]


def test_reward_model_learns_and_opens_without_peft(reward_model: Path) -> None:
    figures = json.loads((reward_model / "calibration.json").read_text())
    assert figures
    model = load_reward_model(reward_model / "model")
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_reward_model_starts_as_sfts_adapter(
    world: Path, sft: Path, reward_model: Path, tmp_path: Path
) -> None:
    """At a rate of almost nothing the decoder is SFT's. Mutation: a new adapter."""
    run_reward_model(world, sft, tmp_path, lr=1e-12, epochs=0.2)
    batch = collate([[3, 4, 5, 6]], [[7, 8, 2]], 0)
    ours = load_reward_model(tmp_path / "out" / "model").network.base_model
    started, trained = load_causal_lm(sft / "model"), load_reward_model(reward_model / "model")
    of_sft = started.base_model(batch.input_ids).last_hidden_state
    assert torch.allclose(ours(batch.input_ids).last_hidden_state, of_sft, atol=1e-5)
    moved = trained.network.base_model(batch.input_ids).last_hidden_state
    assert not torch.allclose(moved, of_sft, atol=1e-2)


def test_reward_model_continues_bit_for_bit_and_saves_what_it_trains(
    world: Path, sft: Path, reward_model: Path, tmp_path: Path
) -> None:
    """Mutation: the head left out of the checkpoint."""
    with pytest.raises(InterruptedRunError):
        run_reward_model(world, sft, tmp_path, stop_at(7))
    (checkpoint,) = (tmp_path / "checkpoints").glob("step_*")
    saved = torch.load(checkpoint / "learner" / "weights" / "whole.pt", weights_only=True)
    assert all("lora_" in name or "modules_to_save" in name for name in saved)
    run_reward_model(world, sft, tmp_path)
    assert model_hash(tmp_path / "out/model") == model_hash(reward_model / "model")
    assert model_hash(tmp_path / "out/model/adapter") == model_hash(reward_model / "model/adapter")


def run_dpo(world: Path, sft: Path, folder: Path, should_stop=never, **changes):
    config = DpoConfig(
        lr=1e-2,
        batch_size=4,
        microbatch_size=4,
        warmup_steps=0,
        optimizer=Optimizer.adamw,
        log_every=1,
        max_pairs=1,
        checkpoint_every=5,
        peft=PeftKind.lora,
        **changes,
    )
    prepare_process(config.threads, config.seed)
    return dpo.run(
        config,
        sft=sft,
        comparisons=world / "comparisons",
        out=folder / "out",
        context=context_at(folder, should_stop),
        base=world / "base",
    )


def test_dpo_starts_at_ln_2_from_sfts_adapter_and_continues(
    world: Path, sft: Path, tmp_path: Path
) -> None:
    """ln 2: policy and reference are SFT's adapter. Mutation: the base as the reference."""
    report = run_dpo(world, sft, tmp_path / "whole")
    assert losses(tmp_path / "whole")[0] == pytest.approx(0.6931, abs=1e-4)
    assert losses(tmp_path / "whole")[-1] < 0.65
    assert report.contract["base_sha256"] == model_hash(world / "base" / "model")
    with pytest.raises(InterruptedRunError):
        run_dpo(world, sft, tmp_path / "parts", stop_at(4))
    run_dpo(world, sft, tmp_path / "parts")
    whole, parts = (tmp_path / name / "out" / "model" for name in ("whole", "parts"))
    assert model_hash(parts) == model_hash(whole)
    assert model_hash(parts / "adapter") == model_hash(whole / "adapter")


def test_another_base_is_refused_and_both_are_named(world: Path, sft: Path, tmp_path: Path) -> None:
    """Mutation: the hash compared with itself."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("comparisons", "demonstrations"):
        (elsewhere / name).symlink_to(world / name)
    (elsewhere / "base").symlink_to(world / "start")
    with pytest.raises(UserError, match="another base") as fault:
        run_dpo(elsewhere, sft, tmp_path)
    for folder in (world / "base", world / "start"):
        assert model_hash(folder / "model")[:8] in fault.value.got


def test_a_model_trained_whole_has_no_adapter(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no adapter"):
        run_dpo(world, world / "sft", tmp_path)
