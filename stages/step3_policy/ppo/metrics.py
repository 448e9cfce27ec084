"""The figures of an iteration, by the names that docs/metrics.md defines."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor

from stages.step3_policy.ppo.experience import Experience
from stages.step3_policy.ppo.kl import k1, k3
from stages.step3_policy.ppo.masked import masked_mean, masked_variance, sequence_sums

Figures = dict[str, float]


class Stopwatch:
    """Wall time by phase; a phase entered again adds to its time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        started = time.perf_counter()
        yield
        passed = time.perf_counter() - started
        self.seconds[name] = self.seconds.get(name, 0.0) + passed

    def figures(self) -> Figures:
        """Seconds of each phase, and of all together."""
        named = {f"time/{name}_s": seconds for name, seconds in self.seconds.items()}
        return {**named, "time/iteration_s": sum(self.seconds.values())}


def experience_figures(experience: Experience) -> Figures:
    """What the policy did, and what the reward model and the critic thought of it."""
    mask, scores = experience.mask, experience.scores
    log_ratio = experience.old_logprobs - experience.ref_logprobs
    figures = {
        "rollout/score_mean": float(scores.mean()),
        "rollout/score_std": float(scores.std(correction=0)),
        "rollout/kl": float(sequence_sums(k1(log_ratio), mask).mean()),
        "rollout/kl_k3": float(sequence_sums(k3(log_ratio), mask).mean()),
        "rollout/entropy": float(masked_mean(experience.entropies, mask)),
        "rollout/response_tokens": float(mask.sum(-1).float().mean()),
        "rollout/eos_rate": float(experience.finished.float().mean()),
        "reward/total_mean": float(sequence_sums(experience.rewards, mask).mean()),
    }
    if experience.disagreements is not None:
        figures["reward/disagreement"] = float(experience.disagreements.mean())
    if experience.values is not None and experience.returns is not None:
        explained = explained_variance(experience.values, experience.returns, mask)
        figures["critic/explained_variance"] = float(explained)
    return figures


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns): 1 is perfect, 0 no better than a constant."""
    spread = masked_variance(returns, mask).clamp_min(1e-8)  # equal returns: nothing to explain
    return 1.0 - masked_variance(returns - values, mask) / spread


def mean_figures(updates: Sequence[Mapping[str, float]]) -> Figures:
    """Means over the minibatches of an iteration; a name ending in `_max` gives the largest."""
    columns = {name: [update[name] for update in updates] for name in updates[0]}
    return {
        name: max(column) if name.endswith("_max") else sum(column) / len(column)
        for name, column in columns.items()
    }
