"""The PPO stage from artifacts to artifact."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.contracts import Context, Report, UserError
from stages.lm.loading import load_causal_lm, model_hash
from stages.step3_policy.ppo.config import Select
from stages.step3_policy.ppo.stage import run
from tests.stages.step3_policy.ppo.small_ppo import small_config


def run_stage(inputs: dict[str, Path], folder: Path, **changes: Any) -> Report:
    config = small_config(**changes)
    return run(config, **inputs, out=folder / "out", context=Context.at(folder))


def test_publishes_models_figures_and_contract(ppo_inputs: dict[str, Path], tmp_path: Path) -> None:
    """The default is the paper's: the average is the policy."""
    report = run_stage(ppo_inputs, tmp_path / "run")
    out = tmp_path / "run" / "out"
    assert model_hash(out / "model") == model_hash(out / "ema")
    assert model_hash(out / "model") != model_hash(ppo_inputs["ppo_init"] / "model")
    assert report.contract["max_length"] == 24
    assert {"validation.proxy", "validation.kl", "best.proxy", "best.iteration"} <= set(
        report.metrics
    )
    tables = (tmp_path / "run" / "tables.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in tables] == [0, 2, 3]
    assert set(json.loads(tables[0])["rows"][0]) == {
        "prompt",
        "response",
        "finished",
        "proxy",
        "kl",
    }


def test_last_weights_are_not_the_average(ppo_inputs: dict[str, Path], tmp_path: Path) -> None:
    """Mutation: `averaged` working on the policy itself."""
    run_stage(ppo_inputs, tmp_path / "run", select=Select.last)
    out = tmp_path / "run" / "out"
    assert model_hash(out / "model") != model_hash(out / "ema")


def test_proxy_keeps_the_best_validated_weights(
    ppo_inputs: dict[str, Path], tmp_path: Path
) -> None:
    """A rate at which training ruins the policy: the start was best, and is what is kept."""
    report = run_stage(
        ppo_inputs, tmp_path / "run", select=Select.proxy, missing_eos_penalty=100.0, policy_lr=0.05
    )
    kept = load_causal_lm(tmp_path / "run" / "out" / "model")
    curve = validation_curve(tmp_path / "run")
    best = max(curve, key=lambda step: curve[step])
    assert report.metrics["best.iteration"] == best
    assert report.metrics["best.proxy"] == curve[best]
    start = load_causal_lm(ppo_inputs["ppo_init"] / "model")
    same = all(map(torch.equal, kept.parameters(), start.parameters()))
    assert same == (best == 0)


def validation_curve(folder: Path) -> dict[int, float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines if "validation/proxy" in line]
    return {record["step"]: record["values"]["validation/proxy"] for record in records}


def test_what_does_not_fit_the_model_is_refused(
    ppo_inputs: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="context") as caught:
        run_stage(ppo_inputs, tmp_path / "run", max_response_tokens=60)
    assert "64" in caught.value.do


def test_no_prompt_short_enough_is_refused(ppo_inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="short enough") as caught:
        run_stage(ppo_inputs, tmp_path / "run", max_prompt_tokens=2)
    assert "max_prompt_tokens" in caught.value.do
