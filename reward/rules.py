"""Ready-made rewards that a program can check: rules of the response alone, each in [0, 1]."""

import re
from collections.abc import Callable
from functools import partial

from reward.config import LengthRule, RegexRule, RulesConfig, WordsRule
from reward.text_rewards import TextReward
from stages.records.schemas import Message

Rule = Callable[[str, bool], float]  # of a response, and whether it ended in EOS


def rules_of(config: RulesConfig) -> dict[str, TextReward]:
    """The rules that have a weight, by name."""
    every: dict[str, Rule] = {
        "finished": lambda _, finished: float(finished),
        "length": partial(length, config.length),
        "regex": partial(regex, config.regex),
        "required": partial(required, config.required),
        "forbidden": partial(forbidden, config.forbidden),
    }
    return {name: partial(_each, every[name]) for name in config.weights()}


def _each(
    rule: Rule, prompts: list[list[Message]], responses: list[str], finished: list[bool]
) -> list[float]:
    del prompts
    return [rule(*row) for row in zip(responses, finished, strict=True)]


def length(config: LengthRule, response: str, finished: bool) -> float:
    """Words are what white space separates."""
    del finished
    words = len(response.split())
    if words < config.min_words:
        return words / config.min_words
    if config.max_words is not None and words > config.max_words:
        return config.max_words / words
    return 1.0


def regex(config: RegexRule, response: str, finished: bool) -> float:
    """`.` matches no line break; `(?s)` at the pattern's start changes that."""
    del finished
    return float(re.search(config.pattern, response) is not None)


def required(config: WordsRule, response: str, finished: bool) -> float:
    """The share of the words that stand in the response."""
    del finished
    return sum(_stands_in(word, response) for word in config.words) / len(config.words)


def forbidden(config: WordsRule, response: str, finished: bool) -> float:
    """The share of the words that do not."""
    return 1.0 - required(config, response, finished)


def _stands_in(word: str, response: str) -> bool:
    pattern = rf"(?<!\w){re.escape(word)}(?!\w)"
    return re.search(pattern, response, re.IGNORECASE) is not None
