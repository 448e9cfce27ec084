"""A run's folder as the pipeline leaves it, with made-up curves: what report and notebook read."""

import itertools
import json
import math
import random
from pathlib import Path

from pipeline.executors.protocol import Status
from pipeline.fingerprint import Parts
from pipeline.manifest import Duration, Manifest, Parent, write_manifest
from pipeline.reporting.outputs import write_outputs
from pipeline.summary import RunRecord, StageRecord
from stages.contracts import Journal

INPUTS = {
    "text": (),
    "demonstrations": (),
    "prompts": (),
    "base": ("text",),
    "sft": ("base", "demonstrations"),
    "ppo_init": ("base", "demonstrations", "text"),
    "completions": ("sft", "prompts"),
    "comparisons": ("completions",),
    "reward_model": ("sft", "comparisons", "demonstrations"),
    "policy": ("ppo_init", "reward_model", "prompts", "text"),
    "evaluation": (
        "policy",
        "sft",
        "ppo_init",
        "base",
        "reward_model",
        "comparisons",
        "prompts",
        "text",
    ),
}
FIGURES = {
    "policy_win_rate_vs_sft": 0.71,
    "policy_win_rate_vs_sft_ci95.low": 0.68,
    "policy_win_rate_vs_sft_ci95.high": 0.74,
    "policy_gold_mean": 0.81,
    "sft_gold_mean": 0.66,
    "policy_perfect": 0.52,
    "sft_perfect": 0.31,
    "policy_eos_rate": 0.99,
    "pretrain_loss_delta": 0.018,
    "sft_win_rate_vs_base": 0.88,
    "reward_model.accuracy_gold": 0.84,
    "reward_model.accuracy_labels": 0.69,
    "reward_model.label_ceiling": 0.76,
}
LAST_KL = 12.0  # nats, growing linearly
HOSTILE = '<script>alert("from a model")</script>'


def write_example_run(
    folder: Path,
    *,
    ready: tuple[str, ...] = tuple(INPUTS),
    iterations: int = 60,
    gold_peak: int | None = None,
) -> RunRecord:
    """A run whose stages in `ready` are done. gold_peak: iteration from which gold falls again."""
    artifacts = {asset: folder.parent / "store" / asset / asset[:4] for asset in ready}
    for asset, artifact in artifacts.items():
        _write_artifact(asset, artifact)
    if "policy" in artifacts:
        _write_policy(Journal(artifacts["policy"] / "journal"), iterations, gold_peak)
    if "evaluation" in artifacts:
        _write_evaluation(artifacts["evaluation"])
    record = RunRecord(
        run=folder.name,
        command="python -m pipeline run +experiment=ppo_ptx",
        status=Status.DONE if len(ready) == len(INPUTS) else Status.INTERRUPTED,
        started=1_800_000_000.0,
        wall_s=312.4,
        cpu_s=587.0,
        peak_pss_gb=2.31,
        stages={asset: _stage_record(asset, artifacts.get(asset)) for asset in INPUTS},
        departures={"align.kl_coef": (0.02, 0.05), "sft.epochs": (16, 4)},
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_outputs(folder, record)
    return record


def fingerprint(asset: str) -> str:
    return (asset.encode().hex() * 8)[:64]


def _stage_record(asset: str, artifact: Path | None) -> StageRecord:
    cached = asset in ("text", "demonstrations", "base")
    done = Status.CACHED if cached else Status.DONE
    return StageRecord(
        status=done if artifact else Status.WAITING,
        inputs={name: name for name in INPUTS[asset]},
        fingerprint=fingerprint(asset),
        folder=str(artifact or ""),
        journal=str(artifact / "journal") if artifact else "",
        seconds=0.0 if cached or not artifact else 42.0 + len(asset),
    )


def _write_artifact(asset: str, folder: Path) -> None:
    journal = Journal(folder / "journal")
    if asset in ("base", "sft", "ppo_init", "reward_model"):
        for step in range(10, 310, 10):
            journal.log(step, {"loss/train": 0.7 + 2.0 / step, "lr": 1e-3, "grad_norm": 1.0})
        for step in (100, 200, 300):
            journal.log(step, {"loss/validation": 0.75 + 2.0 / step})
    write_manifest(folder, artifact_manifest(asset))


def artifact_manifest(asset: str) -> Manifest:
    """What a stage would have said of it."""
    parents = {name: Parent(asset=name, fingerprint=fingerprint(name)) for name in INPUTS[asset]}
    return Manifest(
        kind=asset,
        fingerprint=fingerprint(asset),
        parents=parents,
        parts=Parts(stage=asset, code={}, packages={}, config={}, external={}, parents={}),
        config={},
        seed=0,
        metrics={"validation_loss": 0.757} if asset == "sft" else {},
        contract={},
        time=Duration(started=1.8e9, ended=1.8e9 + 95.0, wall_s=95.0, cpu_s=94.0),
        files={},
    )


def _write_policy(journal: Journal, iterations: int, gold_peak: int | None) -> None:
    noise = random.Random(0)
    for step in range(1, iterations + 1):
        gold = _gold(step, iterations, gold_peak)
        proxy = 1.8 * math.sqrt(step / iterations) + 0.03 * noise.gauss(0, 1)
        kl = LAST_KL * step / iterations
        figures = {
            "rollout/score_mean": proxy,
            "rollout/gold_mean": gold + 0.02 * noise.gauss(0, 1),
            "rollout/kl": kl,
            "rollout/entropy": 1.2 - 0.5 * step / iterations,
            "rollout/response_tokens": 7.5 + noise.gauss(0, 0.2),
            "rollout/eos_rate": 0.97,
            "loss/policy": 0.02 * noise.gauss(0, 1),
            "loss/value": 0.5 / step,
            "loss/ptx": 0.85 + 0.01 * noise.gauss(0, 1),
            "grad_norm/policy": 0.6,
            "grad_norm/ptx": 1.4,
        }
        if step % 5 == 0 or step == 1:
            figures |= {
                "validation/gold": gold + 0.004 * noise.gauss(0, 1),
                "validation/proxy": proxy,
                "validation/kl": kl,
            }
        journal.log(step, figures)


def _gold(step: int, iterations: int, peak: int | None) -> float:
    """Steadily up, or d (alpha - beta log d) with d = sqrt(KL), as in Gao et al. (2022)."""
    if peak is None:
        return 0.66 + 0.16 * math.sqrt(step / iterations)
    distance, at_peak = (math.sqrt(LAST_KL * s / iterations) for s in (step, peak))
    return 0.4 + 0.2 * distance * (1.0 + math.log(at_peak) - math.log(distance))


def _write_evaluation(folder: Path) -> None:
    (folder / "figures.json").write_text(json.dumps(FIGURES))
    edges = [index / 10 for index in range(5, 11)]
    bins = [
        {
            "low": low,
            "high": high,
            "predicted": (low + high) / 2,
            "observed": low,
            "count": 100 - 9 * i,
        }
        for i, (low, high) in enumerate(itertools.pairwise(edges))
    ]
    (folder / "calibration.json").write_text(json.dumps(bins))
    samples = [
        {
            "prompt": f"write {index} words about the cat and the {kind}",
            "kind": kind,
            "sft": f"the cat sees the {kind} .",
            "policy": HOSTILE if index == 0 else f"the {kind} and the cat run home .",
            "sft_gold": 0.5,
            "policy_gold": 1.0,
            "sft_proxy": -0.12,
            "policy_proxy": 0.93,
        }
        for index in range(4)
        for kind in ("river", "dog", "house", "song", "tree")
    ]
    (folder / "samples.json").write_text(json.dumps(samples))
