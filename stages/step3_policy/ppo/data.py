"""Prompts and pretraining text for PPO: what step s uses is a function of (seed, s) alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.contracts import UserError
from stages.lm.tokens import encode_document, encode_prompt
from stages.lm.training import batch_indices
from stages.records.schemas import Message, Prompt, Text
from stages.records.tables import read_table, texts
from stages.step3_policy.ppo.config import PpoConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(kw_only=True)
class PromptSet:
    """Prompts as people wrote them and as token ids, index by index."""

    messages: list[list[Message]]
    tokens: list[list[int]]

    def take(self, indices: Sequence[int]) -> "PromptSet":
        """These prompts, in this order."""
        return PromptSet(
            messages=[self.messages[i] for i in indices], tokens=[self.tokens[i] for i in indices]
        )

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(kw_only=True)
class PpoData:
    """What PPO draws from. documents: empty without pretraining gradients."""

    tokenizer: "PreTrainedTokenizerBase"
    train: PromptSet
    validation: PromptSet
    documents: list[str]
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
        return [
            encode_document(self.tokenizer, self.documents[i])[: config.max_document_tokens]
            for i in indices
        ]


def load_data(
    config: PpoConfig, tokenizer: "PreTrainedTokenizerBase", prompts: Path, text: Path
) -> PpoData:
    """Read and encode what the config asks for."""
    validation = load_prompts(prompts / "validation.parquet", tokenizer, config)
    documents = texts(read_table(text / "train.parquet", Text)) if config.ptx_coef > 0 else []
    return PpoData(
        tokenizer=tokenizer,
        train=load_prompts(prompts / "train.parquet", tokenizer, config),
        validation=validation.take(range(min(config.validation_prompts, len(validation)))),
        documents=documents,
        config=config,
    )


def load_prompts(path: Path, tokenizer: "PreTrainedTokenizerBase", config: PpoConfig) -> PromptSet:
    """The prompts of a table that are short enough (the paper leaves out those over 1k tokens)."""
    messages = [record.prompt for record in read_table(path, Prompt)]
    tokens = [encode_prompt(tokenizer, prompt) for prompt in messages]
    short = [i for i, ids in enumerate(tokens) if len(ids) <= config.max_prompt_tokens]
    if not short:
        raise UserError(
            f"no prompt in {path} is short enough",
            got=f"the shortest has {min(map(len, tokens))} tokens",
            do=f"raise max_prompt_tokens above {config.max_prompt_tokens}",
        )
    return PromptSet(messages=messages, tokens=tokens).take(short)
