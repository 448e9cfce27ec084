"""The reward model's training and what is measured of it on validation comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from reward.agreement import accuracy
from reward.encoding import SEPARATE, Chosen
from reward.model import RewardModel
from reward.ranked_prompts import (
    RankedPrompt,
    beside_labels,
    by_prompt,
    ranked_scores,
    score_ranked,
)
from stages.contracts import Context
from stages.lm.backends.base import copy_weights
from stages.lm.optimisation import Schedule, ScheduleConfig
from stages.lm.training import Trained, TrainingPlan, epochs_to_steps, train_steps
from stages.step2_reward.config import RewardModelConfig
from stages.step2_reward.learning import RewardLearner, ranking_losses


@dataclass(kw_only=True)
class RewardTrainer:
    """The model, its data, and what is done with them."""

    model: RewardModel
    config: RewardModelConfig
    train: Sequence[RankedPrompt]  # each with at least one untied pair
    validation: Sequence[RankedPrompt]
    pad_token_id: int
    encoding: Chosen = SEPARATE

    def fit(self, learner: RewardLearner, context: Context) -> Trained:
        """Train; then `model` has the last weights, or those that early stopping keeps."""
        trained = train_steps(learner, self.plan(learner), context)
        copy_weights(trained.best.weights or learner.weights(), self.model)
        return trained

    def plan(self, learner: RewardLearner) -> TrainingPlan:
        """The paper's schedule: cosine to a fraction of the peak rate over all steps."""
        config = self.config
        return TrainingPlan(
            total_steps=epochs_to_steps(len(self.train), config.batch_size, config.epochs),
            lr=config.lr,
            schedule=ScheduleConfig(
                kind=Schedule.cosine,
                warmup_steps=config.warmup_steps,
                end=config.final_lr_fraction,
            ),
            log_every=config.log_every,
            checkpoint_every=config.checkpoint_every,
            validate=lambda: self.validate(learner.validation_scores()),
            validate_every=config.validate_every,
            early_stopping=config.early_stopping,
        )

    def validate(self, scores: Tensor) -> dict[str, float]:
        """The validation figures as curves, from scores (N,) of the validation."""
        figures = self.evaluate(scores)
        return {
            "loss/validation": figures["validation_loss"],
            "accuracy/validation": figures["validation_accuracy_labels"],
        }

    def validation_scores(self) -> Tensor:
        """(N,) raw scores of all validation responses by `model`, prompt after prompt."""
        return score_ranked(self.model.raw_scores, self.validation, self.pad_token_id)

    def evaluate(self, scores: Tensor) -> dict[str, float]:
        """Loss and accuracy by labels and by gold, from scores (N,) of the validation."""
        rows = by_prompt(scores, self.validation)
        ranked = ranked_scores(scores, self.validation)
        figures = {
            "validation_loss": float(ranking_losses(self.config, ranked).mean),
            "validation_accuracy_labels": accuracy(*beside_labels(rows, self.validation)).value,
        }
        gold = [prompt.gold for prompt in self.validation if prompt.gold is not None]
        if len(gold) == len(rows):
            figures["validation_accuracy_gold"] = accuracy(rows, gold).value
        return figures
