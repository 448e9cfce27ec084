"""How the scores of one source of responses are distributed: a policy's, or the demonstrations'."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """quantiles: of the scores, at QUANTILES. std divides by the number of scores."""

    name: str
    count: int
    mean: float
    std: float
    quantiles: list[float]


def distribution(name: str, scores: Sequence[float] | np.ndarray) -> Distribution:
    """Of at least one score."""
    values = np.asarray(scores, dtype=np.float64)
    return Distribution(
        name=name,
        count=len(values),
        mean=float(values.mean()),
        std=float(values.std()),
        quantiles=np.quantile(values, QUANTILES).tolist(),
    )
