"""What members are told: seeds and data of their own, and nothing of how they are combined."""

from dataclasses import fields, replace

import pytest

from reward.config import Combine
from stages.contracts import UserError
from stages.step2_reward.config import RewardModelConfig
from stages.step2_reward.ensemble_config import EnsembleConfig, MemberData, member_configs

TRAINED = RewardModelConfig(seed=7, lr=0.5, batch_size=3)


def test_members_differ_in_their_seeds_alone() -> None:
    first, second, third = member_configs(TRAINED, EnsembleConfig(members=3))
    assert [first.seed, second.seed, third.seed] == [7, 1007, 2007]
    for spec in fields(TRAINED):
        assert getattr(first, spec.name) == getattr(TRAINED, spec.name)
    assert replace(second, seed=7) == first
    assert list(second.rows(4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("data", [MemberData.all, MemberData.bootstrap])
def test_more_members_leave_the_first_as_they_are(data: MemberData) -> None:
    two, four = EnsembleConfig(members=2, data=data), EnsembleConfig(members=4, data=data)
    assert member_configs(TRAINED, four)[:2] == member_configs(TRAINED, two)


@pytest.mark.parametrize("data", MemberData)
def test_the_rule_is_no_part_of_a_member(data: MemberData) -> None:
    ensemble = EnsembleConfig(members=2, data=data)
    others = replace(ensemble, combine=Combine.uncertainty, uncertainty_coef=3.0)
    assert member_configs(TRAINED, others) == member_configs(TRAINED, ensemble)


@pytest.mark.parametrize("members", [2, 3, 10])
def test_disjoint_parts_are_all_of_the_data(members: int) -> None:
    ensemble = EnsembleConfig(members=members, data=MemberData.disjoint)
    parts = [list(member.rows(10)) for member in member_configs(TRAINED, ensemble)]
    assert sorted(row for part in parts for row in part) == list(range(10))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert parts[0] != list(range(len(parts[0])))  # shuffled: comparisons may be sorted


def test_a_bootstrap_draws_as_many_with_replacement() -> None:
    """A share of 1 - 1/e = 0.632 of the rows is drawn at least once."""
    ensemble = EnsembleConfig(members=2, data=MemberData.bootstrap)
    one, other = (list(member.rows(10_000)) for member in member_configs(TRAINED, ensemble))
    assert one != other
    for rows in (one, other):
        assert len(rows) == 10_000
        assert set(rows) <= set(range(10_000))
        assert len(set(rows)) / 10_000 == pytest.approx(0.632, abs=0.02)


def test_a_rule_without_members_is_refused() -> None:
    with pytest.raises(UserError) as fault:
        EnsembleConfig(combine=Combine.minimum, data=MemberData.bootstrap)
    assert fault.value.got == "combine=minimum, data=bootstrap"
    assert "ensemble=ensemble" in fault.value.do


@pytest.mark.parametrize("wrong", [{"members": 0}, {"members": 2, "uncertainty_coef": -1.0}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(reversed(wrong))):
        EnsembleConfig(**wrong)
