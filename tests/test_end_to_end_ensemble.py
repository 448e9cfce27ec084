"""Ensembles as a user runs them: trained, combined otherwise, given to another run."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.metrics_page import documented_curves, undocumented_figures

TWO = ("ensemble=ensemble", "ensemble.members=2")


def run(folder: Path, name: str, *overrides: str) -> dict[str, str]:
    """Run to the end; asset -> how it ended."""
    own = (f"store={folder / 'store'}", f"run_dir={folder / name}", "executor=local")
    command = [sys.executable, "-m", "pipeline", "run", "+experiment=tiny", *own, *overrides]
    subprocess.run(command, check=True, capture_output=True, text=True)
    stages = json.loads((folder / name / "run.json").read_text())["stages"]
    return {asset: stage["status"] for asset, stage in stages.items()}


def made(statuses: dict[str, str]) -> list[str]:
    return [asset for asset, status in statuses.items() if status == "done"]


@pytest.mark.timeout(600)
def test_an_ensemble_from_the_data_to_the_evaluation(tmp_path: Path) -> None:
    first = run(tmp_path, "mean", *TWO)
    assert {"reward_member_1", "reward_member_2", "reward_model"} < set(made(first))
    summary = json.loads((tmp_path / "mean" / "summary.json").read_text())
    assert undocumented_figures(summary) == []
    assert summary["reward_model"]["members"] == 2
    curves = pq.read_table(tmp_path / "mean" / "metrics.parquet", columns=["name"])
    assert set(curves["name"].to_pylist()) <= documented_curves()
    assert "reward/disagreement" in curves["name"].to_pylist()
    page = (tmp_path / "mean" / "report.html").read_text()
    assert "Accuracy, member 2" in page

    other = run(tmp_path, "minimum", *TWO, "ensemble.combine=minimum")
    assert made(other) == ["reward_model", "policy", "evaluation"]

    given = run(tmp_path, "given", f"given.reward_model={tmp_path / 'minimum'}", "align=best_of_n")
    assert made(given) == ["policy", "evaluation"]
    assert given["reward_model"] == "given"
    (policy,) = (tmp_path / "store" / "policy").glob("*/best_of_n.json")
    assert (policy.parent / "reward_model" / "ensemble.json").is_file()
