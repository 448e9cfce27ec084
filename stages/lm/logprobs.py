"""Log-probabilities of responses, in float32 whatever the model's dtype.

Dimension letters: B sequences, T tokens, R response tokens, N real tokens, V vocabulary, H hidden.
Logits are made only where a response token is predicted (at T-1 of its own position), at the
sampling temperature, and never for a whole batch at once.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stages.lm.batching import SequenceBatch, pad_right
from stages.lm.heads import language_head

# Logits made at once: so many rows, and no more than so many bytes of them, which are 441 rows of a
# vocabulary of 151,936.
CHUNK_TOKENS, CHUNK_BYTES = 4096, 2**28


def hidden_states(backbone: Any, input_ids: Tensor) -> Tensor:
    """(B, T, H): the last hidden states of a decoder without its head; right-padded input.

    No mask: a causal decoder looks back only, so real tokens never see the padding after them.
    """
    output = backbone(input_ids=input_ids, use_cache=False)
    hidden: Tensor = output.last_hidden_state
    return hidden


def hidden_at_responses(backbone: Any, batch: SequenceBatch) -> Tensor:
    """(B, R, H): the state before each response token, the one that predicts it."""
    hidden = hidden_states(backbone, batch.input_ids)
    before = batch.response_positions - 1
    return hidden.gather(1, before[..., None].expand(-1, -1, hidden.shape[-1]))


def response_logprobs(model: Any, batch: SequenceBatch, temperature: float = 1.0) -> Tensor:
    """(B, R) float32: log pi(y_t | x, y_<t) at the sampling temperature; 0 where masked."""
    return _response_figures(model, batch, temperature, with_entropy=False)[0]


def response_logprobs_and_entropy(
    model: Any, batch: SequenceBatch, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probs (B, R) of the response tokens and entropies (B, R), in nats, at their positions.

    The entropies are for watching: no gradient goes through them.
    """
    logprobs, entropy = _response_figures(model, batch, temperature, with_entropy=True)
    return logprobs, entropy


def _response_figures(
    model: Any, batch: SequenceBatch, temperature: float, *, with_entropy: bool
) -> list[Tensor]:
    """Log-probs (B, R), and entropies if asked for."""
    mask = batch.response_mask
    hidden = hidden_at_responses(model.get_decoder(), batch)[mask]  # (N, H)
    targets, head = batch.response_tokens[mask], language_head(model)
    figures = token_figures(head, hidden, targets, temperature, with_entropy)
    return [_scatter(figure, mask) for figure in figures]


def token_figures(
    head: Any, hidden: Tensor, targets: Tensor, temperature: float, with_entropy: bool
) -> Tensor:
    """(1, N) log-probs of `targets`, or (2, N) with entropies; logits recomputed in backward."""
    rows = min(CHUNK_TOKENS, chunk_rows(head))
    parts = [
        _chunk_figures(head, states, tokens, temperature, with_entropy)
        if len(hidden) <= rows
        else checkpoint(
            _chunk_figures, head, states, tokens, temperature, with_entropy, use_reentrant=False
        )
        for states, tokens in zip(
            torch.split(hidden, rows), torch.split(targets, rows), strict=True
        )
    ]
    return torch.cat(parts, dim=1)


def chunk_rows(head: Any) -> int:
    """How many rows of float32 logits CHUNK_BYTES hold."""
    return max(1, CHUNK_BYTES // (4 * int(head.out_features)))


def _chunk_figures(
    head: Any, hidden: Tensor, targets: Tensor, temperature: float, with_entropy: bool
) -> Tensor:
    logits: Tensor = head(hidden).float()
    if temperature != 1.0:  # a pass over all logits, and one in the backward
        logits = logits / temperature
    normalised = logits.log_softmax(-1)
    logprobs = normalised.gather(-1, targets[:, None])[:, 0]
    if not with_entropy:
        return logprobs[None]
    with torch.no_grad():
        entropy = -(normalised.exp() * normalised).sum(-1)
    return torch.stack([logprobs, entropy])


def document_loss(
    model: Any, documents: Sequence[list[int]], pad_token_id: int
) -> tuple[Tensor, int]:
    """Summed cross-entropy (nats) of every token after a document's first, and their number."""
    input_ids = pad_right(documents, pad_token_id)
    lengths = torch.tensor([len(document) for document in documents])
    batch = SequenceBatch(
        input_ids=input_ids, prompt_lengths=torch.ones_like(lengths), lengths=lengths
    )
    logprobs = response_logprobs(model, batch)
    return -logprobs.sum(), int(batch.response_lengths.sum())


def _scatter(values: Tensor, mask: Tensor) -> Tensor:
    """(N,) values back to (B, R), 0 where masked; differentiable."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(
        mask, values
    )
