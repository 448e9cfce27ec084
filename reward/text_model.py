"""A reward model that speaks another language than the policy: it is given text.

Prompts are rendered with its own chat template, prompts and responses tokenised with its own
tokenizer, exactly as where it was trained.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from reward.ensemble import first_member, load_scorer, single_models
from reward.model import load_reward_tokenizer
from reward.scoring import score_responses
from reward.text_rewards import RewardError
from stages.lm.loading import load_tokenizer, text_contract
from stages.lm.tokens import encode_prompt, encode_response
from stages.records.schemas import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAME_TEXT = ("tokenizer_sha256", "chat_template_sha256", "eos_token_id")


def reads_tokens_of(reward_model: Path, tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether these tokens mean the same to the reward model, the chat template's among them."""
    own, other = (text_contract(t, 0) for t in (_tokenizer(reward_model), tokenizer))
    return all(own[name] == other[name] for name in SAME_TEXT)


def _tokenizer(reward_model: Path) -> "PreTrainedTokenizerBase":
    """Of an ensemble's first member, where it is one."""
    return load_tokenizer(first_member(reward_model))


class TextRewardModel:
    """A saved reward model (or ensemble) as a `TextReward`: normalised scores, float32."""

    def __init__(self, folder: Path) -> None:
        self.model = load_scorer(folder).requires_grad_(False)
        self.tokenizer = load_reward_tokenizer(first_member(folder))

    def __call__(
        self, prompts: list[list[Message]], responses: list[str], finished: list[bool]
    ) -> list[float]:
        """One score a response.

        Raises:
            RewardError: texts that are too long for it.
        """
        asked = [encode_prompt(self.tokenizer, messages) for messages in prompts]
        answers = [
            encode_response(self.tokenizer, response, finished=ended)
            for response, ended in zip(responses, finished, strict=True)
        ]
        configs = [one.network.config.get_text_config() for one in single_models(self.model)]
        limit = min(config.max_position_embeddings for config in configs)
        lengths = [len(p) + len(r) for p, r in zip(asked, answers, strict=True)]
        if long := [row for row, length in enumerate(lengths) if length > limit]:
            cause = f"{lengths[long[0]]} of its tokens, its context has {limit}"
            raise RewardError("model", long, cause)
        pad = int(self.tokenizer.pad_token_id)
        scores: list[float] = score_responses(self.model.scores, asked, answers, pad).tolist()
        return scores
