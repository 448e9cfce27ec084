"""The order of data: every epoch complete, the same for the same seed, little padding."""

import numpy as np
import pytest

from stages.lm.data_order import data_order, data_order_by_length, epoch_ends

LENGTHS = [int(n) for n in np.random.default_rng(0).integers(5, 60, size=1003)]


@pytest.mark.parametrize(("num_items", "batch_size"), [(7, 3), (8, 4), (1003, 32), (3, 4)])
def test_every_epoch_holds_every_item_once(num_items, batch_size):
    """Fails if the grouping crosses the end of an epoch."""
    order = data_order_by_length(LENGTHS[:num_items], batch_size, epochs=3, seed=1)
    epochs = np.array(order).reshape(3, num_items)
    assert (np.sort(epochs, axis=1) == np.arange(num_items)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1


def test_a_function_of_the_seed():
    assert data_order(50, 2, seed=3) == data_order(50, 2, seed=3)
    assert data_order(50, 2, seed=3) != data_order(50, 2, seed=4)
    assert data_order(50, 2, seed=3)[:50] == data_order(50, 1, seed=3)


def test_grouping_leaves_little_padding():
    """Fails if the stretches are not sorted: the padded share then stays near two fifths."""

    def padded_share(order):
        batches = [order[start : start + 32] for start in range(0, len(order), 32)]
        computed = sum(max(LENGTHS[i] for i in batch) * len(batch) for batch in batches)
        return 1 - sum(LENGTHS[i] for i in order) / computed

    assert padded_share(data_order(1003, 3, seed=0)) > 0.35
    assert padded_share(data_order_by_length(LENGTHS, 32, 3, seed=0)) < 0.08


def test_grouped_batches_do_not_come_shortest_first():
    means = np.array(LENGTHS)[data_order_by_length(LENGTHS, 32, 1, seed=0)][:992]
    by_batch = means.reshape(-1, 32).mean(axis=1)
    assert abs(np.corrcoef(by_batch, np.arange(31))[0, 1]) < 0.5


def test_epochs_end_where_the_paper_counts():
    """12,725 demonstrations, 16 epochs, batch 32: 6,362.5 steps (InstructGPT App. C.1)."""
    ends = epoch_ends(12_725, 32, 16)
    assert (ends[0], ends[-1], len(ends)) == (398, 6363, 16)
