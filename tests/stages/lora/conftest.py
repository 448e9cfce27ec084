"""The LoRA chain up to the reward model, made once."""

from pathlib import Path

import pytest

from tests.stages.lora.chain import ppo_inputs, run_reward_model, run_sft, write_comparisons
from tests.stages.small_world import write_small_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_small_world(tmp_path_factory.mktemp("world"))
    write_comparisons(folder)
    return folder


@pytest.fixture(scope="session")
def sft(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sft")
    run_sft(world, folder)
    return folder / "out"


@pytest.fixture(scope="session")
def reward_model(world: Path, sft: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward_model")
    run_reward_model(world, sft, folder)
    return folder / "out"


@pytest.fixture(scope="session")
def inputs(world: Path, sft: Path, reward_model: Path) -> dict[str, Path]:
    return ppo_inputs(world, sft, reward_model)
