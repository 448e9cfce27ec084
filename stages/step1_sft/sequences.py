"""Demonstrations and documents as token sequences with labels.

Labels are -100 where a token carries no loss: by `loss_on` on the prompt, or on what others than
the assistant say in it, and on padding, which the collator sees to.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.contracts import UserError
from stages.lm.tokens import encode_prompt, encode_response
from stages.lm.turns import encode_turns
from stages.records.schemas import Demonstration
from stages.records.tables import read_table
from stages.step1_sft.config import FineTuningConfig, LossOn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_LOSS = -100


@dataclass(kw_only=True)
class Sequence:
    """One training sequence; labels[t] is input_ids[t] or NO_LOSS. position_ids: where packed."""

    input_ids: list[int]
    labels: list[int]
    position_ids: list[int] | None = None


def read_demonstrations(
    config: FineTuningConfig, tokenizer: "PreTrainedTokenizerBase", table: Path
) -> tuple[list[Sequence], int]:
    """The demonstrations of a table as training sequences, and how many were too long."""
    records = read_table(table, Demonstration)
    fitting = encode_demonstrations(
        tokenizer, records, max_length=config.max_length, loss_on=config.loss_on
    )
    return fitting, len(records) - len(fitting)


def encode_demonstrations(
    tokenizer: "PreTrainedTokenizerBase",
    demonstrations: Rows[Demonstration],
    *,
    max_length: int,
    loss_on: LossOn,
) -> list[Sequence]:
    """Prompt, response, EOS: a demonstration is a finished response. Longer ones are left out.

    Raises UserError when none fits into max_length tokens.
    """
    encoded = [_encode(tokenizer, record, loss_on) for record in demonstrations]
    kept = [sequence for sequence in encoded if len(sequence.input_ids) <= max_length]
    if not kept:
        shortest = min(len(sequence.input_ids) for sequence in encoded)
        raise UserError(
            "no demonstration fits into max_length",
            got=f"max_length={max_length}, the shortest has {shortest} tokens",
            do=f"set max_length to {shortest} or more",
        )
    return kept


def _encode(
    tokenizer: "PreTrainedTokenizerBase", record: Demonstration, loss_on: LossOn
) -> Sequence:
    prompt, said = _prompt(tokenizer, record, loss_on)
    response = encode_response(tokenizer, record.response, finished=True)
    before = [token if own else NO_LOSS for token, own in zip(prompt, said, strict=True)]
    return Sequence(input_ids=prompt + response, labels=before + response)


def _prompt(
    tokenizer: "PreTrainedTokenizerBase", record: Demonstration, loss_on: LossOn
) -> tuple[list[int], list[bool]]:
    """The prompt's tokens, and which of them carry loss."""
    if loss_on is LossOn.assistant:
        return encode_turns(tokenizer, record.prompt)
    prompt = encode_prompt(tokenizer, record.prompt)
    return prompt, [loss_on is LossOn.all] * len(prompt)


def document_sequences(documents: Iterable[list[int]], max_length: int) -> list[Sequence]:
    """Pretraining documents, cut at max_length tokens, with loss on every token."""
    cut = (tokens[:max_length] for tokens in documents)
    return [Sequence(input_ids=tokens, labels=tokens) for tokens in cut]
