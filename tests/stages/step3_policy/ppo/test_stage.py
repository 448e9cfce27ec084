"""The PPO stage from artifacts to artifact."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stages.contracts import Context, GoldKind, Report, UserError
from stages.lm.loading import load_causal_lm, model_hash
from stages.step3_policy.ppo import loading
from stages.step3_policy.ppo.config import Select
from stages.step3_policy.ppo.stage import run
from tests.stages.step3_policy.ppo.small_ppo import judged, small_config


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
    assert {"validation.proxy", "validation.kl", "kl_coef"} <= set(report.metrics)
    assert report.metrics["iterations"] == 3
    assert not any(name.startswith(("best.", "stopped_by.")) for name in report.metrics)
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


def test_the_judge_keeps_its_best_validated_weights(
    ppo_inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge that likes the policy after its first iteration: as if training had ended there.

    Mutations: the weights with the best proxy kept; the last weights kept; no clone of the best.
    """
    verdicts = iter([0.0, 9.0, 1.0, 2.0])  # before the first iteration, and after each
    judge = SimpleNamespace(scores=lambda batch: torch.full((4,), next(verdicts)))
    monkeypatch.setattr(loading, "load_judge", lambda config, folder: judge)
    chosen = {"select": Select.proxy_judge, "validation_every": 1}
    report = run_stage(judged(ppo_inputs), tmp_path / "run", **chosen)
    assert (report.metrics["best.iteration"], report.metrics["best.judge"]) == (1.0, 9.0)
    assert report.metrics["validation.judge"] == 2.0
    run_stage(ppo_inputs, tmp_path / "short", iterations=1, select=Select.last)
    kept, after_one = (model_hash(tmp_path / r / "out" / "model") for r in ("run", "short"))
    assert kept == after_one


def test_a_real_judge_chooses_by_its_own_scores(
    ppo_inputs: dict[str, Path], tmp_path: Path
) -> None:
    """The second reward model's figures are logged, and are not the first one's."""
    report = run_stage(judged(ppo_inputs), tmp_path / "run", select=Select.proxy_judge)
    curve, proxy = (validation_curve(tmp_path / "run", name) for name in ("judge", "proxy"))
    assert curve.keys() == proxy.keys() == {0, 2, 3}
    assert all(curve[step] != proxy[step] for step in curve)
    assert report.metrics["best.judge"] == max(curve.values())


def test_gold_chooses_where_it_is_known_and_the_first_of_equals(
    ppo_inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Always the same gold: nothing got better than the start. Mutation: `<` for `<=`."""
    monkeypatch.setattr("stages.world.gold.gold_reward", lambda prompt, text, finished: 0.5)
    report = run_stage(ppo_inputs, tmp_path / "run", select=Select.gold, gold=GoldKind.world)
    assert (report.metrics["best.gold"], report.metrics["best.iteration"]) == (0.5, 0.0)
    start = load_causal_lm(ppo_inputs["ppo_init"] / "model")
    kept = load_causal_lm(tmp_path / "run" / "out" / "model")
    assert all(map(torch.equal, kept.parameters(), start.parameters()))


def validation_curve(folder: Path, name: str) -> dict[int, float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines if f"validation/{name}" in line]
    return {record["step"]: record["values"][f"validation/{name}"] for record in records}


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
