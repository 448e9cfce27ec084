"""bfloat16, activation checkpointing and 8-bit moments in stages that train adapters."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from reward.config import Encoding
from stages.lm.adamw import AdamWKind
from stages.lm.loading import model_hash
from stages.lm.precision import Precision
from tests.stages.lora.chain import run_reward_model, run_sft
from tests.stages.lora.test_supervised import run_dpo


@contextmanager
def product_dtypes() -> Iterator[set[torch.dtype]]:
    """What linear layers gave while gradients were wanted: in training, that is."""
    seen: set[torch.dtype] = set()

    def look(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(module, nn.Linear) and torch.is_grad_enabled():
            seen.add(output.dtype)

    hook = register_module_forward_hook(look)
    yield seen
    hook.remove()


def run(stage: str, world: Path, sft: Path, folder: Path, **changes: Any) -> Path:
    if stage == "sft":
        run_sft(world, folder, epochs=1, **changes)
    elif stage == "reward_model":
        run_reward_model(world, sft, folder, epochs=1.0, **changes)
    else:
        run_dpo(world, sft, folder, **changes)
    return folder / "out" / "model"


@pytest.mark.parametrize("stage", ["sft", "reward_model", "dpo"])
def test_bf16_reaches_the_stage(stage: str, world: Path, sft: Path, tmp_path: Path) -> None:
    """Trained in bfloat16, merged and published in float32: its check of the merge passes."""
    with product_dtypes() as seen:
        run(stage, world, sft, tmp_path / "exact")
    assert torch.bfloat16 not in seen
    with product_dtypes() as seen:
        run(stage, world, sft, tmp_path / "rounded", precision=Precision.bf16)
    assert torch.bfloat16 in seen


@pytest.mark.parametrize("stage", ["sft", "reward_model", "dpo"])
def test_activations_computed_again_give_the_same_model(
    stage: str, world: Path, sft: Path, tmp_path: Path
) -> None:
    apart = {"encoding": Encoding.separate} if stage == "reward_model" else {}
    plain = run(stage, world, sft, tmp_path / "plain", **apart)
    again = run(stage, world, sft, tmp_path / "again", gradient_checkpointing=True)
    assert model_hash(plain) == model_hash(again)


def test_eight_bits_reach_trl(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    eight_bits = pytest.importorskip("bitsandbytes.optim.optimizer").Optimizer8bit
    steps, step = [], eight_bits.step

    def counted(self: Any, closure: Any = None) -> Any:
        steps.append(1)
        return step(self, closure)

    monkeypatch.setattr(eight_bits, "step", counted)
    run_sft(world, tmp_path, epochs=1, optimizer=AdamWKind.adamw_8bit)
    assert len(steps) == 5
