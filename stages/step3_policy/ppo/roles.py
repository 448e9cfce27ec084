"""The four models of PPO, each behind the few methods that the loop calls.

A role wraps a plain torch module. Its methods take whole batches and cut them into micro-batches of
similar length themselves, so the loop does not know how, or where, they are computed. Nothing here
ever enters training mode: outside SFT there is no dropout, and the ratio starts at exactly 1.

Dimension letters: B sequences, R tokens of the longest response; lower case: of a micro-batch.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reward.model import Critic, RewardModel
from stages.lm.batching import SequenceBatch, micro_batches
from stages.lm.logprobs import document_loss, response_logprobs, response_logprobs_and_entropy
from stages.lm.optimisation import NonFiniteError, OptimizerConfig, clip_and_step, make_optimizer
from stages.lm.rollout import RolloutEngine
from stages.step3_policy.ppo.anomalies import check_finite
from stages.step3_policy.ppo.config import KlPlacement, PpoConfig
from stages.step3_policy.ppo.ema import WeightAverage
from stages.step3_policy.ppo.experience import Experience
from stages.step3_policy.ppo.kl import k2, kl_losses
from stages.step3_policy.ppo.losses import policy_losses, value_losses
from stages.step3_policy.ppo.masked import masked_sum

Figures = dict[str, float]


class PolicyRole:
    """The language model in training, with its optimizer and the average of its weights."""

    def __init__(self, model: Any, config: PpoConfig, pad_token_id: int) -> None:
        self.model, self.config, self.pad_token_id = model, config, pad_token_id
        self.optimizer = make_optimizer(model, optimizer_config(config, config.policy_lr))
        self.average = WeightAverage(model, config.ema_decay)

    @torch.no_grad()
    def logprobs_and_entropies(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """(B, R) each: log-probs of the sampled tokens, entropies where they were sampled."""

        def forward(part: SequenceBatch) -> Tensor:
            return torch.stack(
                response_logprobs_and_entropy(self.model, part, self.config.temperature)
            )

        logprobs, entropies = token_tensors(forward, batch, self.config.microbatch_tokens)
        return logprobs, entropies

    def policy_gradient(self, minibatch: Experience, kl_coef: float) -> Figures:
        """Accumulate the gradient of the clipped surrogate: its mean over the minibatch's tokens.

        With the KL as a loss, `kl_coef` times that of the sequences joins it, in the same unit.
        """
        totals = dict.fromkeys(("loss/policy", "policy/clip_fraction", "policy/approx_kl"), 0.0)
        ratio_max, num_tokens = 0.0, int(minibatch.mask.sum())
        for part in parts_of(minibatch, self.config.microbatch_tokens):
            loss, figures, largest = self._surrogate(part, kl_coef, num_tokens)
            backward(loss, "policy loss")
            totals = {name: totals[name] + figures[name] for name in totals}
            ratio_max = max(ratio_max, largest)
        norm = gradient_norm(self.model)
        return {**totals, "policy/ratio_max": ratio_max, "grad_norm/policy": norm}

    def _surrogate(
        self, part: Experience, kl_coef: float, num_tokens: int
    ) -> tuple[Tensor, Figures, float]:
        """A micro-batch's share of the loss and of the figures, and its largest ratio."""
        logprobs = response_logprobs(self.model, part.batch, self.config.temperature)
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

    def ptx_gradient(self, documents: list[list[int]]) -> Figures:
        """Accumulate `ptx_coef` times the gradient of the mean cross-entropy of a text token.

        The gradient already there is set aside meanwhile, so that this one's own norm is known.
        """
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        held = [p.grad for p in parameters]
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._text_gradient(documents)
        norm = gradient_norm(self.model)
        for parameter, gradient in zip(parameters, held, strict=True):
            if parameter.grad is not None and gradient is not None:
                parameter.grad.add_(gradient)
        return {"loss/ptx": loss, "grad_norm/ptx": norm}

    def _text_gradient(self, documents: list[list[int]]) -> float:
        """The mean cross-entropy (nats a token), its gradient times `ptx_coef` accumulated."""
        num_tokens, total = sum(len(document) - 1 for document in documents), 0.0
        lengths = [len(document) for document in documents]
        for rows in micro_batches(lengths, self.config.microbatch_tokens):
            summed, _ = document_loss(
                self.model, [documents[row] for row in rows], self.pad_token_id
            )
            backward(self.config.ptx_coef * summed / num_tokens, "pretraining loss")
            total += float(summed.detach())
        return total / num_tokens

    def step(self, lr: float) -> None:
        """One optimizer step on what was accumulated."""
        clip_and_step(self.optimizer, self.model.parameters(), lr, self.config.max_grad_norm)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this role."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.weights,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load(state["average"])


