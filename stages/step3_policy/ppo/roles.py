"""The four models of PPO, each behind the few methods that the loop calls.

A role wraps a plain torch module. Its methods take whole batches and cut them into micro-batches of
similar length themselves, so the loop does not know how, or where, they are computed. In a worker
group every rank has such roles: they get its rows of a batch and its `Share` of the work
(`groups.py` deals and adds up).

Nothing here ever enters training mode: outside SFT there is no dropout, and the ratio starts at
exactly 1.

Dimension letters: B sequences, R tokens of the longest response; lower case: of a micro-batch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reward.ensemble import Ensemble, Scorer, disagreement
from reward.model import Critic
from reward.text_sum import TextRewards
from stages.lm.backends.base import Backend, SingleProcess
from stages.lm.batching import SequenceBatch
from stages.lm.checkpoints import disk_errors
from stages.lm.dealing import Share, deal, with_last
from stages.lm.engines.config import EngineKind
from stages.lm.logprobs import response_logprobs
from stages.lm.modules import ResponseLogprobs, ResponseValues, documents_batch
from stages.lm.optimisation import NonFiniteError, OptimizerConfig
from stages.lm.peft.adapters import merged_weights
from stages.lm.rollout import RolloutEngine
from stages.step3_policy.ppo.anomalies import check_finite
from stages.step3_policy.ppo.config import KlPlacement, PpoConfig
from stages.step3_policy.ppo.ema import WeightAverage
from stages.step3_policy.ppo.experience import Experience
from stages.step3_policy.ppo.kl import k2, kl_losses
from stages.step3_policy.ppo.losses import policy_losses, value_losses
from stages.step3_policy.ppo.masked import masked_sum

if TYPE_CHECKING:
    from stages.step3_policy.ppo.groups import (
        CriticGroup,
        PolicyGroup,
        ReferenceGroup,
        RewardGroup,
        TrainedGroup,
    )

Figures = dict[str, float]
MakeBackend = Callable[[nn.Module, OptimizerConfig], Backend]


class PolicyRole:
    """The language model in training, with its optimizer and the average of its weights."""

    def __init__(
        self,
        model: Any,
        config: PpoConfig,
        pad_token_id: int,
        make_backend: MakeBackend = SingleProcess,
    ) -> None:
        self.model, self.config, self.pad_token_id = model, config, pad_token_id
        trained = OptimizerConfig.of(config, config.policy_lr, config.precision)
        self.backend = make_backend(ResponseLogprobs(model), trained)
        self.average = WeightAverage(self.backend.shards(), config.ema_decay)

    @torch.no_grad()
    def logprobs_and_entropies(
        self, batch: SequenceBatch, share: Share | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, R) each: log-probs of the sampled tokens, entropies where they were sampled."""

        def forward(part: SequenceBatch) -> Tensor:
            return self.backend.forward(part, self.config.temperature, True)

        logprobs, entropies = token_tensors(forward, batch, share or all_of(batch, self.config))
        return logprobs, entropies

    def policy_gradient(
        self, minibatch: Experience, kl_coef: float, share: Share | None = None
    ) -> Figures:
        """Accumulate the gradient of the clipped surrogate: its mean over the minibatch's tokens.

        With the KL as a loss, `kl_coef` times that of the sequences joins it, in the same unit.
        """
        share = share or all_of(minibatch.batch, self.config)
        totals = dict.fromkeys(("loss/policy", "policy/clip_fraction", "policy/approx_kl"), 0.0)
        ratio_max, step_follows = 0.0, self.config.ptx_coef == 0
        for rows, last in with_last(share.forwards):
            self.backend.begin(last_of_part=last, last_of_step=last and step_follows)
            part = minibatch.select(rows)
            loss, figures, largest = self._surrogate(part, kl_coef, share.num_tokens)
            backward(self.backend, loss, "policy loss")
            totals = {name: totals[name] + figures[name] for name in totals}
            ratio_max = max(ratio_max, largest)
        return {**totals, "policy/ratio_max": ratio_max, **self._norm("grad_norm/policy")}

    def _surrogate(
        self, part: Experience, kl_coef: float, num_tokens: int
    ) -> tuple[Tensor, Figures, float]:
        """A micro-batch's share of the loss and of the figures, and its largest ratio."""
        logprobs = self.backend.forward(part.batch, self.config.temperature)
        check_finite(logprobs.detach() - part.old_logprobs, part.mask, "log-ratio of the policy")
        losses, ratios, clipped = policy_losses(
            logprobs, part.old_logprobs, part.advantages, self.config.clip_range
        )
        losses = part.importance_weights * losses  # 1, or what `mismatch` corrects with
        loss = masked_sum(losses, part.mask) / num_tokens
        if self.config.kl_placement is KlPlacement.loss:
            kl = kl_losses(
                self.config.kl_loss, logprobs, part.old_logprobs, part.ref_logprobs, part.mask
            )
            loss = loss + kl_coef * (part.advantage_scale * kl).sum() / num_tokens
        moved = k2(logprobs.detach() - part.old_logprobs)
        figures = {
            "loss/policy": float(loss.detach()),
            "policy/clip_fraction": float(masked_sum(clipped.float(), part.mask)) / num_tokens,
            "policy/approx_kl": float(masked_sum(moved, part.mask)) / num_tokens,
        }
        return loss, figures, float(ratios.detach().masked_fill(~part.mask, 0.0).max())

    def ptx_gradient(self, documents: list[list[int]], share: Share | None = None) -> Figures:
        """Accumulate `ptx_coef` times the gradient of the mean cross-entropy of a text token.

        The gradient already there is set aside meanwhile, so that this one's own norm is known.
        """
        held = self.backend.set_gradients_aside()
        batch = documents_batch(documents, self.pad_token_id)
        loss = self._text_gradient(batch, share or all_of(batch, self.config))
        norm = self._norm("grad_norm/ptx")
        self.backend.add_gradients(held)
        return {"loss/ptx": loss, **norm}

    def _text_gradient(self, documents: SequenceBatch, share: Share) -> float:
        """The mean cross-entropy (nats a token), its gradient times `ptx_coef` accumulated."""
        total = 0.0
        for rows, last in with_last(share.forwards):
            self.backend.begin(last_of_part=last, last_of_step=last)
            summed = -self.backend.forward(documents.select(rows)).sum()
            loss = self.config.ptx_coef * summed / share.num_tokens
            backward(self.backend, loss, "pretraining loss")
            total += float(summed.detach())
        return total / share.num_tokens

    def _norm(self, name: str) -> Figures:
        norm = self.backend.gradient_norm()
        return {} if norm is None else {name: norm}

    def step(self, lr: float) -> Figures:
        """One optimizer step on what was accumulated."""
        return {"grad_norm/step": self.backend.step(lr)}

    def update_average(self) -> None:
        """Move the average towards the weights."""
        self.average.update(self.backend.shards())

    def weights(self) -> dict[str, Tensor]:
        """A copy of the trained weights, whole, by the model's own names, on the CPU."""
        return of_model(self.backend.gather(self.backend.shards()))

    def engine_weights(self) -> dict[str, Tensor]:
        """What an engine of its own is sent; to vLLM adapters go merged, a layer each."""
        if self.config.peft.merges and self.config.rollout.kind is EngineKind.vllm:
            return {name: tensor.cpu() for name, tensor in merged_weights(self.model).items()}
        return self.weights()

    def average_weights(self) -> dict[str, Tensor]:
        """The same of the average."""
        return of_model(self.backend.gather(self.average.weights))

    def save(self, folder: Path) -> None:
        """Write what a checkpoint keeps of this role."""
        with disk_errors(folder):
            self.backend.save(folder)
            self.backend.save_shards(self.average.weights, folder / "average")

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint."""
        self.backend.load(folder)
        self.backend.load_shards(self.average.weights, folder / "average")


class ReferenceRole:
    """The frozen start of the policy, from which the KL is measured (App. C.3)."""

    def __init__(self, model: Any, config: PpoConfig) -> None:
        self.model, self.config = model.requires_grad_(False), config

    @torch.no_grad()
    def logprobs(self, batch: SequenceBatch, share: Share | None = None) -> Tensor:
        """(B, R): log-probs of the policy's tokens under the reference."""

        def forward(part: SequenceBatch) -> Tensor:
            return response_logprobs(self.model, part, self.config.temperature)

        return token_tensors(forward, batch, share or all_of(batch, self.config))


