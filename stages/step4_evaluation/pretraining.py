"""How well a model still knows the pretraining text: the alignment tax (§4.2, App. E.6)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stages.lm.batching import micro_batches
from stages.lm.logprobs import document_loss
from stages.lm.tokens import encode_document
from stages.records.schemas import Text
from stages.records.tables import iterate_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS_PER_FORWARD = 8_192


def read_documents(
    path: Path, tokenizer: "PreTrainedTokenizerBase", *, num_tokens: int, max_length: int
) -> list[list[int]]:
    """The first documents of a text table that hold `num_tokens` predicted tokens, or all of them.

    A document's first token is given, not predicted; longer documents are cut at `max_length`.
    """
    documents: list[list[int]] = []
    predicted = 0
    for row in iterate_table(path, Text):
        if predicted >= num_tokens:
            break
        documents.append(encode_document(tokenizer, row.text)[:max_length])
        predicted += len(documents[-1]) - 1
    return documents


@torch.no_grad()
def text_loss(model: Any, documents: Sequence[list[int]], pad_token_id: int) -> float:
    """Mean cross-entropy in nats per predicted token."""
    total, tokens = 0.0, 0
    for rows in micro_batches([len(document) for document in documents], TOKENS_PER_FORWARD):
        loss, count = document_loss(model, [documents[row] for row in rows], pad_token_id)
        total, tokens = total + float(loss.double()), tokens + count
    return total / tokens
