"""Stop rules: when one fires, and what a run does then; on the real loop."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stages.contracts import Context, InterruptedRunError, UserError
from stages.lm.loading import model_hash
from stages.step3_policy.ppo.config import Select
from stages.step3_policy.ppo.loop import PpoLoop
from stages.step3_policy.ppo.stage import run
from stages.step3_policy.ppo.stopping import StopRules, Watch
from tests.stages.step3_policy.ppo.small_ppo import small_config

FINE = {"rollout/kl": 1.0, "rollout/response_tokens": 10.0, "rollout/eos_rate": 0.99}
ALL = StopRules(
    kl_above=20.0, response_tokens_above=30.0, response_tokens_below=3.0, eos_rate_below=0.9
)


def strikes_after(rules: StopRules, series: list[dict[str, float]]) -> dict[str, int]:
    strikes: dict[str, int] = {}
    for figures in series:
        strikes = rules.strikes(strikes, figures)
    return strikes


@pytest.mark.parametrize(
    ("figure", "value", "rule"),
    [
        ("kl", 20.1, "kl_above"),
        ("response_tokens", 30.5, "response_tokens_above"),
        ("response_tokens", 2.9, "response_tokens_below"),
        ("eos_rate", 0.89, "eos_rate_below"),
    ],
)
def test_each_rule_fires_on_its_own_figure(figure: str, value: float, rule: str) -> None:
    """Mutations: `>` for `<`; one rule's limit for another's."""
    assert strikes_after(ALL, [FINE]) == {}
    strikes = strikes_after(ALL, [FINE | {f"rollout/{figure}": value}] * 3)
    assert strikes == {rule: 3}
    assert ALL.fired(strikes) == rule


def test_a_limit_is_not_broken_at_itself_and_no_rule_is_none() -> None:
    at_limits = {"rollout/kl": 20.0, "rollout/response_tokens": 30.0, "rollout/eos_rate": 0.9}
    assert strikes_after(ALL, [at_limits]) == {}
    far = {"rollout/kl": 1e9, "rollout/response_tokens": 0.0, "rollout/eos_rate": 0.0}
    assert strikes_after(StopRules(), [far] * 9) == {}


def test_patience_counts_times_in_a_row() -> None:
    """Mutation: times altogether."""
    broken = FINE | {"rollout/kl": 50.0}
    series = [broken, broken, FINE, broken, broken]
    assert strikes_after(ALL, series) == {"kl_above": 2}
    assert ALL.fired({"kl_above": 2}) == ""
    assert ALL.fired({"kl_above": 3}) == "kl_above"


def test_iterations_without_validation_neither_count_nor_forgive() -> None:
    """Mutation: strikes forgotten where there is nothing to see."""
    rules = StopRules(kl_above=2.0, patience=2, watch=Watch.validation)
    broken = FINE | {"validation/kl": 5.0}
    assert strikes_after(rules, [broken, FINE, FINE, broken]) == {"kl_above": 2}
    assert strikes_after(rules, [FINE | {"rollout/kl": 99.0}] * 4) == {}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kl_above": 0.0}, "kl_above"),
        ({"eos_rate_below": 1.5}, "eos_rate_below"),
        ({"patience": 0}, "patience"),
    ],
)
def test_impossible_rules_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        StopRules(**changes)


def rollout_figures(loop: PpoLoop) -> dict[int, dict[str, float]]:
    path = loop.context.checkpoints.parent / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return {record["step"]: record["values"] for record in records}


# On the tiny models: limits broken from the first iteration, or, of the KL, once it is not 0.
@pytest.mark.parametrize(
    ("rule", "limit", "changes"),
    [
        ("response_tokens_above", 0.5, {}),
        ("response_tokens_below", 8.5, {}),
        ("eos_rate_below", 1.0, {"max_response_tokens": 2}),
        ("kl_above", 1e-4, {"policy_lr": 0.02, "kl_coef": 0.0}),
    ],
)
@pytest.mark.parametrize("watch", list(Watch))
def test_each_rule_ends_a_real_loop(
    make_loop: Callable[..., PpoLoop],
    rule: str,
    limit: float,
    changes: dict[str, float],
    watch: Watch,
) -> None:
    """It ends at the second broken observation, with a validation of its last weights.

    Mutations: the loop's condition; no validation at the stop; the rule read before the iteration.
    """
    stop = StopRules(patience=2, watch=watch, **{rule: limit})
    loop = make_loop(iterations=8, stop=stop, **({"policy_lr": 1e-4} | changes))
    state = loop.train()
    assert state.stopped_by == rule
    logged = rollout_figures(loop)
    assert max(logged) == state.iterations < 8
    assert "validation/kl" in logged[state.iterations]
    watched = {step: values for step, values in logged.items() if step and f"{watch}/kl" in values}
    broken = [bool(stop.strikes({}, values)) for _, values in sorted(watched.items())]
    assert broken[-2:] == [True, True]
    assert not any(both == (True, True) for both in pairwise(broken[:-1]))


def test_a_stopped_run_publishes_says_why_and_does_not_continue(
    ppo_inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a run of that many iterations; and once more after a kill before it was published.

    Mutations: no checkpoint at the stop; a resumed run that trains on, or trains again.
    """

    def made(folder: str, **changes: Any) -> Any:
        config = small_config(checkpoint_every=100, select=Select.last, **changes)
        root = tmp_path / folder
        return run(config, **ppo_inputs, out=root / "out", context=Context.at(root))

    rules = StopRules(response_tokens_above=0.5, patience=2)
    report = made("stopped", iterations=6, stop=rules)
    assert report.metrics["stopped_by.response_tokens_above"] == 2.0
    assert report.metrics["iterations"] == 2.0
    assert "validation.kl" in report.metrics
    short = made("short", iterations=2)
    assert not any(name.startswith("stopped_by") for name in short.metrics)

    monkeypatch.setattr(PpoLoop, "iterate", None)
    again = made("stopped", iterations=6, stop=rules)
    assert again.metrics == report.metrics
    steps = [json.loads(x)["step"] for x in (tmp_path / "stopped" / "metrics.jsonl").open()]
    assert steps == [0, 1, 2]
    hashes = {model_hash(tmp_path / name / "out" / "model") for name in ("stopped", "short")}
    assert len(hashes) == 1


def test_strikes_survive_a_stop_in_between(make_loop: Callable[..., PpoLoop]) -> None:
    """Interrupted after the first broken iteration, the next run ends after one more."""
    rules = StopRules(response_tokens_above=0.5, patience=2)
    first = make_loop(iterations=6, stop=rules)
    first.context.should_stop = lambda: True
    with pytest.raises(InterruptedRunError):
        first.train()
    state = make_loop(iterations=6, stop=rules).train()
    assert (state.iterations, state.stopped_by) == (2, "response_tokens_above")
