"""Functions by import path: what is refused before any work, and what a call's failure says."""

import sys
import time
from pathlib import Path

import pytest

from reward.config import RewardConfig
from reward.functions import TimedReward, check_functions, load_function
from reward.text_rewards import RewardError
from reward.text_sum import score_texts, text_components
from stages.contracts import UserError

PROMPTS = [[{"role": "user", "content": "say it"}]] * 2
ROWS = (PROMPTS, ["a b", "a"], [True, False])

SOURCE = """
import math, sys, time

def brevity(prompts, responses, finished):
    return [-len(r.split()) for r in responses]

def about(prompts, responses, finished):
    return [float(p[-1]["content"] in r) + f for p, r, f in zip(prompts, responses, finished)]

def one_argument(responses):
    return [0.0 for _ in responses]

def broken(prompts, responses, finished):
    raise KeyError("tone")

def leaves(prompts, responses, finished):
    sys.exit(3)

def slow(prompts, responses, finished):
    time.sleep(30)

def nan(prompts, responses, finished):
    return [0.0, math.nan]

def short(prompts, responses, finished):
    return [0.0]

number = 3
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with the module `mine_for_tests`."""
    (tmp_path / "mine_for_tests.py").write_text(SOURCE)
    (tmp_path / "torn_for_tests.py").write_text("import json\n1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("mine_for_tests", "torn_for_tests"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.usefixtures("mine")
def test_functions_get_messages_responses_and_whether_they_ended() -> None:
    paths = {"mine_for_tests.brevity": 1.0, "mine_for_tests.about": 2.0}
    components = text_components(RewardConfig(functions=paths))
    rows = (PROMPTS, ["say it", "no"], [True, False])
    assert score_texts(components, *rows) == {
        "mine_for_tests.brevity": [-2.0, -1.0],
        "mine_for_tests.about": [2.0, 0.0],
    }


@pytest.mark.usefixtures("mine")
def test_a_function_without_weight_is_not_called() -> None:
    assert text_components(RewardConfig(functions={"mine_for_tests.broken": 0.0})) == {}


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("path", "got"),
    [
        ("no_such_module.brevity", "No module named 'no_such_module'"),
        ("mine_for_tests.brevty", "the module mine_for_tests has no brevty"),
        ("torn_for_tests.brevity", "ZeroDivisionError"),
        ("mine_for_tests.one_argument", "too many positional arguments"),
        ("mine_for_tests.number", "not a callable"),
    ],
)
def test_what_cannot_be_called_is_refused_with_what_got_and_do(path: str, got: str) -> None:
    with pytest.raises(UserError) as caught:
        load_function(path)
    assert path in caught.value.what
    assert got in caught.value.got
    assert caught.value.do


@pytest.mark.usefixtures("mine")
def test_all_faults_are_found_at_once() -> None:
    paths = ["no_such_module.a", "mine_for_tests.brevity", "mine_for_tests.brevty"]
    assert len(check_functions(paths)) == 2


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("name", "cause", "rows"),
    [
        ("broken", "KeyError: 'tone'", ()),
        ("leaves", "SystemExit: 3", ()),
        ("slow", "no answer within 0.2 s", ()),
        ("nan", "nan is no finite number", (1,)),
        ("short", "2 scores are wanted, got 1", ()),
    ],
)
def test_no_failure_becomes_a_number(name: str, cause: str, rows: tuple[int, ...]) -> None:
    """Mutation: 0 for what failed. A late call is given up, not waited for."""
    path, began = f"mine_for_tests.{name}", time.monotonic()
    config = RewardConfig(functions={path: 1.0}, timeout_s=0.2 if name == "slow" else 60.0)
    with pytest.raises(RewardError) as caught:
        score_texts(text_components(config), *ROWS)
    assert (caught.value.component, caught.value.rows) == (path, rows)
    assert cause in caught.value.cause
    assert time.monotonic() - began < 10.0


def test_the_rows_that_a_component_names_itself_are_kept() -> None:
    def fails(prompts: object, responses: object, finished: object) -> list[float]:
        raise RewardError("judge", [1], "no answer")

    with pytest.raises(RewardError) as caught:
        TimedReward("judge", fails, 5.0)(*ROWS)
    assert caught.value.rows == (1,)
