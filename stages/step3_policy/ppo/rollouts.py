"""Prompts in, the policy's responses out."""

from collections.abc import Sequence

from stages.lm.rollout import RolloutEngine, Rollouts, Sampling, sampling_keys
from stages.lm.sampling import sample_responses
from stages.step3_policy.ppo.config import PpoConfig


def respond(
    engine: RolloutEngine,
    prompts: Sequence[list[int]],
    config: PpoConfig,
    *,
    stream: int,
    indices: Sequence[int],
) -> Rollouts:
    """One response to each prompt by plain sampling: what log-probs are kept are the policy's.

    The noise is a function of (seed, stream, prompt, place in the batch, position), so a prompt
    that comes twice gets two responses.
    """
    return sample_responses(
        engine,
        prompts,
        Sampling(temperature=config.temperature, max_new_tokens=config.max_response_tokens),
        sampling_keys(config.seed, stream, indices, range(len(prompts))),
        sequences_per_batch=config.sequences_per_batch,
    )
