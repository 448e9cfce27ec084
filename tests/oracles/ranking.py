"""Eq. 1 of InstructGPT in plain Python: one pair after another, loss and gradient."""

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
