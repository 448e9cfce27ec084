"""The figures of the embedded default: one JSON line, and the README's table on standard error.

    python benchmarks/world_figures.py --folder /tmp/figures --repeats 3 --seeds 0 1 2

The main job runs `--repeats` times from an empty store (its best wall time counts), then the three
alignments run once a seed on the last store, then the claims about reuse and executors are checked.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

ALIGNMENTS = ("ppo_ptx", "ppo", "dpo")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="stores and runs go here")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--overrides", nargs="*", default=[], help="for every run, e.g. tracking=table"
    )
    options = parser.parse_args()
    runs = Runs(options.folder, options.overrides)
    figures = {
        "main": main_job(runs, options.repeats),
        "alignments": {kind: alignment(runs, kind, options.seeds) for kind in ALIGNMENTS},
        "reuse": reuse(runs),
        "executors": executors(runs),
    }
    print(json.dumps(figures))
    print(table(figures), file=sys.stderr)


class Runs:
    """Runs of the pipeline in folders of their own."""

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        self.folder, self.overrides = folder, overrides
        self.store = folder / "store_0"
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, *overrides: str) -> dict[str, Any]:
        """Run once; the summary, with the wall time of the whole process as `process_s`."""
        run_dir = self.folder / "runs" / name
        command = [
            sys.executable, "-m", "pipeline", "run", "+experiment=ppo_ptx",
            f"store={self.store}", f"run_dir={run_dir}", *self.overrides, *overrides,
        ]  # fmt: skip
        started = time.perf_counter()
        with (self.folder / f"{name}.log").open("w") as log:
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
        summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
        summary["process_s"] = round(time.perf_counter() - started, 2)
        summary["stages"] = json.loads((run_dir / "run.json").read_text())["stages"]
        return summary


def main_job(runs: Runs, repeats: int) -> dict[str, Any]:
    """The main job from an empty store; the repeat of least wall time."""
    summaries = []
    for repeat in range(repeats):
        runs.store = runs.folder / f"store_{repeat}"
        shutil.rmtree(runs.store, ignore_errors=True)
        summaries.append(runs.run(f"main_{repeat}"))
    best = min(summaries, key=lambda summary: summary["wall_s"])
    kept = ("wall_s", "cpu_s", "peak_pss_gb", "process_s", "reward_model", "evaluation")
    seconds = {asset: stage["seconds"] for asset, stage in best["stages"].items()}
    return {key: best[key] for key in kept} | {"stage_s": seconds}


def alignment(runs: Runs, kind: str, seeds: list[int]) -> dict[str, Any]:
    """One alignment over its seeds: each figure as a list, and the mean of the win rates."""
    summaries = [
        runs.run(f"{kind}_{seed}", f"align={kind}", f"align.seed={seed}")["evaluation"]
        for seed in seeds
    ]
    names = [name for name, value in summaries[0].items() if isinstance(value, int | float)]
    figures: dict[str, Any] = {name: [summary[name] for summary in summaries] for name in names}
    figures["ci95"] = [summary["policy_win_rate_vs_sft_ci95"] for summary in summaries]
    figures["mean_win_rate"] = mean(figures["policy_win_rate_vs_sft"])
    return figures


def reuse(runs: Runs) -> dict[str, Any]:
    """What a second identical run and a change of the KL coefficient execute."""
    again = runs.run("again")
    again = runs.run("again")
    changed = runs.run("kl_coef", "align.kl_coef=0.031")
    return {
        "second_run_s": again["process_s"],
        "second_run_executed": executed(again),
        "kl_coef_executed": executed(changed),
    }


def executors(runs: Runs) -> dict[str, Any]:
    """The model hashes of the local executor beside those of Ray."""
    by_ray = hashes(runs.store)
    runs.store = runs.folder / "store_local"
    shutil.rmtree(runs.store, ignore_errors=True)
    local = runs.run("local", "executor=local")
    by_local = hashes(runs.store)
    return {
        "local_wall_s": local["wall_s"],
        "same_models": all(
            by_ray.get(fingerprint) == value for fingerprint, value in by_local.items()
        ),
        "models": len(by_local),
    }


def hashes(store: Path) -> dict[str, str]:
    """Fingerprint -> model hash of every published model."""
    manifests = [json.loads(path.read_text()) for path in store.glob("*/*/manifest.json")]
    models = [manifest for manifest in manifests if manifest["model_sha256"]]
    return {manifest["fingerprint"]: manifest["model_sha256"] for manifest in models}


def executed(summary: dict[str, Any]) -> list[str]:
    """Assets that a run made itself."""
    return [asset for asset, stage in summary["stages"].items() if stage["status"] == "done"]


def table(figures: dict[str, Any]) -> str:
    """The README's table."""
    job, rows = figures["main"], []
    for name in ("wall_s", "cpu_s", "peak_pss_gb"):
        rows.append((name, f"{job[name]:.1f}"))
    rows += [(f"reward_model.{name}", f"{value:.3f}") for name, value in job["reward_model"].items()
             if isinstance(value, float)]  # fmt: skip
    for kind, values in figures["alignments"].items():
        for name in (
            "policy_win_rate_vs_sft",
            "policy_gold_mean",
            "policy_perfect",
            "pretrain_loss_delta",
        ):
            rows.append((f"{kind}: {name}", ", ".join(f"{value:.3f}" for value in values[name])))
    return "\n".join(f"| `{name}` | {value} |" for name, value in rows)


if __name__ == "__main__":
    main()
