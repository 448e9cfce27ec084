"""Grouped K-way comparisons against shuffled pairs on the embedded world: one JSON line.

    python benchmarks/kway_against_pairs.py --folder /tmp/kway --comparisons 1000 --seeds 0 1 2 3 4

InstructGPT trains on all pairs of a prompt as one batch element, because shuffled pairs overfit
within an epoch (§3.5). Here both learn one epoch from the same comparisons by the reward model's
own stage: `grouped` as they are, `pairs` from a table in which each untied pair is a comparison of
K = 2, in random order, with as many pairs an optimizer step on average, hence as many steps. Both
are tuned alike: the learning rate of the lowest validation loss on a seed that is not reported.
Validation is the same for both: held-out K-way comparisons, K-way loss and accuracy.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from random import Random
from statistics import fmean, stdev

from pipeline.composition import compose
from stages.contracts import Context
from stages.lm.process import prepare_process
from stages.records.schemas import Comparison, Demonstration
from stages.records.tables import read_table, write_table
from stages.step2_reward.config import RewardModelConfig
from stages.step2_reward.reward_model import run as train

ROOT = Path(__file__).parents[1]
DEMONSTRATIONS = 256  # they only set the zero, on which neither figure depends
REPORTED = {
    "validation_loss": "validation loss, nats per pair",
    "validation_accuracy_labels": "accuracy by labels",
    "validation_accuracy_gold": "accuracy by gold",
}
Figures = dict[str, float]


def main() -> None:
    """Parse, prepare, tune, train, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="store, tables and models")
    parser.add_argument("--comparisons", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rates", type=float, nargs="+", default=[2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3])
    parser.add_argument("--tuning-seed", type=int, default=100)
    parser.add_argument("--overrides", nargs="*", default=[], help="of the pipeline's run")
    options = parser.parse_args()
    bench = Bench(options.folder.absolute(), options.comparisons, options.overrides)
    found = {}
    for method in ("grouped", "pairs"):
        tuned = {lr: bench.train(method, lr, options.tuning_seed) for lr in options.rates}
        lr = min(tuned, key=lambda rate: tuned[rate]["validation_loss"])
        rows = [bench.train(method, lr, seed) for seed in options.seeds]
        found[method] = {
            "lr": lr,
            "tuning": {rate: round(row["validation_loss"], 4) for rate, row in tuned.items()},
            **bench.sizes(method),
            **{name: summarised([row[name] for row in rows]) for name in REPORTED},
        }
    print(json.dumps({"comparisons": options.comparisons, "seeds": options.seeds, **found}))
    print(table(found), file=sys.stderr)


class Bench:
    """The tables of both methods, and a training on either."""

    def __init__(self, folder: Path, comparisons: int, overrides: list[str]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        setting = [f"completions.train_prompts={comparisons}", *overrides]
        self.config = compose(setting).reward_model
        made = artifacts(folder, "demonstrations", []) | artifacts(folder, "comparisons", setting)
        self.sft, self.demonstrations = made["sft"], folder / "demonstrations"
        rows = read_table(made["demonstrations"] / "train.parquet", Demonstration)
        write_table(self.demonstrations / "train.parquet", rows[:DEMONSTRATIONS])
        grouped = read_table(made["comparisons"] / "train.parquet", Comparison)
        validation = read_table(made["comparisons"] / "validation.parquet", Comparison)
        shuffled = list(pairs_of(grouped))
        Random(0).shuffle(shuffled)
        self.tables = {"grouped": grouped, "pairs": shuffled}
        for method, train_rows in self.tables.items():
            write_table(folder / method / "train.parquet", train_rows)
            write_table(folder / method / "validation.parquet", validation)

    def train(self, method: str, lr: float, seed: int) -> Figures:
        """One epoch; what was trained before is read back."""
        out = self.folder / "models" / f"{method}_{lr:g}_{seed}"
        if not (out / "metrics.json").exists():
            config = replace(self.config, lr=lr, seed=seed, batch_size=self.batch_size(method))
            figures = self._trained(config, method, out)
            (out / "metrics.json").write_text(json.dumps(figures))
        found: Figures = json.loads((out / "metrics.json").read_text())
        told = {name: round(found[name], 4) for name in REPORTED}
        print(f"{method} {lr:g} {seed}: {told}", file=sys.stderr, flush=True)
        return found

    def _trained(self, config: RewardModelConfig, method: str, out: Path) -> Figures:
        prepare_process(config.threads, config.seed)
        out.mkdir(parents=True, exist_ok=True)
        report = train(
            config,
            sft=self.sft,
            comparisons=self.folder / method,
            demonstrations=self.demonstrations,
            out=out,
            context=Context.at(out / "work"),
        )
        return report.metrics

    def batch_size(self, method: str) -> int:
        """Of an optimizer step: the config's comparisons, or as many pairs as these have."""
        if method == "grouped":
            return self.config.batch_size
        teaching = [row for row in self.tables["grouped"] if len(set(row.ranks)) > 1]
        return round(self.config.batch_size * len(self.tables["pairs"]) / len(teaching))

    def sizes(self, method: str) -> dict[str, int]:
        """What one epoch is."""
        rows = [row for row in self.tables[method] if len(set(row.ranks)) > 1]
        return {
            "batch_size": self.batch_size(method),
            "steps": -(-len(rows) // self.batch_size(method)),
            "sequences": sum(len(row.completions) for row in rows),
        }


def artifacts(folder: Path, asset: str, overrides: list[str]) -> dict[str, Path]:
    """The pipeline's run up to an asset: those of the run -> folder."""
    run = folder / "runs" / asset
    command = [
        sys.executable, "-m", "pipeline", "run", f"to_stage={asset}", "executor=local",
        "tracking=table", f"store={folder / 'store'}", f"run_dir={run}", *overrides,
    ]  # fmt: skip
    with (folder / f"{asset}.log").open("w") as log:
        subprocess.run(command, cwd=ROOT, check=True, stdout=log, stderr=subprocess.STDOUT)
    stages = json.loads((run / "run.json").read_text())["stages"]
    return {asset: Path(stage["folder"]) for asset, stage in stages.items()}


def pairs_of(comparisons: list[Comparison]) -> Iterator[Comparison]:
    """Each untied pair as a comparison of two, the better first."""
    for row in comparisons:
        for better, worse in permutations(range(len(row.completions)), 2):
            if row.ranks[better] < row.ranks[worse]:
                chosen = (better, worse)
                yield replace(
                    row,
                    completions=[row.completions[k] for k in chosen],
                    source=[row.source[k] for k in chosen],
                    finished=[row.finished[k] for k in chosen],
                    scores=None if row.scores is None else [row.scores[k] for k in chosen],
                    ranks=[1, 2],
                )


def summarised(column: list[float]) -> Figures:
    """Mean and standard deviation over the seeds."""
    spread = stdev(column) if len(column) > 1 else 0.0
    return {"mean": round(fmean(column), 4), "sd": round(spread, 4)}


def table(found: dict[str, dict[str, object]]) -> str:
    """Rows of Markdown, mean ± standard deviation."""
    heads = ["", "learning rate", "steps", "sequences forwarded", *REPORTED.values()]
    lines = [heads, ["---"] * len(heads)]
    for method, row in found.items():
        cells = [f"{row['lr']:g}", str(row["steps"]), f"{row['sequences']:,}"]
        for name in REPORTED:
            figure = row[name]
            assert isinstance(figure, dict)
            cells.append(f"{figure['mean']:.4f} ± {figure['sd']:.4f}")
        lines.append([method, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
