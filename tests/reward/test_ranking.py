"""The K-way loss against hand-worked numbers, a slow reference and its invariances."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.ranking import LOSSES, RankedScores, pairwise_losses, ragged_scores
from tests.oracles.ranking import (
    best_of_k_loss,
    mean_over_prompts,
    pairs_loss,
    plackett_luce_loss,
    ranking_loss,
)

finite_scores = st.floats(-5, 5, allow_nan=False, width=32)


@st.composite
def rankings(draw: st.DrawFn) -> tuple[list[float], list[int]]:
    """Two to nine scores with ranks, ties likely."""
    size = draw(st.integers(2, 9))
    scores = draw(st.lists(finite_scores, min_size=size, max_size=size))
    return scores, draw(st.lists(st.integers(1, 4), min_size=size, max_size=size))


batches = st.lists(rankings(), min_size=1, max_size=6)


def ranked(batch: list[tuple[list[float], list[int]]], dtype=torch.float64) -> RankedScores:
    flat = torch.tensor([s for scores, _ in batch for s in scores], dtype=dtype)
    return ragged_scores(flat.requires_grad_(), [ranks for _, ranks in batch])


def loss_of(scores: list[float], ranks: list[int], **options) -> float:
    return pairwise_losses(ranked([(scores, ranks)]), **options).losses.item()


@pytest.mark.parametrize(
    ("margin", "expected"),
    [(0, 0.693147), (1, 0.313262), (2, 0.126928), (4, 0.018150), (-1, 1.313262), (-2, 2.126928)],
)
def test_two_completions_are_bradley_terry(margin: float, expected: float) -> None:
    """log(1 + e^-m) by hand. Mutation: `softplus(excess)` (sign flipped)."""
    assert loss_of([float(margin), 0.0], [1, 2]) == pytest.approx(expected, abs=1e-6)
    assert loss_of([0.0, float(margin)], [2, 1]) == pytest.approx(expected, abs=1e-6)


def test_two_completions_at_margin_ln_3() -> None:
    assert loss_of([math.log(3), 0.0], [1, 2]) == pytest.approx(0.287682, abs=1e-6)


def test_four_completions_in_order() -> None:
    """Loss and gradient worked by hand. Mutation: `>` for `<` in `preferences`."""
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0], dtype=torch.float64, requires_grad=True)
    losses = pairwise_losses(ragged_scores(scores, [[1, 2, 3, 4]]))
    losses.losses.sum().backward()
    assert losses.losses.item() == pytest.approx(0.207038, abs=1e-6)
    assert losses.num_pairs.tolist() == [6]
    assert scores.grad is not None
    expected = [-0.072595, -0.019867, 0.019867, 0.072595]
    assert scores.grad.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_tie_is_dropped_and_the_denominator_is_an_option() -> None:
    """Mutation: `<=` for `<` in `preferences` lets the tie in; swapping the divisors swaps both."""
    scores, ranks = [2.0, 1.0, 0.0, -1.0], [1, 2, 2, 3]
    assert loss_of(scores, ranks) == pytest.approx(0.185793, abs=1e-6)
    assert loss_of(scores, ranks, count_ties=True) == pytest.approx(0.154828, abs=1e-6)


@pytest.mark.parametrize("size", range(2, 17))
def test_equal_scores_cost_ln_2_for_any_k(size: int) -> None:
    assert loss_of([0.3] * size, list(range(1, size + 1))) == pytest.approx(math.log(2), abs=1e-7)


@pytest.mark.parametrize(("size", "pairs"), [(4, 6), (5, 10), (6, 15), (7, 21), (8, 28), (9, 36)])
def test_pair_counts(size: int, pairs: int) -> None:
    batch = [([0.0] * size, list(range(1, size + 1)))] * 64
    assert pairwise_losses(ranked(batch)).num_pairs.sum().item() == 64 * pairs


def test_the_mean_is_per_prompt_not_per_pair() -> None:
    """Mutation: dividing the summed pair losses by all pairs of the batch gives 0.276482."""
    batch = [([2.0, 1.0, 0.0, -1.0], [1, 2, 3, 4]), ([0.0, 0.0], [1, 2])]
    assert pairwise_losses(ranked(batch)).mean.item() == pytest.approx(0.450093, abs=1e-6)


def test_a_prompt_of_ties_contributes_nothing_and_is_counted() -> None:
    """Mutation: dividing `mean` by the number of prompts halves the loss."""
    batch = [([2.0, 1.0, 0.0, -1.0], [1, 2, 3, 4]), ([1.0, 5.0, 0.0], [1, 1, 1])]
    losses = pairwise_losses(ranked(batch))
    assert losses.mean.item() == pytest.approx(0.207038, abs=1e-6)
    assert losses.num_pairs.tolist() == [6, 0]


def test_a_batch_of_ties_alone_is_zero_with_zero_gradient() -> None:
    scores = torch.tensor([1.0, 2.0], requires_grad=True)
    pairwise_losses(ragged_scores(scores, [[1, 1]])).mean.backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [0.0, 0.0]


@settings(max_examples=60, deadline=None)
@given(batches, st.booleans())
def test_losses_and_gradients_equal_the_slow_reference(batch, count_ties: bool) -> None:
    """Mutation: any flipped sign or a pair counted twice."""
    flat = torch.tensor([s for scores, _ in batch for s in scores], requires_grad=True)
    losses = pairwise_losses(ragged_scores(flat, [r for _, r in batch]), count_ties=count_ties)
    losses.losses.sum().backward()
    expected = [ranking_loss(scores, ranks, count_ties=count_ties) for scores, ranks in batch]
    assert losses.losses.tolist() == pytest.approx([loss for loss, _ in expected], abs=1e-5)
    assert flat.grad is not None
    gradients = [value for _, gradient in expected for value in gradient]
    assert flat.grad.tolist() == pytest.approx(gradients, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(batches)
def test_the_mean_equals_the_slow_reference(batch) -> None:
    assert pairwise_losses(ranked(batch)).mean.item() == pytest.approx(
        mean_over_prompts(batch), abs=1e-5
    )


@settings(max_examples=40, deadline=None)
@given(rankings(), st.randoms(use_true_random=False))
def test_order_of_completions_does_not_matter(ranking, random) -> None:
    scores, ranks = ranking
    order = random.sample(range(len(scores)), len(scores))
    shuffled = loss_of([scores[i] for i in order], [ranks[i] for i in order])
    assert shuffled == pytest.approx(loss_of(scores, ranks), abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(rankings(), st.floats(-3, 3))
def test_shifting_all_scores_changes_nothing(ranking, shift: float) -> None:
    scores, ranks = ranking
    shifted = loss_of([score + shift for score in scores], ranks)
    assert shifted == pytest.approx(loss_of(scores, ranks), abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(batches, st.integers(1, 4))
def test_splitting_the_batch_changes_nothing(batch, width: int) -> None:
    """Also padding: alone, a prompt has none. Mutation: reading padded ranks as ranks."""
    whole = pairwise_losses(ranked(batch)).losses.tolist()
    parts = [
        loss
        for start in range(0, len(batch), width)
        for loss in pairwise_losses(ranked(batch[start : start + width])).losses.tolist()
    ]
    assert parts == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize("garbage", [1e9, float("nan"), float("inf")])
@pytest.mark.parametrize("name", LOSSES)
def test_what_stands_in_padding_does_not_leak(garbage: float, name: str) -> None:
    """Neither into the loss nor into the gradient. Mutation: no `masked_fill` in `differences`."""
    scores = torch.tensor([2.0, 1.0, 1.0, 0.0, 0.0], requires_grad=True)
    whole = ragged_scores(scores, [[1, 2], [1, 2, 3]])
    padded = whole.scores.masked_fill(~whole.mask, garbage)
    losses = LOSSES[name](replace(whole, scores=padded))
    losses.losses[0].backward()
    assert losses.losses[0].item() == pytest.approx(0.313262, abs=1e-6)
    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([-0.268941, 0.268941, 0, 0, 0], abs=1e-6)


def test_choices_of_four_completions_in_order() -> None:
    """log(1 + e^-1 + e^-2 + e^-3) = 0.440190, log(1 + e^-1 + e^-2) = 0.407606, log(1 + e^-1) =
    0.313262, by hand. Mutation: the sign of `lost_to` gives 3.440190 for the first."""
    scores, ranks = torch.tensor([2.0, 1.0, 0.0, -1.0]), [[1, 2, 3, 4]]
    by_name = {
        name: loss(ragged_scores(scores, ranks)).losses.item() for name, loss in LOSSES.items()
    }
    assert by_name["best_of_k"] == pytest.approx(0.440190, abs=1e-6)
    assert by_name["plackett_luce"] == pytest.approx(1.161058 / 3, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(batches)
def test_choice_losses_equal_the_slow_reference(batch) -> None:
    """Ties and all. Mutation: `any(1)` for `any(2)`, or a missing `eye`."""
    for name, slow in (("plackett_luce", plackett_luce_loss), ("best_of_k", best_of_k_loss)):
        losses = LOSSES[name](ranked(batch)).losses.tolist()
        assert losses == pytest.approx([slow(*row) for row in batch], abs=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=30, deadline=None)
@given(ranking=rankings(), shift=st.floats(-3, 3), random=st.randoms(use_true_random=False))
def test_no_loss_sees_order_or_shift(name: str, ranking, shift: float, random) -> None:
    scores, ranks = ranking
    order = random.sample(range(len(scores)), len(scores))
    shuffled = [([scores[i] + shift for i in order], [ranks[i] for i in order])]
    losses = [LOSSES[name](ranked(batch)).losses.item() for batch in ([ranking], shuffled)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("difference", [-2.0, 0.0, 1.0])
def test_every_loss_of_two_is_bradley_terry(name: str, difference: float) -> None:
    losses = LOSSES[name](ranked([([difference, 0.0], [1, 2])])).losses.item()
    assert losses == pytest.approx(math.log(1 + math.exp(-difference)), abs=1e-6)


def test_explicit_pairs_replace_ranks_and_carry_margins() -> None:
    """A partial order with margins: log(1 + e^-(2-1)) and log(1 + e^-(1-0.5)) by hand. Mutation:
    adding the margin gives 0.048587 for the first."""
    scores, pairs = [2.0, 1.0, 0.0], [(0, 2, 1.0), (0, 1, 0.5)]
    given_pairs = ragged_scores(
        torch.tensor([*scores, 3.0, 1.0]), [[1, 1, 1], [1, 2]], [pairs, None]
    )
    losses = pairwise_losses(given_pairs)
    assert losses.num_pairs.tolist() == [2, 1]
    expected = [(0.313262 + 0.474077) / 2, 0.126928]
    assert losses.losses.tolist() == pytest.approx(expected, abs=1e-6)
    assert losses.losses[0].item() == pytest.approx(pairs_loss(scores, pairs), abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_weight_scales_loss_and_gradient_of_its_comparison(name: str) -> None:
    gradients = []
    for weights in ([1.0, 1.0], [3.0, 0.0]):
        scores = torch.tensor([1.0, 0.0, 0.5, 0.0], requires_grad=True)
        LOSSES[name](ragged_scores(scores, [[1, 2], [1, 2]], None, weights)).losses.sum().backward()
        assert scores.grad is not None
        gradients.append(scores.grad.tolist())
    once, weighed = gradients
    assert weighed == pytest.approx([3 * once[0], 3 * once[1], 0.0, 0.0], abs=1e-6)
