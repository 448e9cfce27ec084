"""The reward model killed with SIGKILL, once in the middle of a save, ends with equal weights."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reward.model import load_reward_model
from stages.lm.loading import model_hash
from stages.records.schemas import Comparison, Prompt
from stages.records.tables import read_table, write_table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SCRIPT = Path(__file__).with_name("killed_reward_model.py")
SIGKILLED = -9


@pytest.fixture
def inputs(world: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    for name in ("sft", "demonstrations"):
        shutil.copytree(world / name, folder / name)
    comparisons = [
        Comparison(
            prompt=row.prompt,
            completions=["one", "one two", "one two three"],
            source=["sft"] * 3,
            finished=[True] * 3,
            ranks=[3, 2, 1],
        )
        for row in read_table(world / "prompts" / "train.parquet", Prompt)
    ]
    for split in ("train", "validation"):
        write_table(folder / "comparisons" / f"{split}.parquet", comparisons * 2)
    return folder


def run(folder: Path, moment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, str(SCRIPT), str(folder), moment]
    return subprocess.run(command, check=False, capture_output=True, cwd=SCRIPT.parents[3])


def test_killed_twice_and_run_again(inputs: Path, tmp_path: Path) -> None:
    """12 steps with a checkpoint every 3: killed after step 5, then in the next save."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        shutil.copytree(inputs, folder)
    assert run(whole, "never").returncode == 0
    for moment in ("step:5", "save:1"):
        assert run(killed, moment).returncode == SIGKILLED
        assert not (killed / "out").exists()
    done = run(killed, "never")
    assert done.returncode == 0, done.stderr.decode()
    one, other = whole / "out" / "model", killed / "out" / "model"
    assert model_hash(one) == model_hash(other)
    assert load_reward_model(one).reward_bias == load_reward_model(other).reward_bias
