"""Sums and means over response tokens alone.

Padding stays out by its mask, whatever value stands there: no sentinel ever reaches a statistic.
Dimension letters here and in the files beside: B sequences, R tokens of the longest response.
"""

from torch import Tensor


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over the True places of `mask` (B, R): a scalar."""
    return values.masked_fill(~mask, 0.0).sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the True places of `mask` (B, R): each token counts the same, in whatever row."""
    return masked_sum(values, mask) / mask.sum()


def sequence_sums(values: Tensor, mask: Tensor) -> Tensor:
    """(B,): the sum over each sequence's own tokens."""
    return values.masked_fill(~mask, 0.0).sum(-1)


def masked_variance(values: Tensor, mask: Tensor) -> Tensor:
    """Biased variance (divided by the number of tokens) over the True places of `mask`."""
    return masked_mean((values - masked_mean(values, mask)) ** 2, mask)
