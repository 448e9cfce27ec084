"""Prompts in, the policy's responses out; with `async_steps=1` begun before the update before.

Version v of the weights is the policy after v iterations. Iteration i learns from rollouts of
version max(0, i - async_steps): the config decides that, never how fast anything was.

    async_steps=0    sync i | sample i | update i
    async_steps=1    take the rollouts of i (version i - 1) | sync i | sample i + 1 beside update i

An engine of another process really samples while the update runs. One of this process shares the
policy's module: it samples i + 1 first, then the update runs; nothing is gained but the same order.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from stages.lm.batching import collate, pad_right
from stages.lm.engines.config import Correction
from stages.lm.rollout import RolloutEngine, Rollouts, Sampling, sampling_keys
from stages.lm.sampling import sample_responses
from stages.step3_policy.ppo.config import PpoConfig
from stages.step3_policy.ppo.data import PpoData, PromptSet
from stages.step3_policy.ppo.experience import Experience
from stages.step3_policy.ppo.metrics import Figures
from stages.step3_policy.ppo.mismatch import (
    check_difference,
    correction_figures,
    difference_figures,
)
from stages.step3_policy.ppo.roles import Roles

PROBE_TOKENS = 16  # a probe is sampled while everything waits


class StaleRolloutsError(RuntimeError):
    """Responses of other weights than those they should come from."""


def respond(
    engine: RolloutEngine,
    prompts: Sequence[list[int]],
    config: PpoConfig,
    *,
    stream: int,
    indices: Sequence[int],
    max_new_tokens: int | None = None,
) -> Rollouts:
    """One response to each prompt: by plain sampling, unless the user insists on another.

    The noise is a function of (seed, stream, prompt, place in the batch, position), so a prompt
    that comes twice gets two responses.

    Raises:
        StaleRolloutsError: the engine used other weights than it was given last.
    """
    rollouts = sample_responses(
        engine,
        prompts,
        Sampling(
            temperature=config.temperature,
            max_new_tokens=max_new_tokens or config.max_response_tokens,
            top_k=config.rollout.top_k,
            top_p=config.rollout.top_p,
        ),
        sampling_keys(config.seed, stream, indices, range(len(prompts))),
        sequences_per_batch=config.sequences_per_batch,
    )
    refuse_stale(rollouts, engine.version)
    return rollouts


def refuse_stale(rollouts: Rollouts, version: int) -> None:
    """Raises StaleRolloutsError unless that is the version they were sampled with."""
    if rollouts.version != version:
        raise StaleRolloutsError(
            f"rollouts of version {rollouts.version} of the weights, {version} was wanted"
        )


class RolloutSource:
    """Gives each iteration its rollouts, and the engine its weights.

    At most one batch is in flight: asked for, and not yet learnt from.
    """

    def __init__(self, roles: Roles, data: PpoData, config: PpoConfig) -> None:
        self.roles, self.data, self.config = roles, data, config
        self._flight: Future[Rollouts] | None = None
        self._synced: int | None = None
        self._probed: Figures = {}

    def take(self, iteration: int) -> tuple[PromptSet, Rollouts]:
        """Prompts of this iteration, one an episode, and their responses."""
        ahead = self.config.rollout.async_steps
        if self._flight is None:
            self.sync(iteration)
            rollouts = self._sample(iteration)
            version = iteration
        else:
            rollouts, version = self._flight.result(), iteration - ahead
            self._flight = None
        refuse_stale(rollouts, version)
        if ahead:
            self.sync(iteration)
            self._probed = self._probe(iteration)
            if iteration + 1 < self.config.iterations:
                self._flight = self._begin(iteration + 1)
        return self.data.prompts_of(iteration)[1], rollouts

    def sync(self, version: int) -> None:
        """Give the engine the policy's weights of now, once it has done what it was asked for."""
        if self._flight is not None:
            self._flight.result()
        if self._synced != version:
            engine = self.roles.engine
            own = engine.in_process  # its module is the policy's
            engine.load_weights(version, [] if own else self.roles.policy.engine_weights().items())
            self._synced = version

    def difference(self, experience: Experience) -> Figures:
        """How far engine and trainer are apart at the same weights, and what was done about it.

        Raises:
            UserError: too far.
        """
        old, engine, mask = experience.old_logprobs, experience.engine_logprobs, experience.mask
        figures = self._probed or difference_figures(old, engine, mask)
        check_difference(figures, self.config.rollout)
        if self.config.rollout.correction is Correction.none:
            return figures
        weights = experience.importance_weights
        return figures | correction_figures(old, engine, weights, mask)

    def in_flight(self) -> dict[str, Any]:
        """For a checkpoint: the rollouts that the next iteration learns from; {} if none yet."""
        return {} if self._flight is None else vars(self._flight.result())

    def load(self, in_flight: dict[str, Any]) -> None:
        """Continue from a checkpoint: sampled once, they are not sampled again."""
        self._flight = landed(Rollouts(**in_flight)) if in_flight else None

    def _sample(self, iteration: int) -> Rollouts:
        indices, prompts = self.data.prompts_of(iteration)
        return respond(
            self.roles.engine, prompts.tokens, self.config, stream=iteration, indices=indices
        )

    def _begin(self, iteration: int) -> Future[Rollouts]:
        if self.roles.engine.in_process:
            return landed(self._sample(iteration))
        thread = ThreadPoolExecutor(max_workers=1)  # does nothing but wait for the other process
        flight = thread.submit(self._sample, iteration)
        thread.shutdown(wait=False)
        return flight

    def _probe(self, iteration: int) -> Figures:
        """Both say what they think of a few short responses; rollouts of older weights cannot."""
        indices, prompts = self.data.prompts_of(iteration)
        count = self.config.rollout.probe_sequences
        tokens = prompts.tokens[:count]
        rollouts = respond(
            self.roles.engine,
            tokens,
            self.config,
            stream=iteration,
            indices=indices[:count],
            max_new_tokens=min(PROBE_TOKENS, self.config.max_response_tokens),
        )
        batch = collate(tokens, rollouts.tokens, self.roles.policy.pad_token_id)
        logprobs, _ = self.roles.policy.logprobs_and_entropies(batch)
        return difference_figures(logprobs, pad_right(rollouts.logprobs, 0.0), batch.response_mask)


def landed(rollouts: Rollouts) -> "Future[Rollouts]":
    """A flight that is over."""
    flight: Future[Rollouts] = Future()
    flight.set_result(rollouts)
    return flight
