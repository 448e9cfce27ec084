"""Prompts and pretraining text for PPO: what step s uses is a function of (seed, s) alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.contracts import Context
from stages.lm.prompts import fitting_prompts
from stages.lm.token_cache import tokenized_documents
from stages.lm.training import batch_indices
from stages.records.schemas import Message
from stages.step3_policy.ppo.config import PpoConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(kw_only=True)
class PromptSet:
    """Prompts as people wrote them and as token ids, index by index; too_long: left out."""

    messages: list[list[Message]]
    tokens: list[list[int]]
    too_long: int = 0

    def take(self, indices: Sequence[int]) -> "PromptSet":
        """These prompts, in this order."""
        return PromptSet(
            messages=[self.messages[i] for i in indices],
            tokens=[self.tokens[i] for i in indices],
            too_long=self.too_long,
        )

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(kw_only=True)
class PpoData:
    """What PPO draws from. documents: as token ids, on disk; none without pretraining gradients."""

    tokenizer: "PreTrainedTokenizerBase"
    train: PromptSet
    validation: PromptSet
    documents: Sequence[list[int]]
    config: PpoConfig

    def prompts_of(self, iteration: int) -> tuple[list[int], PromptSet]:
        """A prompt an episode of an iteration (from 0), and their indices.

        Passes of fresh permutations; a prompt comes `samples_per_prompt` times in a row.
        """
        config, size = self.config, self.config.prompts_per_iteration
        drawn = batch_indices(len(self.train), size, config.seed, iteration)
        indices = [index for index in drawn for _ in range(config.samples_per_prompt)]
        return indices, self.train.take(indices)

    def documents_of(self, update: int) -> list[list[int]]:
        """The pretraining documents of an optimizer step (from 0), as token ids."""
        config = self.config
        indices = batch_indices(len(self.documents), config.num_documents, config.seed, update)
        return [self.documents[i][: config.max_document_tokens] for i in indices]


def load_data(
    config: PpoConfig,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Path,
    text: Path,
    context: Context,
) -> PpoData:
    """Read and encode what the config asks for."""
    validation = load_prompts(prompts / "validation.parquet", tokenizer, config)
    documents: Sequence[list[int]] = []
    if config.ptx_coef > 0:
        documents = tokenized_documents(text / "train.parquet", tokenizer, context)
    return PpoData(
        tokenizer=tokenizer,
        train=load_prompts(prompts / "train.parquet", tokenizer, config),
        validation=validation.take(range(min(config.validation_prompts, len(validation)))),
        documents=documents,
        config=config,
    )


def load_prompts(path: Path, tokenizer: "PreTrainedTokenizerBase", config: PpoConfig) -> PromptSet:
    """The prompts of a table that are short enough (the paper leaves out those over 1k tokens)."""
    found = fitting_prompts(path, tokenizer, config.max_prompt_tokens)
    messages = [record.prompt for record in found.records]
    return PromptSet(messages=messages, tokens=found.tokens, too_long=found.too_long)
