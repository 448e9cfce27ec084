"""Where the roles' models come from: a model each, or adapters on one base in memory."""

from pathlib import Path
from typing import Any, Protocol

from reward.ensemble import Scorer, first_member, load_scorer
from reward.model import (
    Critic,
    RewardModel,
    critic_from,
    critic_from_policy,
    load_reward_model,
)
from stages.lm.loading import load_causal_lm
from stages.lm.peft.config import PeftKind
from stages.lm.peft.methods import train_biases
from stages.lm.peft.shared_base import SharedBase


class Models(Protocol):
    """Every call gives a model of its own."""

    def language_model(self, *, trainable: bool = False) -> Any:
        """The start of PPO: policy, reference, engine."""

    def reward_model(self) -> Scorer:
        """Frozen."""

    def critic(self) -> Critic:
        """A trainable copy of the reward model (App. C.4), or of an ensemble's first member.

        Without one: of the start of PPO, with a head of 0.
        """


class WholeModels:
    """Each with weights of its own; of those that are trained, `kind` says which learn."""

    def __init__(self, start: Path, reward_model: Path | None, kind: PeftKind) -> None:
        self._start, self._reward_model, self._kind = start, reward_model, kind

    def language_model(self, *, trainable: bool = False) -> Any:
        """From its folder; what is not trained is frozen by its role."""
        model = load_causal_lm(self._start)
        if trainable and self._kind is PeftKind.bitfit:
            train_biases(model)
        return model

    def reward_model(self) -> Scorer:
        """From its folder."""
        assert self._reward_model is not None
        return load_scorer(self._reward_model)

    def critic(self) -> Critic:
        """From the same, else from the start; the head is trained in any case."""
        if self._reward_model is None:
            critic = critic_from_policy(load_causal_lm(self._start))
        else:
            critic = critic_from(load_reward_model(first_member(self._reward_model)))
        if self._kind is PeftKind.bitfit:
            train_biases(critic.backbone)
        return critic


class AdaptedModels:
    """Adapters on one frozen base.

    The reference is the base with SFT's adapter, the policy a trainable copy of that; the reward
    model has an adapter and a head, the critic trainable copies of both.
    """

    def __init__(self, base: Path, start: Path, reward_model: Path | None, kind: PeftKind) -> None:
        self._base = SharedBase(base, kind)
        self._start, self._reward_model = start, reward_model

    def language_model(self, *, trainable: bool = False) -> Any:
        """The base with SFT's adapter."""
        return self._base.causal_lm(self._start, trainable=trainable)

    def reward_model(self) -> RewardModel:
        """The base with the reward model's adapter and head."""
        assert self._reward_model is not None
        return RewardModel(self._base.classifier(self._reward_model))

    def critic(self) -> Critic:
        """The same, to be trained; else the base with SFT's adapter and a new head."""
        if self._reward_model is None:
            return critic_from_policy(self._base.causal_lm(self._start, trainable=True))
        network = self._base.classifier(self._reward_model, trainable=True)
        return critic_from(RewardModel(network))
