"""The components of a reward that read text: asked one after another, checked, kept apart."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from reward.config import RewardConfig
from reward.functions import TimedReward, load_function
from reward.judge import LlmJudge
from reward.remote import RemoteReward
from reward.rules import rules_of
from reward.text_rewards import TextReward, check_scores
from stages.lm.tokens import decode_response
from stages.records.schemas import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def text_components(config: RewardConfig) -> dict[str, TextReward]:
    """By the names of `RewardConfig.weights`: one entry for each kind of component.

    Raises:
        UserError: one that cannot be made.
    """
    functions = {
        path: TimedReward(path, load_function(path), config.timeout_s)
        for path, weight in config.function_weights.items()
        if weight
    }
    rules = {f"rules.{name}": rule for name, rule in rules_of(config.rules).items()}
    asked: dict[str, TextReward] = {}
    if config.judge.weight:
        asked["judge"] = LlmJudge(config.judge)
    if config.remote.weight:
        asked["remote"] = RemoteReward(config.remote)
    return {**functions, **rules, **asked}


class TextRewards:
    """Components by name, and the tokenizer whose tokens they are to read as text."""

    def __init__(
        self, components: Mapping[str, TextReward], tokenizer: "PreTrainedTokenizerBase"
    ) -> None:
        self.components, self.tokenizer = components, tokenizer

    def scores(
        self,
        prompts: Sequence[list[Message]],
        responses: Sequence[Sequence[int]],
        finished: Sequence[bool],
    ) -> dict[str, list[float]]:
        """Every component's own score of each response, before its weight.

        Raises:
            RewardError: one of them failed.
        """
        texts = [decode_response(self.tokenizer, tokens) for tokens in responses]
        return score_texts(self.components, prompts, texts, finished)


def score_texts(
    components: Mapping[str, TextReward],
    prompts: Sequence[list[Message]],
    responses: Sequence[str],
    finished: Sequence[bool],
) -> dict[str, list[float]]:
    """The same of texts."""
    rows = list(prompts), list(responses), list(finished)
    return {
        name: check_scores(name, reward(*rows), len(responses))
        for name, reward in components.items()
    }