class ReferenceRole:
    """The frozen start of the policy, from which the KL is measured (App. C.3)."""

    def __init__(self, model: Any, config: PpoConfig) -> None:
        self.model, self.config = model.requires_grad_(False), config

    @torch.no_grad()
    def logprobs(self, batch: SequenceBatch) -> Tensor:
        """(B, R): log-probs of the policy's tokens under the reference."""

        def forward(part: SequenceBatch) -> Tensor:
            return response_logprobs(self.model, part, self.config.temperature)

        return token_tensors(forward, batch, self.config.microbatch_tokens)


class RewardRole:
    """The frozen reward model: one score a response."""

    def __init__(self, model: RewardModel, config: PpoConfig) -> None:
        self.model, self.config = model.requires_grad_(False), config

    @torch.no_grad()
    def scores(self, batch: SequenceBatch) -> Tensor:
        """(B,) float32: normalised scores."""
        scores = torch.empty(len(batch.lengths), device=batch.lengths.device)
        for rows in micro_batches(batch.lengths.tolist(), self.config.microbatch_tokens):
            scores[rows] = self.model.scores(batch.select(rows))
        return scores


class CriticRole:
    """The value function: a network of its own, started as the reward model, with its own rate."""

    def __init__(self, model: Critic, config: PpoConfig) -> None:
        self.model, self.config = model, config
        self.optimizer = make_optimizer(model, optimizer_config(config, config.critic_lr))

    @torch.no_grad()
    def values(self, batch: SequenceBatch) -> Tensor:
        """(B, R): the reward still expected before each response token."""
        return token_tensors(self.model.values, batch, self.config.microbatch_tokens)

    def update(self, minibatch: Experience) -> Figures:
        """One optimizer step of the clipped value loss at the fixed rate (App. C.4)."""
        total, num_tokens = 0.0, int(minibatch.mask.sum())
        for part in parts_of(minibatch, self.config.microbatch_tokens):
            assert part.values is not None
            assert part.returns is not None
            losses = value_losses(
                self.model.values(part.batch),
                part.values,
                part.returns,
                self.config.value_clip_range,
            )
            loss = masked_sum(losses, part.mask) / num_tokens
            backward(loss, "value loss")
            total += float(loss.detach())
        norm = clip_and_step(
            self.optimizer,
            self.model.parameters(),
            self.config.critic_lr,
            self.config.max_grad_norm,
        )
        return {"loss/value": total, "grad_norm/critic": norm}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this role."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


@dataclass(kw_only=True)
class Roles:
    """Who takes part. The engine samples with the policy's weights.

    critic: None where the advantages need none. judge: a reward model that training does not
    maximise, where there is one to choose the kept weights by.
    """

    policy: PolicyRole
    ref_policy: ReferenceRole
    critic: CriticRole | None
    reward_model: RewardRole
    engine: RolloutEngine
    judge: RewardRole | None = None

    @property
    def trained(self) -> dict[str, PolicyRole | CriticRole]:
        """The roles that learn, by name: what a checkpoint holds."""
        critic = {} if self.critic is None else {"critic": self.critic}
        return {"policy": self.policy, **critic}


def optimizer_config(config: PpoConfig, lr: float) -> OptimizerConfig:
    """Policy and critic differ in their rate alone."""
    return OptimizerConfig(
        lr=lr,
        beta1=config.beta1,
        beta2=config.beta2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
    )


def token_tensors(
    forward: Callable[[SequenceBatch], Tensor], batch: SequenceBatch, max_tokens: int
) -> Tensor:
    """(..., B, R) from a `forward` that gives (..., b, r); 0 where masked."""
    parts = [
        (rows, forward(batch.select(rows)))
        for rows in micro_batches(batch.lengths.tolist(), max_tokens)
    ]
    first = parts[0][1]
    whole = first.new_zeros(*first.shape[:-2], *batch.response_mask.shape)
    for rows, part in parts:
        whole[..., rows, : part.shape[-1]] = part
    return whole


def parts_of(minibatch: Experience, max_tokens: int) -> Iterator[Experience]:
    """The minibatch's micro-batches, by length."""
    for rows in micro_batches(minibatch.batch.lengths.tolist(), max_tokens):
        yield minibatch.select(rows)


def backward(loss: Tensor, name: str) -> None:
    """Accumulate gradients. Raises NonFiniteError, which leaves the weights as they are."""
    if not math.isfinite(float(loss.detach())):
        raise NonFiniteError(f"the {name} is {float(loss.detach())}")
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped


def gradient_norm(model: nn.Module) -> float:
    """The norm of all gradients together."""
    gradients: Iterable[Tensor] = [p.grad for p in model.parameters() if p.grad is not None]
    return float(nn.utils.get_total_norm(gradients))
