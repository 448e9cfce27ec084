"""Responses to many prompts: cut into batches of similar prompt length, given back in order."""

from collections.abc import Callable, Sequence

import numpy as np

from stages.lm.rollout import RolloutEngine, Rollouts, Sampling


def sample_responses(
    engine: RolloutEngine,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    keys: np.ndarray,
    *,
    sequences_per_batch: int,
    tell: Callable[[int], None] = lambda _: None,
) -> Rollouts:
    """One response to each of N prompts (token ids), with the noise of `keys` (N,).

    sequences_per_batch: an engine of another process gets them all and cuts them itself. tell:
    called after each batch with the number of responses done.
    """
    size = sequences_per_batch if engine.in_process else len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    result = Rollouts(
        tokens=[[] for _ in prompts],
        logprobs=[[] for _ in prompts],
        finished=[False for _ in prompts],
    )
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        part = engine.generate([prompts[row] for row in rows], sampling, keys[rows])
        for place, row in enumerate(rows):
            result.tokens[row] = part.tokens[place]
            result.logprobs[row] = part.logprobs[place]
            result.finished[row] = part.finished[place]
        assert start == 0 or part.version == result.version, "weights changed between batches"
        result.version = part.version
        tell(start + len(rows))
    return result
