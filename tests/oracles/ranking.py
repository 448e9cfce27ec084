"""The losses of a ranking in plain Python: one pair, one choice after another."""

import math


def ranking_loss(
    scores: list[float], ranks: list[int], *, count_ties: bool = False
) -> tuple[float, list[float]]:
    """Loss of one prompt and its derivative by each score; (0, zeros) when all completions tie."""
    loss, gradient, pairs, tied = 0.0, [0.0] * len(scores), 0, 0
    for i in range(len(scores)):
        for j in range(i + 1, len(scores)):
            if ranks[i] == ranks[j]:
                tied += 1
                continue
            better, worse = (i, j) if ranks[i] < ranks[j] else (j, i)
            probability = 1 / (1 + math.exp(scores[worse] - scores[better]))
            loss -= math.log(probability)
            gradient[better] -= 1 - probability
            gradient[worse] += 1 - probability
            pairs += 1
    if pairs == 0:
        return 0.0, gradient
    divisor = pairs + tied if count_ties else pairs
    return loss / divisor, [value / divisor for value in gradient]


def mean_over_prompts(batch: list[tuple[list[float], list[int]]]) -> float:
    """Mean over the prompts that have a pair which is not tied."""
    losses = [ranking_loss(scores, ranks)[0] for scores, ranks in batch if len(set(ranks)) > 1]
    return sum(losses) / len(losses) if losses else 0.0


def pairs_loss(scores: list[float], pairs: list[tuple[int, int, float]]) -> float:
    """Mean of -log sigmoid(difference - margin) over explicit pairs."""
    losses = [
        math.log(1 + math.exp(-(scores[better] - scores[worse] - margin)))
        for better, worse, margin in pairs
    ]
    return sum(losses) / len(losses)


def choice_losses(scores: list[float], ranks: list[int]) -> list[tuple[int, float]]:
    """(rank, -log of the share) of each completion that is better than some."""
    losses = []
    for score, rank in zip(scores, ranks, strict=True):
        worse = [math.exp(s) for s, other in zip(scores, ranks, strict=True) if other > rank]
        if worse:
            losses.append((rank, -math.log(math.exp(score) / (math.exp(score) + sum(worse)))))
    return losses


def plackett_luce_loss(scores: list[float], ranks: list[int]) -> float:
    """The mean over all choices; 0 without one."""
    losses = [loss for _, loss in choice_losses(scores, ranks)]
    return sum(losses) / len(losses) if losses else 0.0


def best_of_k_loss(scores: list[float], ranks: list[int]) -> float:
    """The mean over the choices of the first rank; 0 without one."""
    losses = [loss for rank, loss in choice_losses(scores, ranks) if rank == min(ranks)]
    return sum(losses) / len(losses) if losses else 0.0
