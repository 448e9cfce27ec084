"""What a reward is: a weighted sum of components; how a reward model encodes, or several make one
score. No torch here.
"""

import math
import re
from dataclasses import dataclass, field
from enum import StrEnum

from reward.endpoint_config import JudgeConfig, RemoteConfig
from stages.contracts import EXTERNAL_CODE, UserError, check_not_negative, check_positive, no_effect


class Encoding(StrEnum):
    """Prompts once for all responses (`shared`), or a copy for each; `auto`: shared if exact."""

    auto = "auto"
    shared = "shared"
    separate = "separate"


@dataclass(kw_only=True)
class ModelTerm:
    """The reward_model asset: its normalised score."""

    weight: float = 1.0


@dataclass(kw_only=True)
class FinishedRule:
    """1 where the response ended in EOS, 0 where it was cut."""

    weight: float = 0.0


@dataclass(kw_only=True)
class LengthRule:
    """1 within [min_words, max_words]; outside the ratio to the nearer end, towards 0."""

    weight: float = 0.0
    min_words: int = 0
    max_words: int | None = None

    def __post_init__(self) -> None:
        check_not_negative(self, "min_words")
        if self.max_words is not None and self.max_words < max(1, self.min_words):
            raise UserError(
                "max_words must be 1 or more, and not below min_words",
                got=f"min_words={self.min_words}, max_words={self.max_words}",
                do="set max_words=null for no upper end",
            )


@dataclass(kw_only=True)
class RegexRule:
    """1 where the pattern is found anywhere in the response, else 0 (Python's `re`)."""

    weight: float = 0.0
    pattern: str = ""

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise UserError(
                "pattern is no regular expression",
                got=f"{self.pattern!r}: {error}",
                do="write it as Python's re module wants it",
            ) from None
        if self.weight and not self.pattern:
            raise UserError("pattern is missing", got="an empty text", do="say what to look for")


@dataclass(kw_only=True)
class WordsRule:
    """The share of the words that do (required) or do not (forbidden) stand in the response.

    Whole words or phrases, in any case.
    """

    weight: float = 0.0
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.weight and not all(word.strip() for word in self.words or [""]):
            raise UserError(
                "words must name one or more", got=str(self.words), do="for example words=[cat,dog]"
            )


@dataclass(kw_only=True)
class RulesConfig:
    """Ready-made rules of the response alone, each a score in [0, 1]; weight 0: not asked."""

    finished: FinishedRule = field(default_factory=FinishedRule)
    length: LengthRule = field(default_factory=LengthRule)
    regex: RegexRule = field(default_factory=RegexRule)
    required: WordsRule = field(default_factory=WordsRule)
    forbidden: WordsRule = field(default_factory=WordsRule)

    def weights(self) -> dict[str, float]:
        """Of the rules that count."""
        weights = {name: getattr(self, name).weight for name in vars(self)}
        return {name: weight for name, weight in weights.items() if weight}


@dataclass(kw_only=True)
class RewardConfig:
    """What the policy is trained to maximise: the sum of weight * score over the components.

    functions: `module.function` -> weight, found as Python finds modules; the source of the module
    counts in the fingerprint. timeout_s: of a function's call, which scores a whole batch. clip:
    bounds of the sum, [-clip, clip]; null: none.
    """

    model: ModelTerm = field(default_factory=ModelTerm)
    functions: dict[str, float] | None = field(default=None, metadata=EXTERNAL_CODE)
    rules: RulesConfig = field(default_factory=RulesConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    remote: RemoteConfig = field(default_factory=RemoteConfig)
    timeout_s: float = no_effect(60.0)
    clip: float | None = None

    def __post_init__(self) -> None:
        check_positive(self, "timeout_s")
        if self.clip is not None:
            check_positive(self, "clip")
        for path in self.function_weights:
            if not re.fullmatch(r"\w+(\.\w+)+", path):
                raise UserError(
                    "functions are named module.function",
                    got=path,
                    do="for example reward.functions={my_rewards.brevity: 1.0}",
                )
        wrong = {name: w for name, w in self.weights().items() if not math.isfinite(w)}
        if wrong:
            raise UserError("a weight must be finite", got=str(wrong), do="give it a number")
        if not self.weights():
            raise UserError(
                "the reward is 0 everywhere: no component has a weight",
                got=f"model.weight={self.model.weight:g}, and nothing else",
                do="choose reward=model, function, rules, judge or remote (docs/rewards.md)",
            )

    def weights(self) -> dict[str, float]:
        """Of the components that count, by the names that figures and errors use."""
        all_of_them = {
            "model": self.model.weight,
            **self.function_weights,
            **{f"rules.{name}": weight for name, weight in self.rules.weights().items()},
            "judge": self.judge.weight,
            "remote": self.remote.weight,
        }
        return {name: weight for name, weight in all_of_them.items() if weight}

    @property
    def function_weights(self) -> dict[str, float]:
        """None where there are no functions: Hydra sets a key of a whole group only if it is."""
        return self.functions or {}

    @property
    def secrets(self) -> dict[str, str]:
        """The environment variables that must be set, by the key that names each."""
        named = {
            "reward.judge.api_key_env": (self.judge.weight, self.judge.api_key_env),
            "reward.remote.token_env": (self.remote.weight, self.remote.token_env),
        }
        return {key: variable for key, (weight, variable) in named.items() if weight and variable}

    @property
    def reads_model(self) -> bool:
        """Whether the reward_model asset is needed."""
        return "model" in self.weights()


class Combine(StrEnum):
    """How the members' scores become one: their mean, the lowest, or the mean less their spread."""

    mean = "mean"
    minimum = "minimum"
    uncertainty = "uncertainty"