class RewardRole:
    """The frozen reward model, or ensemble of them: one score a response."""

    def __init__(self, model: Scorer, config: PpoConfig) -> None:
        self.model, self.config = model.requires_grad_(False), config

    @torch.no_grad()
    def scores_and_disagreements(
        self, batch: SequenceBatch, share: Share | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(B,) float32 each: normalised scores; how far an ensemble's members disagree on them."""
        judged = torch.empty(2, len(batch.lengths), device=batch.lengths.device)
        for rows in (share or all_of(batch, self.config)).forwards:
            judged[:, rows] = self._judge(batch.select(rows))
        return judged[0], judged[1] if isinstance(self.model, Ensemble) else None

    def scores(self, batch: SequenceBatch) -> Tensor:
        """(B,) float32: normalised scores."""
        return self.scores_and_disagreements(batch)[0]

    def _judge(self, part: SequenceBatch) -> Tensor:
        """(2, b): scores and disagreements; a single model has none of these."""
        if not isinstance(self.model, Ensemble):
            return self.model.scores(part).expand(2, -1)
        members = self.model.member_scores(part)
        return torch.stack([self.model.combined(members), disagreement(members)])


class CriticRole:
    """The value function: a network of its own, started as the reward model, with its own rate."""

    def __init__(
        self, model: Critic, config: PpoConfig, make_backend: MakeBackend = SingleProcess
    ) -> None:
        self.model, self.config = model, config
        trained = OptimizerConfig.of(config, config.critic_lr, config.precision)
        self.backend = make_backend(ResponseValues(model), trained)

    @torch.no_grad()
    def values(self, batch: SequenceBatch, share: Share | None = None) -> Tensor:
        """(B, R): the reward still expected before each response token."""
        return token_tensors(self.backend.forward, batch, share or all_of(batch, self.config))

    def update(self, minibatch: Experience, share: Share | None = None) -> Figures:
        """One optimizer step of the clipped value loss at the fixed rate (App. C.4)."""
        share, total = share or all_of(minibatch.batch, self.config), 0.0
        for rows, last in with_last(share.forwards):
            self.backend.begin(last_of_part=last, last_of_step=last)
            part = minibatch.select(rows)
            assert part.values is not None
            assert part.returns is not None
            losses = value_losses(
                self.backend.forward(part.batch),
                part.values,
                part.returns,
                self.config.value_clip_range,
            )
            loss = masked_sum(losses, part.mask) / share.num_tokens
            backward(self.backend, loss, "value loss")
            total += float(loss.detach())
        return {"loss/value": total, "grad_norm/critic": self.backend.step(self.config.critic_lr)}

    def save(self, folder: Path) -> None:
        """Write what a checkpoint keeps of this role."""
        with disk_errors(folder):
            self.backend.save(folder)

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint."""
        self.backend.load(folder)


@dataclass(kw_only=True)
class Roles:
    """Who takes part, in this process or in groups. The engine samples with the policy's weights.

    critic: None where the advantages need none. reward_model: None where there is none that reads
    the policy's tokens. judge: a reward model that training does not
    maximise, where there is one to choose the kept weights by. text_rewards: what the reward has
    beside the reward model; they run in the stage's own process.
    """

    policy: "PolicyRole | PolicyGroup"
    ref_policy: "ReferenceRole | ReferenceGroup"
    critic: "CriticRole | CriticGroup | None"
    reward_model: "RewardRole | RewardGroup | None"
    engine: RolloutEngine
    judge: "RewardRole | RewardGroup | None" = None
    text_rewards: TextRewards | None = None

    @property
    def trained(self) -> "dict[str, PolicyRole | CriticRole | TrainedGroup]":
        """The roles that learn, by name: what a checkpoint holds."""
        critic = {} if self.critic is None else {"critic": self.critic}
        return {"policy": self.policy, **critic}


def of_model(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the names they have in the model that a `ResponseLogprobs` holds."""
    return {name.removeprefix("model."): tensor for name, tensor in weights.items()}


def all_of(batch: SequenceBatch, config: PpoConfig) -> Share:
    """The whole batch as one share: by length, `microbatch_tokens` a forward."""
    (share,) = deal(
        batch.lengths.tolist(), 1, config.microbatch_tokens, int(batch.response_lengths.sum())
    )
    return share


def token_tensors(
    forward: Callable[[SequenceBatch], Tensor], batch: SequenceBatch, share: Share
) -> Tensor:
    """(..., B, R) from a `forward` that gives (..., b, r); 0 where masked."""
    parts = [(rows, forward(batch.select(rows))) for rows in share.forwards]
    first = parts[0][1]
    whole = first.new_zeros(*first.shape[:-2], *batch.response_mask.shape)
    for rows, part in parts:
        whole[..., rows, : part.shape[-1]] = part
    return whole


def backward(backend: Backend, loss: Tensor, name: str) -> None:
    """Accumulate gradients. Raises NonFiniteError, which leaves the weights as they are."""
    if not math.isfinite(float(loss.detach())):
        raise NonFiniteError(f"the {name} is {float(loss.detach())}")
    backend.backward(loss)
