"""Rules by hand, and their settings."""

from typing import Any

import pytest

from reward.config import (
    FinishedRule,
    LengthRule,
    RegexRule,
    RewardConfig,
    RulesConfig,
    WordsRule,
)
from reward.rules import rules_of
from reward.text_sum import score_texts, text_components
from stages.contracts import UserError


def scores_of(rules: RulesConfig, *responses: str, finished: bool = True) -> dict[str, list[float]]:
    prompts = [[{"role": "user", "content": "say it"}]] * len(responses)
    return score_texts(rules_of(rules), prompts, responses, [finished] * len(responses))


def test_length_falls_off_outside_its_window() -> None:
    """2 of the 4 words wanted: 1/2; 9 where 6 are allowed: 6/9."""
    rules = RulesConfig(length=LengthRule(weight=1.0, min_words=4, max_words=6))
    responses = ("", "a b", "a b c d", "a b c d e f", "a b c d e f g h i")
    assert scores_of(rules, *responses)["length"] == pytest.approx([0.0, 0.5, 1.0, 1.0, 6 / 9])


def test_length_without_an_upper_end() -> None:
    assert scores_of(RulesConfig(length=LengthRule(weight=1.0)), "", "a " * 99) == {
        "length": [1.0, 1.0]
    }


def test_a_pattern_is_found_anywhere() -> None:
    rules = RulesConfig(regex=RegexRule(weight=1.0, pattern=r"answer is \d+"))
    responses = ("so the answer is 42 .", "the answer is no", "")
    assert scores_of(rules, *responses) == {"regex": [1.0, 0.0, 0.0]}


def test_words_are_whole_and_in_any_case() -> None:
    """`cat` does not stand in `category`. Mutation: a plain `in`."""
    rules = RulesConfig(
        required=WordsRule(weight=1.0, words=["cat", "red ball"]),
        forbidden=WordsRule(weight=1.0, words=["dog", "box", "c++", "no"]),
    )
    found = scores_of(rules, "The Cat has a red ball.", "category: dog, C++ and box")
    assert found == {"required": [1.0, 0.0], "forbidden": [1.0, 0.25]}


@pytest.mark.parametrize("finished", [True, False])
def test_finished_is_what_the_engine_said(finished: bool) -> None:
    rules = RulesConfig(finished=FinishedRule(weight=0.5))
    assert scores_of(rules, "a", finished=finished) == {"finished": [float(finished)]}


def test_names_of_weights_and_components_agree() -> None:
    """Every rule counts once it has a weight; none does without."""
    rules = RulesConfig(
        finished=FinishedRule(weight=1.0),
        length=LengthRule(weight=2.0),
        regex=RegexRule(weight=3.0, pattern="x"),
        required=WordsRule(weight=4.0, words=["x"]),
        forbidden=WordsRule(weight=-5.0, words=["y"]),
    )
    config = RewardConfig(rules=rules)
    assert {"model", *text_components(config)} == set(config.weights())
    assert config.weights()["rules.forbidden"] == -5.0
    assert rules_of(RulesConfig()) == {}


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: LengthRule(min_words=5, max_words=4), "max_words"),
        (lambda: LengthRule(min_words=-1), "min_words"),
        (lambda: RegexRule(pattern="("), "no regular expression"),
        (lambda: RegexRule(weight=1.0), "pattern is missing"),
        (lambda: WordsRule(weight=1.0), "words must name"),
        (lambda: RewardConfig(functions={"brevity": 1.0}), "module.function"),
        (lambda: RewardConfig(functions={"a.b": float("nan")}), "finite"),
        (lambda: RewardConfig(clip=0.0), "clip"),
        (lambda: RewardConfig(timeout_s=0.0), "timeout_s"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make: Any, what: str) -> None:
    with pytest.raises(UserError, match=what):
        make()


def test_a_reward_without_any_component_is_refused() -> None:
    from reward.config import ModelTerm

    with pytest.raises(UserError, match="no component has a weight"):
        RewardConfig(model=ModelTerm(weight=0.0))
