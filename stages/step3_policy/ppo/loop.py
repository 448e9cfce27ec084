"""PPO-ptx, in the order of InstructGPT's App. C.4.

The objective (Eq. 2), over prompts of D and pretraining text:

    E[ r(x, y) - beta log(pi(y|x) / pi_ref(y|x)) ]  +  gamma E[ log pi(x) ]

    x  ~ prompts;  y ~ pi(.|x)                       rollout_batch_size, samples_per_prompt
    r_t = -beta (log pi_t - log ref_t);  r_T += score
    V = critic(x, y);  A, R = GAE(r, V);  A whitened     or RLOO, GRPO, REINFORCE++: no critic
    for each minibatch of a random split:            one pass
        gradient of the clipped surrogate
        + ptx_coef * gradient of the text's cross-entropy, into the same step
        step the policy;  step the critic;  average the policy's weights

Every random choice is a function of (seed, iteration), so an iteration can be made again.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch

from stages.contracts import Context, InterruptedRunError
from stages.lm.batching import collate, pad_right
from stages.lm.checkpoints import Checkpoints
from stages.lm.optimisation import Schedule, ScheduleConfig, lr_factor
from stages.lm.rollout import Rollouts
from stages.step3_policy.ppo.advantages import estimate, whiten
from stages.step3_policy.ppo.anomalies import check_log_ratios, keep_if_broken
from stages.step3_policy.ppo.config import EmaUnit, KlController, KlPlacement, PpoConfig
from stages.step3_policy.ppo.data import PpoData, PromptSet
from stages.step3_policy.ppo.experience import Experience, minibatch_rows
from stages.step3_policy.ppo.kl import adapted_kl_coef, kl_penalty
from stages.step3_policy.ppo.metrics import Figures, Stopwatch, experience_figures, mean_figures
from stages.step3_policy.ppo.mismatch import importance_weights
from stages.step3_policy.ppo.rewards import apply_missing_eos, token_rewards
from stages.step3_policy.ppo.roles import Roles
from stages.step3_policy.ppo.rollouts import RolloutSource
from stages.step3_policy.ppo.scoring import breakdown, keep_if_unscored, score
from stages.step3_policy.ppo.state import LoopState, resume, save
from stages.step3_policy.ppo.validation import (
    gold_rewards,
    respond_to_validation,
    validate,
)


@dataclass(kw_only=True)
class PpoLoop:
    """The loop over what takes part in it; iterations count from 0."""

    roles: Roles
    data: PpoData
    config: PpoConfig
    context: Context
    source: RolloutSource = field(init=False)

    def __post_init__(self) -> None:
        self.source = RolloutSource(self.roles, self.data, self.config)

    def train(self) -> LoopState:
        """Make the iterations that are left; the roles end as trained."""
        checkpoints = Checkpoints(self.context.checkpoints)
        done, state = resume(checkpoints, self.roles, self.config, self.context.journal)
        self.source.load(state.in_flight)
        self.context.journal.start(self.config.iterations, "iterations")
        if done == 0:
            self.context.journal.log(0, self.validate(state, done))
        while done < self.config.iterations and not state.stopped_by:
            figures = self.iterate(done, state.kl_coef)
            done += 1
            state.iterations = done
            state.kl_coef = next_kl_coef(self.config, state.kl_coef, figures["rollout/kl"])
            if done % self.config.validation_every == 0 or done == self.config.iterations:
                figures |= self.validate(state, done)
            state.heed(self.config.stop, figures)
            if state.stopped_by and "validation/kl" not in figures:
                figures |= self.validate(state, done)
            self.tell(figures, done)
            self.keep(checkpoints, state, done)
        return state

    def iterate(self, iteration: int, kl_coef: float) -> Figures:
        """Sample, judge, update: one pass through the box above. Gives the figures to log."""
        clock, roles = Stopwatch(), self.roles
        with clock.phase("rollout"):
            prompts, rollouts = self.sample(iteration)
        with clock.phase("scoring"):
            with self.keeping(prompts, rollouts, f"iteration {iteration + 1}"):
                experience = make_experience(roles, prompts, rollouts, self.config, kl_coef)
            with keep_if_broken(experience, self.context.checkpoints, iteration):
                check_log_ratios(experience)
            difference = self.source.difference(experience)
            judged = gold_rewards(self.data, prompts, rollouts, self.config.gold)
            judged |= breakdown(experience.parts)
        lr = policy_lr(self.config, iteration)
        updates = []
        for update, rows in minibatch_rows(self.config, iteration):
            minibatch = experience.select(rows)
            with keep_if_broken(minibatch, self.context.checkpoints, iteration):
                with clock.phase("policy"):
                    figures = self.update_policy(minibatch, update, kl_coef, lr)
                if roles.critic is not None:
                    with clock.phase("critic"):
                        figures |= roles.critic.update(minibatch)
            updates.append(figures)
        if self.config.ema_unit is EmaUnit.iteration:
            roles.policy.update_average()
        return {
            **experience_figures(experience),
            **difference,
            **{f"rollout/{name}_mean": sum(c) / len(c) for name, c in judged.items()},
            **mean_figures(updates),
            "lr/policy": lr,
            "kl_coef": kl_coef,
            **clock.figures(),
        }

    def sample(self, iteration: int) -> tuple[PromptSet, Rollouts]:
        """Prompts of this iteration, one an episode, and the responses to learn from."""
        return self.source.take(iteration)

    def update_policy(
        self, minibatch: Experience, update: int, kl_coef: float, lr: float
    ) -> Figures:
        """Both gradients of Eq. 2 into one optimizer step; then the average moves."""
        policy = self.roles.policy
        figures = policy.policy_gradient(minibatch, kl_coef)
        if self.config.ptx_coef > 0:
            figures |= policy.ptx_gradient(self.data.documents_of(update))
        figures |= policy.step(lr)
        if self.config.ema_unit is EmaUnit.minibatch:
            policy.update_average()
        return figures

    def validate(self, state: LoopState, done: int) -> Figures:
        """Judge the policy on validation prompts; remember the best."""
        self.source.sync(done)
        prompts, rollouts = self.data.validation, respond_to_validation(self.roles, self.data)
        with self.keeping(prompts, rollouts, f"validation after iteration {done}"):
            validation = validate(self.roles, self.data, rollouts)
        state.note_validation(validation.figures, self.roles.policy, self.config.select, done)
        self.context.journal.table(done, "samples", validation.samples)
        return validation.figures

    def keeping(
        self, prompts: PromptSet, rollouts: Rollouts, when: str
    ) -> AbstractContextManager[None]:
        """Around what asks for scores: what gets none is kept."""
        return keep_if_unscored(self.data, prompts, rollouts, self.context.checkpoints, when)

    def tell(self, figures: Figures, done: int) -> None:
        """Log the iteration and move the bar."""
        self.context.journal.log(done, figures)
        shown = {"score": figures["rollout/score_mean"], "kl": figures["rollout/kl"]}
        self.context.journal.advance(done, shown)

    def keep(self, checkpoints: Checkpoints, state: LoopState, done: int) -> None:
        """Write a checkpoint when it is time, when a rule ended the training, or when asked to."""
        stop = self.context.should_stop()
        due = done % self.config.checkpoint_every == 0 and done < self.config.iterations
        if stop or due or state.stopped_by:
            state.in_flight = self.source.in_flight()
            save(checkpoints, done, self.roles, state)
        if stop:
            raise InterruptedRunError(f"stopped after iteration {done} of {self.config.iterations}")


def make_experience(
    roles: Roles, prompts: PromptSet, rollouts: Rollouts, config: PpoConfig, kl_coef: float
) -> Experience:
    """What models and rewards say of the responses, and the targets that follow from it.

    Raises:
        RewardError: a component of the reward failed.
    """
    batch = collate(prompts.tokens, rollouts.tokens, roles.policy.pad_token_id)
    mask, finished = batch.response_mask, torch.tensor(rollouts.finished)
    # Not the engine's log-probs: these come from the forward that the updates differentiate.
    old_logprobs, entropies = roles.policy.logprobs_and_entropies(batch)
    ref_logprobs = roles.ref_policy.logprobs(batch)
    values = None if roles.critic is None else roles.critic.values(batch)
    scored = score(roles, batch, prompts, rollouts, config)

    in_reward = kl_coef if config.kl_placement is KlPlacement.reward else 0.0
    rewards = token_rewards(
        apply_missing_eos(scored.total, finished, config.missing_eos, config.missing_eos_penalty),
        kl_penalty(old_logprobs, ref_logprobs, in_reward),
        mask,
    )
    learnt = whiten(rewards, mask, center=False) if config.whiten_rewards else rewards
    targets = estimate(learnt, values, mask, config)
    engine_logprobs = pad_right(rollouts.logprobs, 0.0)
    return Experience(
        batch=batch,
        finished=finished,
        engine_logprobs=engine_logprobs,
        old_logprobs=old_logprobs,
        ref_logprobs=ref_logprobs,
        entropies=entropies,
        scores=scored.total,
        parts=scored.parts,
        disagreements=scored.disagreements,
        rewards=rewards,
        values=values,
        advantages=targets.advantages,
        returns=targets.returns,
        advantage_scale=torch.ones_like(scored.total) * targets.scale,
        importance_weights=importance_weights(old_logprobs, engine_logprobs, config.rollout),
    )


def policy_lr(config: PpoConfig, iteration: int) -> float:
    """From a tenth of the peak to the peak over the first ten iterations, then constant (C.4)."""
    schedule = ScheduleConfig(
        kind=Schedule.constant, warmup_steps=config.warmup_iterations, start=config.warmup_start
    )
    return config.policy_lr * lr_factor(schedule, iteration, config.iterations)


def next_kl_coef(config: PpoConfig, kl_coef: float, kl: float) -> float:
    """The coefficient of the next iteration, after one whose responses had this mean KL."""
    if config.kl_controller is KlController.fixed:
        return kl_coef
    return adapted_kl_coef(
        kl_coef,
        kl,
        target_kl=config.target_kl,
        episodes=config.rollout_batch_size,
        horizon=config.kl_horizon,
    )
