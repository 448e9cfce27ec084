"""Several sources in the proportions of their weights: as many rows as these allow, none twice.

Of a split with n_s rows of source s and weights w_s, source s keeps round(T * w_s / W) rows, where
W sums the weights and T is the largest total that no source is too small for. Which rows stay
follows from the seed and the rows, not from their order.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from stages.contracts import UserError
from stages.step0_data.rules.columns import SPLITS, Columns


def over_share(
    columns: Columns,
    there: np.ndarray,
    split: np.ndarray,
    sources: Sequence[str],
    weights: Mapping[str, float],
) -> np.ndarray:
    """(rows,) bool: rows beyond their source's share of their split.

    A split that only some sources have rows for is mixed from those.

    Raises:
        UserError: a source without a row of train.
    """
    names = list(weights)
    source = np.array([names.index(name) for name in sources])
    gone = np.zeros(len(columns), bool)
    for index, name in enumerate(SPLITS):
        rows = np.flatnonzero(there & (split == index))
        sizes = np.bincount(source[rows], minlength=len(names))
        if name == "train":
            _check_present(names, sizes)
        kept = shares(sizes, np.array([weights[name] for name in names]))
        place = np.lexsort((columns.order[rows], source[rows]))
        rank = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        gone[rows[place]] = rank >= kept[source[rows[place]]]
    return gone


def shares(sizes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(sources,) int: rows to keep of `sizes`, in proportion to `weights` as far as they reach."""
    present = sizes > 0
    if not present.any():
        return np.zeros(len(sizes), np.int64)
    wanted = np.where(present, weights, 0.0) / weights[present].sum()
    total = (sizes[present] / wanted[present]).min()
    kept: np.ndarray = np.minimum(sizes, np.rint(total * wanted).astype(np.int64))
    return kept


def _check_present(names: Sequence[str], sizes: np.ndarray) -> None:
    empty = [name for name, size in zip(names, sizes, strict=True) if not size]
    if empty:
        raise UserError(
            f"the source {empty[0]} has no row left to mix into train",
            got=", ".join(f"{n}: {size}" for n, size in zip(names, sizes.tolist(), strict=True)),
            do="bring more rows of it, or leave it out",
        )
