"""The group `reward`: where it counts, what is told of it before any work, whose source counts."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts import Store
from pipeline.composition import compose
from pipeline.config import run_id, selection, stage_configs
from pipeline.errors import FaultsError
from pipeline.fingerprint import external_digests
from pipeline.planning import Plan, make_plan
from pipeline.preflight import run_faults
from pipeline.workflow import workflow
from stages.contracts import UserError
from stages.step3_policy.ppo.config import PpoConfig

BREVITY = "reward.functions={rewards_for_tests.brevity: 0.5}"
SOURCE = '''
from helpers_for_tests import words

def brevity(prompts, responses, finished):
    """Short ones."""
    return [-float(words(response)) for response in responses]
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with a reward and a helper beside it."""
    (tmp_path / "rewards_for_tests.py").write_text(SOURCE)
    helper = "def words(text):\n    return len(text.split())\n"
    (tmp_path / "helpers_for_tests.py").write_text(helper)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("rewards_for_tests", "helpers_for_tests"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


def digests(*overrides: str) -> dict[str, str]:
    return external_digests(compose(list(overrides)).align, "policy")


def plan_of(folder: Path, *overrides: str) -> tuple[Plan, list[UserError]]:
    config = compose([*overrides, f"store={folder}/store"])
    graph = workflow(stage_configs(config))
    return make_plan(graph, selection(config), Store(config.store), folder / "runs")


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize("align", ["ppo_ptx", "ppo", "grpo", "rloo", "reinforce_pp"])
def test_every_kind_of_ppo_takes_the_reward_of_the_group(align: str) -> None:
    config = compose([f"align={align}", BREVITY, "reward=sum", "reward.clip=5"]).align
    assert isinstance(config, PpoConfig)
    assert config.reward.weights() == {
        "model": 1.0,
        "rewards_for_tests.brevity": 0.5,
        "rules.length": 0.5,
    }


def test_the_options_are_what_they_are_called() -> None:
    rules = compose(["reward=rules"]).reward.weights()
    assert rules == {"rules.finished": 0.5, "rules.length": 1.0}
    function = compose(["reward=function", "reward.functions={a.b: 1}"]).reward.weights()
    assert function == {"a.b": 1.0}
    with pytest.raises((UserError, FaultsError), match="no component has a weight"):
        compose(["reward=function"])


def test_the_reward_counts_where_it_is_used() -> None:
    assert run_id(compose(["reward=sum"])) != run_id(compose([]))
    assert run_id(compose(["reward.timeout_s=5"])) == run_id(compose([]))


@pytest.mark.parametrize(
    "override", ["reward.rules.length.min_words=-1", "+reward.model.bias=3", "reward.clip=0"]
)
def test_a_fault_is_told_once_with_the_key_that_was_typed(override: str) -> None:
    with pytest.raises((UserError, FaultsError)) as caught:
        compose([override])
    assert "align.reward" not in str(caught.value)
    assert "reward." in str(caught.value)


def test_the_source_counts_and_that_of_what_lies_beside_it(mine: Path) -> None:
    """Comments and docstrings do not. Mutation: the helper left out."""
    before = digests(BREVITY)
    assert set(before) == {"reward.functions.rewards_for_tests.brevity"}
    (mine / "rewards_for_tests.py").write_text(f"# mine\n{SOURCE.replace('Short', 'Brief')}")
    assert digests(BREVITY) == before
    (mine / "rewards_for_tests.py").write_text(SOURCE.replace("-float", "float"))
    edited = digests(BREVITY)
    assert edited != before
    (mine / "helpers_for_tests.py").write_text("def words(text):\n    return len(text)\n")
    assert digests(BREVITY) != edited
    assert "rewards_for_tests" not in sys.modules, "fingerprints import nothing"


def test_a_changed_source_is_named_and_makes_the_policy_again(mine: Path) -> None:
    first = plan_of(mine, BREVITY)[0].stages["policy"]
    (mine / "rewards_for_tests.py").write_text(SOURCE.replace("-float", "float"))
    second = plan_of(mine, BREVITY)[0].stages["policy"]
    assert first.fingerprint != second.fingerprint
    weightier = plan_of(mine, BREVITY.replace("0.5", "0.7"))[0].stages["policy"]
    assert weightier.fingerprint != second.fingerprint


def test_a_module_that_is_not_there_is_told_by_the_plan(tmp_path: Path) -> None:
    _, faults = plan_of(tmp_path, "reward.functions={no_such_rewards.brevity: 1.0}")
    assert [fault.got for fault in faults] == ["no_such_rewards.brevity"]
    assert "no_such_rewards.py" in faults[0].do


def test_a_name_that_is_not_there_is_told_before_any_work(mine: Path) -> None:
    plan, faults = plan_of(mine, "reward.functions={rewards_for_tests.brevty: 1.0}")
    assert not faults
    (fault,) = run_faults(plan, mine / "runs" / "run")
    assert fault.got == "the module rewards_for_tests has no brevty"


@pytest.mark.parametrize(
    "overrides", [["align=dpo", "reward=sum"], ["align=best_of_n", "reward.clip=3"]]
)
def test_a_reward_that_nobody_maximises_is_refused(overrides: list[str]) -> None:
    with pytest.raises((UserError, FaultsError), match="leave reward out"):
        compose(overrides)


def test_training_and_evaluation_have_one_reward() -> None:
    config = compose([])
    other = replace(config.evaluation, reward=replace(config.reward, clip=3.0))
    with pytest.raises(UserError, match="one for training and evaluation"):
        replace(config, evaluation=other)


def test_a_run_without_a_reward_model_plans_no_comparison(tmp_path: Path) -> None:
    plan, faults = plan_of(tmp_path, "+experiment=tiny", "reward=rules")
    assert not faults
    assert list(plan.stages)[-2:] == ["policy", "evaluation"]
    assert not {"completions", "comparisons", "reward_model"} & plan.stages.keys()
