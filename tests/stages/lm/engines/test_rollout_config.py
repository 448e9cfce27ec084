"""What the settings of rollouts refuse, and what they warn of."""

from pathlib import Path
from typing import Any

import pytest

from stages.contracts import UserError
from stages.lm.engines.config import (
    Correction,
    EngineKind,
    RolloutConfig,
    check_engine,
    sampling_cautions,
)
from stages.lm.engines.vllm_client import environment


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"async_steps": 2, "correction": Correction.mask}, "async_steps must be 0 or 1"),
        ({"async_steps": 1}, "async_steps=1 needs a correction"),
        ({"mask_below": 1.5}, "mask_below must be less than 1"),
        ({"mask_above": 0.9}, "mask_below must be less than 1"),
        ({"truncate_above": 0.0}, "truncate_above must be positive"),
        ({"max_logprob_diff": -1.0}, "max_logprob_diff must be positive"),
        ({"top_p": 0.0}, "top_p must lie in"),
        ({"top_k": -3}, "top_k must not be negative"),
        ({"restarts": -1}, "restarts must not be negative"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        RolloutConfig(**changes)


@pytest.mark.parametrize("changes", [{"top_p": 0.9}, {"top_k": 50}])
def test_truncated_training_is_allowed_with_a_caution(changes: dict[str, Any]) -> None:
    """Plain sampling says nothing."""
    (caution,) = sampling_cautions(RolloutConfig(**changes))
    assert "not the policy's own" in caution
    assert sampling_cautions(RolloutConfig()) == []


def test_a_missing_environment_is_named_with_its_target(tmp_path: Path) -> None:
    absent = str(tmp_path / "python")
    with pytest.raises(UserError) as caught:
        check_engine(RolloutConfig(kind=EngineKind.vllm, python=absent))
    assert absent in caught.value.got
    assert "make vllm" in caught.value.do
    check_engine(RolloutConfig(kind=EngineKind.hf, python=absent))
    (tmp_path / "python").touch()
    check_engine(RolloutConfig(kind=EngineKind.vllm, python=absent))


def test_its_process_does_not_see_our_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("KEPT", "yes")
    variables = environment(threads=3)
    assert "PYTHONPATH" not in variables
    assert (variables["KEPT"], variables["OMP_NUM_THREADS"]) == ("yes", "3")
