"""What ensembles of reward models do to over-optimisation on the embedded world: one JSON line.

    python benchmarks/ensembles.py --folder /tmp/ensembles --seeds 0 1 2 3 4
    python benchmarks/ensembles.py --folder /tmp/ensembles --overrides given.sft=FOLDER

The runs are `+experiment=over_optimisation` (1,000 comparisons, no KL penalty): PPO on one reward
model, and on ensembles by their mean, minimum and mean less standard deviation. A seed is that of
the reward models and of PPO; base, SFT, PPO's start, completions and comparisons are the same
throughout. Of each run: gold and proxy of the same held-out prompts at the end, the best gold on
the way, how much the proxy gained, and the KL. Then their mean over the seeds and the standard
deviation. All runs share a store: what is there is reused, a killed benchmark continues.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, stdev

ROOT = Path(__file__).parents[1]
VARIANTS: dict[str, list[str]] = {
    "single": [],
    "mean": ["ensemble=ensemble"],
    "minimum": ["ensemble=ensemble", "ensemble.combine=minimum"],
    "uncertainty": ["ensemble=ensemble", "ensemble.combine=uncertainty"],
}
COLUMNS = {
    "gold_end": "gold at the end",
    "gold_best": "best gold",
    "gold_fall": "fall from the best",
    "proxy_gain": "proxy gained",
    "kl_end": "KL, nats",
    "accuracy_labels": "accuracy by labels",
}
Figures = dict[str, float]


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="store, runs and logs go here")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--overrides", nargs="*", default=[], help="for every run")
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[Figures]] = {variant: [] for variant in options.variants}
    for seed in options.seeds:
        for variant in options.variants:
            common = [f"scale.ppo.iterations={options.iterations}", *options.overrides]
            run(folder, f"{variant}_{seed}", seed, [*VARIANTS[variant], *common])
            runs[variant].append(figures_of(folder / "runs" / f"{variant}_{seed}"))
            print(f"{variant} {seed}: {rounded(runs[variant][-1])}", file=sys.stderr, flush=True)
    spread = {variant: summarised(rows) for variant, rows in runs.items()}
    figures = {"iterations": options.iterations, "seeds": options.seeds, **spread}
    print(json.dumps(figures | {"runs": {v: list(map(rounded, rows)) for v, rows in runs.items()}}))
    print(table(spread), file=sys.stderr)


def run(folder: Path, name: str, seed: int, overrides: Iterable[str]) -> None:
    """One run of the pipeline up to the policy."""
    command = [
        sys.executable, "-m", "pipeline", "run", "+experiment=over_optimisation",
        "to_stage=policy", "executor=local", "tracking=table",
        f"store={folder / 'store'}", f"run_dir={folder / 'runs' / name}",
        f"reward_model.seed={seed}", f"align.seed={seed}", *overrides,
    ]  # fmt: skip
    with (folder / f"{name}.log").open("w") as log:
        subprocess.run(command, cwd=ROOT, check=True, stdout=log, stderr=subprocess.STDOUT)


def figures_of(run_folder: Path) -> Figures:
    """What a finished run came to, from the validations in its policy's journal."""
    stages = json.loads((run_folder / "run.json").read_text())["stages"]
    curves = validations(Path(stages["policy"]["journal"]) / "metrics.jsonl")
    manifest = json.loads((Path(stages["reward_model"]["folder"]) / "manifest.json").read_text())
    gold, proxy = ([row[f"validation/{name}"] for row in curves] for name in ("gold", "proxy"))
    return {
        "gold_start": gold[0],
        "gold_end": gold[-1],
        "gold_best": max(gold),
        "gold_fall": max(gold) - gold[-1],
        "proxy_gain": proxy[-1] - proxy[0],
        "kl_end": curves[-1]["validation/kl"],
        "accuracy_labels": manifest["metrics"]["validation_accuracy_labels"],
    }


def validations(journal: Path) -> list[Figures]:
    """The logged steps that have a validation, the first before any update."""
    steps = [json.loads(line)["values"] for line in journal.read_text().splitlines()]
    return [values for values in steps if "validation/gold" in values]


def summarised(rows: list[Figures]) -> dict[str, Figures]:
    """Mean and standard deviation over the seeds, by figure."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {
        name: rounded({"mean": fmean(column), "sd": stdev(column) if len(column) > 1 else 0.0})
        for name, column in columns.items()
    }


def rounded(figures: Figures) -> Figures:
    """Four digits after the point."""
    return {name: round(value, 4) for name, value in figures.items()}


def table(spread: dict[str, dict[str, Figures]]) -> str:
    """Rows of Markdown, mean ± standard deviation."""
    lines = [["reward", *COLUMNS.values()], ["---"] * (1 + len(COLUMNS))]
    for variant, figures in spread.items():
        cells = [f"{figures[name]['mean']:.3f} ± {figures[name]['sd']:.3f}" for name in COLUMNS]
        lines.append([variant, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
