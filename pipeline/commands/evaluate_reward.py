"""`evaluate-reward RUN data/comparisons=FORMAT data.comparisons.path=FILE`: examine a reward model.

RUN is a run, the folder of a reward_model artifact, or a ...ForSequenceClassification folder with
one label. The comparisons: pairs or K ranked completions, in any format that is read (RewardBench:
data/comparisons=reward_bench), from files or the hub.
"""

import json
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from pipeline.commands.serve_reward import find_model
from pipeline.data_overrides import comparison_source
from pipeline.progress import console
from pipeline.summary import RUN_FILE
from stages.contracts import UserError
from stages.records.sources import SourceConfig

if TYPE_CHECKING:
    from stages.records.reading import Loaded
    from stages.records.schemas import Comparison

PARTS = {
    "by_subset": "subset",
    "by_k": "K",
    "by_group": "labeler group",
    "by_ranks_apart": "ranks apart",
    "by_margin": "margin",
}
SHOWN = 40  # rows of one part on the screen; the file has them all


def main(arguments: Sequence[str]) -> int:
    """Score the comparisons, print the table and write the file."""
    asked, overrides = _parse(arguments)
    source = comparison_source(overrides)
    model, about = find_model(asked.run, asked.runs_dir)
    path = asked.out or _default_path(asked, source)
    content = {"reward_model": about} | _evaluated(model, source, asked.max_length)
    _write(path, content)
    _print(content)
    console().print(f"\nall figures: {path}", soft_wrap=True)
    return 0


def _parse(arguments: Sequence[str]) -> tuple[Namespace, list[str]]:
    parser = ArgumentParser(prog="python -m pipeline evaluate-reward", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="a run's id or folder, or a model's folder")
    parser.add_argument(
        "overrides",
        metavar="OVERRIDE",
        nargs="*",
        help="data/comparisons=FORMAT, data.comparisons.KEY=VALUE (docs/reward_model.md)",
    )
    parser.add_argument("--out", type=Path, help="the JSON file; by default in the run's folder")
    parser.add_argument(
        "--max-length", type=int, help="tokens of prompt and completion; by default the model's own"
    )
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    asked = parser.parse_args(arguments)
    return asked, asked.overrides


def _default_path(asked: Namespace, source: SourceConfig) -> Path:
    """In the run's folder, or beside the runs: an artifact's folder is never written to."""
    data = Path(source.path or str(source.hub)).stem
    file = f"evaluate_reward-{source.adapter.rpartition(':')[2]}-{data}.json"
    runs_dir: Path = asked.runs_dir
    for folder in (runs_dir / asked.run, Path(asked.run)):
        if (folder / RUN_FILE).is_file():
            return folder / file
    return runs_dir / file


def _evaluated(model: Path, source: SourceConfig, max_length: int | None) -> dict[str, Any]:
    from stages.records.reading import read_source
    from stages.records.schemas import Comparison

    loaded = read_source(source, Comparison)
    comparisons = list(loaded)
    name = source.path or str(source.hub)
    if not comparisons:
        dropped = ", ".join(f"{n} {why}" for why, n in loaded.account.dropped.items())
        raise UserError(
            f"{name} holds no comparison", got=dropped or "no row", do="give another file"
        )

    from transformers.utils.logging import disable_progress_bar

    from reward.evaluation import evaluate  # torch: after the data was found right

    disable_progress_bar()
    evaluation = evaluate(model, comparisons, name=name, max_length=max_length)
    return {"data": _account(source, loaded)} | evaluation.content()


def _account(source: SourceConfig, loaded: "Loaded[Comparison]") -> dict[str, Any]:
    """Where the comparisons came from, and what became of every row."""
    account = loaded.account
    return {
        "source": asdict(source),
        "revision": loaded.revision,
        "rows": account.rows,
        "used": account.used,
        "dropped": dict(account.dropped),
        "examples_dropped": [str(row) for row in account.examples],
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(scratch, path)


def _print(content: dict[str, Any]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("pairs of", "", "accuracy", "error", "number"):
        table.add_column(heading, justify="left" if heading in ("pairs of", "") else "right")
    _add(table, "all comparisons", content["overall"])
    for part, title in PARTS.items():
        for share in content[part][:SHOWN]:
            _add(table, title, share, share["name"])
    bench = content.get("reward_bench", {"sections": [], "score": None})
    for section in bench["sections"]:
        partly = "" if section["complete"] else " (some subsets are missing)"
        table.add_row("RewardBench", section["name"] + partly, _percent(section["score"]), "", "")
    if bench["score"] is not None:
        table.add_row("RewardBench", "score", _percent(bench["score"]), "", "")
    console().print(table)
    console().print(Text("\n" + "\n".join(_sentences(content))))


def _add(table: Table, title: str, share: dict[str, Any], name: str = "") -> None:
    error = "" if share["error"] is None else _percent(share["error"])
    table.add_row(title, Text(name), _percent(share["accuracy"]), error, f"{share['pairs']:,}")


def _sentences(content: dict[str, Any]) -> list[str]:
    length, data = content["length"], content["data"]
    figures = {
        "expected calibration error": content["calibration"]["expected_error"],
        "the accuracy gold would have": content["label_ceiling"],
        "two labelers agree": content["labelers_agree"],
        "always taking the longer": length["longer_wins"],
        "on pairs of nearly equal length": (length["matched"] or {}).get("accuracy"),
        "the longer scores higher": length["prefers_longer"],
        "labelers prefer the longer": length["labelers_prefer_longer"],
    }
    said = [f"{name}: {_percent(value)}" for name, value in figures.items() if value is not None]
    if length["correlation"] is not None:
        said.append(f"correlation of score and length: {length['correlation']:+.3f}")
    if content["too_long"]:
        said.append(f"left out, above {content['max_length']} tokens: {content['too_long']}")
    return said + [f"rows dropped, {why}: {number}" for why, number in data["dropped"].items()]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
