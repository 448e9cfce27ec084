"""Loss and accuracy on held-out sequences, by token, whatever the batches."""

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from stages.lm.batching import micro_batches, pad_right
from stages.lm.heads import language_head
from stages.lm.logprobs import chunk_rows, hidden_states
from stages.step1_sft.sequences import NO_LOSS, Sequence

TOKENS_A_FORWARD = 8192


@dataclass(kw_only=True)
class TokenFigures:
    """loss: mean negative log-probability (nats) of a labelled token. accuracy: how often it is
    the most probable one."""

    loss: float
    accuracy: float


@torch.no_grad()
def token_figures(model: Any, sequences: Rows[Sequence], pad_token_id: int) -> TokenFigures:
    """Figures over every labelled token of `sequences`; dropout off; no random number is drawn."""
    was_training = model.training
    model.eval()
    lengths = [len(sequence.input_ids) for sequence in sequences]
    groups = micro_batches(lengths, TOKENS_A_FORWARD)
    sums = sum(_sums(model, [sequences[i] for i in group], pad_token_id) for group in groups)
    model.train(was_training)
    assert isinstance(sums, Tensor)
    loss, correct, tokens = sums.tolist()
    return TokenFigures(loss=loss / tokens, accuracy=correct / tokens)


def _sums(model: Any, sequences: Rows[Sequence], pad_token_id: int) -> Tensor:
    """(3,) float64: summed loss, correct tokens, labelled tokens."""
    input_ids = pad_right([sequence.input_ids for sequence in sequences], pad_token_id)
    labels = pad_right([sequence.labels for sequence in sequences], NO_LOSS)[:, 1:]
    counted = labels != NO_LOSS
    hidden = hidden_states(model.get_decoder(), input_ids)[:, :-1][counted]
    targets, head = labels[counted], language_head(model)
    rows = chunk_rows(head)
    parts = zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
    return sum((_chunk_sums(head, *part) for part in parts), torch.zeros(3, dtype=torch.float64))


def _chunk_sums(head: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    logits = head(hidden).float()
    loss = cross_entropy(logits, targets, reduction="sum")
    correct = (logits.argmax(-1) == targets).sum()
    return torch.stack([loss.double(), correct.double(), torch.tensor(len(targets)).double()])
