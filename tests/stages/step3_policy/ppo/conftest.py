"""Fixtures for PPO: the stage's inputs, and loops over them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.step3_policy.ppo.config import Select
from tests.stages.step3_policy.ppo.small_ppo import folders_of, judged, small_config, write_inputs


@pytest.fixture
def ppo_inputs(tiny_model_folder: Path, tmp_path: Path) -> dict[str, Path]:
    """The upstream assets of the stage, by keyword."""
    return write_inputs(tiny_model_folder, tmp_path)


@pytest.fixture
def make_loop(ppo_inputs: dict[str, Path], tmp_path: Path) -> Callable[..., Any]:
    """A loop over the tiny models: make_loop(run="run", **changes of the config)."""
    from stages.contracts import Context
    from stages.lm.loading import load_tokenizer
    from stages.step3_policy.ppo.data import load_data
    from stages.step3_policy.ppo.loading import load_roles
    from stages.step3_policy.ppo.loop import PpoLoop

    def make(run: str = "run", **changes: Any) -> PpoLoop:
        config = small_config(**changes)
        start = ppo_inputs["ppo_init"] / "model"
        context = Context.at(tmp_path / run)
        tokenizer, inputs = load_tokenizer(start), (ppo_inputs["prompts"], ppo_inputs["text"])
        data = load_data(config, tokenizer, *inputs, context)
        chosen_by = judged(ppo_inputs) if config.select is Select.proxy_judge else ppo_inputs
        return PpoLoop(
            roles=load_roles(config, folders_of(chosen_by)),
            data=data,
            config=config,
            context=context,
        )

    return make
