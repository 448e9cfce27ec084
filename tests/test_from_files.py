"""The whole workflow from local files alone: no module of the embedded world can be imported."""

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.metrics_page import undocumented_figures

WITHOUT_THE_WORLD = (
    "import sys; sys.modules['stages.world'] = None; from pipeline.__main__ import main; main()"
)
THINGS = ["lamp", "river", "violin", "harbour", "orange", "window", "garden", "letter"]
COLOURS = ["green", "pale", "dark", "bright"]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def sentence(random: Random) -> str:
    colour, thing, place = (random.choice(words) for words in (COLOURS, THINGS, THINGS))
    return f"The {colour} {thing} stood by the {place}."


def local_files(folder: Path) -> list[str]:
    """The four files and the overrides that name them; some prompts are far too long."""
    random = Random(0)
    ask = [
        f"Say something of the {c} {t}, number {n}."
        for n in range(4)
        for c in COLOURS
        for t in THINGS
    ]
    folder.mkdir(exist_ok=True)
    return [
        "data/demonstrations=generic",
        "data.demonstrations.columns={prompt: question, response: answer}",
        "data.demonstrations.path="
        + write(folder / "d.jsonl", [{"question": a, "answer": sentence(random)} for a in ask]),
        "data/prompts=generic",
        "data.prompts.rules.split={validation: 16, test: 16}",
        "data.prompts.path="
        + write(folder / "p.jsonl", [{"prompt": a} for a in [*ask, "too long " * 300]]),
        "data/comparisons=generic",
        "data.comparisons.rules.split.validation=16",
        "data.comparisons.path="
        + write(
            folder / "c.jsonl",
            [
                {
                    "prompt": a,
                    "completions": [sentence(random), "No.", "A lamp."],
                    "ranks": [1, 3, 2],
                }
                for a in ask
            ],
        ),
        "data/text=plain_text",
        f"data.text.path={write_text(folder / 't.txt', random)}",
    ]


def write_text(path: Path, random: Random) -> Path:
    path.write_text("\n\n".join(" ".join(sentence(random) for _ in range(4)) for _ in range(200)))
    return path


def start(folder: Path, command: str, *overrides: str) -> str:
    own = [f"store={folder / 'store'}", f"run_dir={folder / 'run'}", "executor=local"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_WORLD, command, "+experiment=tiny", *own, *overrides],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_workflow_runs_from_local_files_alone(tmp_path: Path) -> None:
    files = [*local_files(tmp_path / "files"), "base.max_words=400"]
    looked = start(tmp_path, "data", *files)
    assert "demonstrations (lengths in words)" in looked
    assert "run the workflow first" not in looked
    page = (tmp_path / "run" / "data.html").read_text()
    assert "Say something of the" in page
    assert "http://" not in page

    start(tmp_path, "run", *files)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    stages = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    assert undocumented_figures(summary) == []
    assert "completions" not in stages
    assert {stages[asset]["status"] for asset in ("demonstrations", "text")} == {"cached"}
    rows = summary["prompts"]
    kept = sum(rows[f"{split}_rows"] for split in ("train", "validation", "test"))
    assert rows["rows_in"] == kept + sum(v for k, v in rows.items() if k.startswith("dropped_"))
    too_long = [summary["policy"][f"{split}_prompts_too_long"] for split in ("train", "validation")]
    assert sum(too_long) + summary["evaluation"]["prompts_too_long"] == 1
    assert 0 < summary["evaluation"]["pretrain_tokens"] < 400  # all there is
    assert "policy_win_rate_vs_sft" not in summary["evaluation"]
    assert 0 <= summary["evaluation"]["policy_proxy_win_rate_vs_sft"] <= 1
    assert "Gold reward" not in (tmp_path / "run" / "report.html").read_text()
