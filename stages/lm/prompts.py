"""Prompts that fit: the paper leaves out those over 1k tokens (App. C); here they are counted."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.contracts import UserError
from stages.lm.tokens import encode_prompt
from stages.records.schemas import Prompt
from stages.records.tables import read_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(kw_only=True)
class FittingPrompts:
    """Prompts and their token ids, index by index; too_long: how many were passed over."""

    records: list[Prompt]
    tokens: list[list[int]]
    too_long: int


def fitting_prompts(
    path: Path,
    tokenizer: "PreTrainedTokenizerBase",
    max_prompt_tokens: int,
    limit: int | None = None,
) -> FittingPrompts:
    """The first `limit` prompts of a table (None: all) of at most `max_prompt_tokens` tokens.

    Raises:
        UserError: none is short enough.
    """
    found = FittingPrompts(records=[], tokens=[], too_long=0)
    shortest = None
    for record in read_table(path, Prompt):
        if limit is not None and len(found.records) == limit:
            break
        tokens = encode_prompt(tokenizer, record.prompt)
        shortest = min(len(tokens), shortest or len(tokens))
        if len(tokens) > max_prompt_tokens:
            found.too_long += 1
            continue
        found.records.append(record)
        found.tokens.append(tokens)
    if not found.records:
        raise UserError(
            f"no prompt in {path} is short enough",
            got=f"the shortest has {shortest} tokens",
            do=f"raise max_prompt_tokens above {max_prompt_tokens}",
        )
    return found
