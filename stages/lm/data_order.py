"""The whole order of training data, laid out before the first step: a function of the seed.

A trainer then reads one long list from start to end, epochs one after another, and a resumed one
only skips to its step: no sampler state to save. Batches run on across the end of an epoch, as the
paper's step counts do (12,725 demonstrations, 16 epochs, batch 32: 6,362.5 steps).
"""

import math
from collections.abc import Sequence

import numpy as np

BATCHES_SORTED_TOGETHER = 50  # a compromise between little padding and well-mixed batches


def epoch_ends(num_items: int, batch_size: int, epochs: int) -> list[int]:
    """The number of steps after which epoch 1, 2, ... is done."""
    return [math.ceil(num_items * (epoch + 1) / batch_size) for epoch in range(epochs)]


def data_order(num_items: int, epochs: int, seed: int) -> list[int]:
    """Indices of all epochs, each a fresh permutation."""
    return [int(i) for epoch in range(epochs) for i in _permutation(num_items, epoch, seed)]


def data_order_by_length(
    lengths: Sequence[int], batch_size: int, epochs: int, seed: int
) -> list[int]:
    """The same, with items of similar length in one batch and the batches in random order.

    Every epoch still holds every item once. The batch that runs across two epochs stays mixed.
    """
    order: list[int] = []
    for epoch in range(epochs):
        items = _permutation(len(lengths), epoch, seed)
        head = min(-len(order) % batch_size, len(items))
        tail = head + (len(items) - head) // batch_size * batch_size
        middle = _group(items[head:tail], np.asarray(lengths), batch_size, [seed, epoch, 1])
        order += [int(i) for i in np.concatenate([items[:head], middle, items[tail:]])]
    return order


def _permutation(num_items: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num_items)


def _group(items: np.ndarray, lengths: np.ndarray, batch_size: int, key: list[int]) -> np.ndarray:
    """Sort stretches of many batches by length, cut them into batches, shuffle the batches."""
    stretch = batch_size * BATCHES_SORTED_TOGETHER
    parts = [items[start : start + stretch] for start in range(0, len(items), stretch)]
    ordered = [part[np.argsort(lengths[part], kind="stable")] for part in parts]
    if not ordered:
        return items
    batches = np.concatenate(ordered).reshape(-1, batch_size)
    return np.random.default_rng(key).permutation(batches).reshape(-1)
