"""SFT and DPO killed with SIGKILL, once in the middle of a save, end with bit-identical weights."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stages.lm.loading import model_hash
from stages.records.schemas import Comparison, Demonstration
from stages.records.tables import write_table
from tests.stages import killed_stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SCRIPT = Path(killed_stage.__file__)
TEXTS = ["the cat is red .", "the dog", "red red red"]
SIGKILLED = -9


@pytest.fixture
def inputs(tmp_path, tiny_model_folder):
    prompts = [[{"role": "user", "content": f"write about the {w}"}] for w in ("cat", "dog") * 10]
    demonstrations = [Demonstration(prompt=p, response=TEXTS[n % 3]) for n, p in enumerate(prompts)]
    comparisons = [
        Comparison(
            prompt=prompt,
            completions=TEXTS,
            source=["sft"] * 3,
            finished=[True] * 3,
            ranks=[1, 2, 3],
        )
        for prompt in prompts
    ]
    folder = tmp_path / "inputs"
    shutil.copytree(tiny_model_folder, folder / "base")
    for split in ("train", "validation"):
        write_table(folder / "demonstrations" / f"{split}.parquet", demonstrations)
        write_table(folder / "comparisons" / f"{split}.parquet", comparisons)
    return folder


def run(stage, folder, moment):
    command = [sys.executable, str(SCRIPT), stage, str(folder), moment]
    return subprocess.run(command, check=False, capture_output=True, cwd=SCRIPT.parents[2])


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_killed_twice_and_run_again(inputs, tmp_path, stage):
    """SFT makes 15 steps, DPO 15, with a checkpoint every 4: killed after 6, then in a save."""
    whole, killed, here = (tmp_path / name for name in ("whole", "killed", "here"))
    for folder in (whole, killed, here):
        shutil.copytree(inputs, folder)
    assert run(stage, whole, "never").returncode == 0
    for moment in ("step:6", "save:2"):
        assert run(stage, killed, moment).returncode == SIGKILLED
        assert not (killed / "out").exists()
    done = run(stage, killed, "never")
    assert done.returncode == 0, done.stderr.decode()
    killed_stage.main(stage, here, "never")  # in this process, after whatever ran before
    hashes = {model_hash(folder / "out" / "model") for folder in (whole, killed, here)}
    assert len(hashes) == 1
