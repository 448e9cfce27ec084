"""One optimizer step and one validation of the reward model (InstructGPT §3.5 Eq. 1, App. C.2)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reward.agreement import accuracy
from reward.encoding import SEPARATE, Chosen
from reward.model import RewardModel
from reward.ranked_prompts import (
    RankedPrompt,
    beside_labels,
    by_prompt,
    group_prompts,
    ranked_scores,
    score_ranked,
)
from reward.ranking import LOSSES, RankedScores, RankingLosses, pairwise_losses
from stages.lm.optimisation import OptimizerConfig, Schedule, ScheduleConfig
from stages.lm.training import Figures, TrainingPlan, batch_indices, epochs_to_steps
from stages.step2_reward.config import Denominator, Loss, RewardModelConfig


@dataclass(kw_only=True)
class RewardTrainer:
    """The model, its data, and what is done with them."""

    model: RewardModel
    config: RewardModelConfig
    train: Sequence[RankedPrompt]  # each with at least one untied pair
    validation: Sequence[RankedPrompt]
    pad_token_id: int
    encoding: Chosen = SEPARATE

    def plan(self) -> TrainingPlan:
        """The paper's schedule: cosine to a fraction of the peak rate over all steps."""
        config = self.config
        return TrainingPlan(
            losses_at=self.losses_at,
            total_steps=epochs_to_steps(len(self.train), config.batch_size, config.epochs),
            optimizer=OptimizerConfig.of(config, config.lr),
            schedule=ScheduleConfig(
                kind=Schedule.cosine,
                warmup_steps=config.warmup_steps,
                end=config.final_lr_fraction,
            ),
            log_every=config.log_every,
            checkpoint_every=config.checkpoint_every,
            validate=self.validate,
            validate_every=config.validate_every,
        )

    def losses_at(self, step: int) -> Iterator[tuple[Tensor, Figures]]:
        """The micro-batches of a step; their losses add up to the mean over its prompts."""
        config = self.config
        rows = batch_indices(len(self.train), config.batch_size, config.seed, step)
        batch = [self.train[row] for row in rows]
        num_pairs = sum(prompt.num_pairs for prompt in batch)
        for group in group_prompts(batch, config.microbatch_tokens, self.encoding.tokens):
            ranked = self._score([batch[index] for index in group])
            losses = self._losses(ranked)
            yield (
                losses.losses.sum() / len(batch),
                {
                    "accuracy/train": num_right(ranked) / num_pairs,
                    "batch/pairs": float(losses.num_pairs.sum()),
                },
            )

    def validate(self) -> dict[str, float]:
        """The validation figures as curves."""
        figures = self.evaluate(self.validation_scores())
        return {
            "loss/validation": figures["validation_loss"],
            "accuracy/validation": figures["validation_accuracy_labels"],
        }

    def validation_scores(self) -> Tensor:
        """(N,) raw scores of all validation responses, prompt after prompt."""
        return score_ranked(self.model.raw_scores, self.validation, self.pad_token_id)

    def evaluate(self, scores: Tensor) -> dict[str, float]:
        """Loss and accuracy by labels and by gold, from scores (N,) of the validation."""
        rows = by_prompt(scores, self.validation)
        figures = {
            "validation_loss": float(self._losses(ranked_scores(scores, self.validation)).mean),
            "validation_accuracy_labels": accuracy(*beside_labels(rows, self.validation)).value,
        }
        gold = [prompt.gold for prompt in self.validation if prompt.gold is not None]
        if len(gold) == len(rows):
            figures["validation_accuracy_gold"] = accuracy(rows, gold).value
        return figures

    def _score(self, prompts: Sequence[RankedPrompt]) -> RankedScores:
        scores = self.encoding.scores(self.model, prompts, self.pad_token_id)
        return ranked_scores(scores, prompts)

    def _losses(self, ranked: RankedScores) -> RankingLosses:
        if self.config.loss is Loss.pairwise:
            return pairwise_losses(ranked, count_ties=self.config.denominator is Denominator.all)
        return LOSSES[self.config.loss](ranked)


def num_right(ranked: RankedScores) -> float:
    """Untied pairs whose better completion scores higher; equal scores count half."""
    outcomes = 0.5 + 0.5 * torch.sign(ranked.differences.detach())
    return float((outcomes * ranked.preferences).sum())
