"""Runs the PPO stage in a process of its own that is killed (SIGKILL) at a chosen point."""

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet  # noqa: F401  # what the stage imports late, so that forks share it
import torch
import transformers.models.llama.modeling_llama  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

from stages.contracts import Context
from stages.lm.engines.hf import HFEngine
from stages.lm.process import prepare_process
from stages.step3_policy.ppo.config import Select
from stages.step3_policy.ppo.roles import PolicyRole
from stages.step3_policy.ppo.stage import run
from tests.stages.step3_policy.ppo.small_ppo import small_config


def run_stage(inputs: dict[str, Path], folder: Path, point: str) -> None:
    """Run, or continue, the stage under `folder`; die at `point` (never at "end")."""
    config = small_config(select=Select.proxy_judge)
    prepare_process(threads=1, seed=config.seed)
    POINTS[point]()
    run(config, **inputs, out=folder / "out", context=Context.at(folder))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_call(owner: Any, name: str, call: int) -> None:
    """Replace a method: it works until its `call`-th call, which does not return."""
    original, calls = getattr(owner, name), []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == call:
            die()
        return original(*args, **kwargs)

    setattr(owner, name, counted)


def die_in_save() -> None:
    """Write half of a checkpoint's bytes, then die."""
    original = torch.save

    def half(state: Any, file: Any) -> None:
        buffer = io.BytesIO()
        original(state, buffer)
        file.write(buffer.getvalue()[: buffer.tell() // 2])
        file.flush()
        die()

    torch.save = half


# Validation samples too: call 1 of generate is the validation before the first iteration.
POINTS: dict[str, Callable[[], None]] = {
    "first rollout": lambda: die_at_call(HFEngine, "generate", 2),
    "second update": lambda: die_at_call(PolicyRole, "step", 4),
    "save": die_in_save,
    "end": lambda: None,
}
