"""The notebook runs from top to bottom on a run's folder, and is kept without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.pipeline.example_run import write_example_run

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def executed(folder: Path, name: str = "reward_curves") -> nbformat.NotebookNode:
    """The notebook after a run in `folder`; an error in a cell raises."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(folder)}})
    return client.execute()


def texts(notebook: nbformat.NotebookNode) -> str:
    return "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )


@pytest.fixture(autouse=True)
def project_is_importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS.parent))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")


def test_reward_curves_finds_the_peak_of_an_over_optimised_run(tmp_path):
    """Gold of the example rises to iteration 20 of 60, where the KL is 4 and its root 2."""
    write_example_run(tmp_path / "runs" / "over_optimisation-0123abcd", gold_peak=20)
    notebook = executed(tmp_path)
    said = texts(notebook)
    assert "over-optimised: Gold fell while the proxy rose" in said
    peak = float(said.split("peak at sqrt(KL) = ")[1].split()[0])
    assert peak == pytest.approx(2.0, abs=0.1)
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 3


def test_data_tour_accounts_for_every_row(tmp_path):
    """62 rows: one without answers, one said twice, 60 kept; all rankings have K = 3."""
    notebook = executed(tmp_path, "data_tour")
    said = texts(notebook)
    assert "rankings.jsonl" in said.split("field")[0]
    figures = dict(line.split() for line in said.splitlines() if len(line.split()) == 2)
    assert float(figures["rows_in"]) == 62
    assert float(figures["dropped_identical"]) == 1
    kept = float(figures["train_rows"]) + float(figures["validation_rows"])
    dropped = sum(float(v) for k, v in figures.items() if k.startswith("dropped_"))
    assert kept + dropped == 62
    assert float(figures["labelers"]) == 4
    assert "<user>" in said
    assert "<eos>" in said


def test_notebooks_are_kept_without_outputs():
    for path in NOTEBOOKS.rglob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs"), path
            assert cell.get("execution_count") is None, path
