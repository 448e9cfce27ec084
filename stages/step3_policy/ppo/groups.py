"""The roles of PPO on many processes, with the methods of those on one: the loop cannot tell.

Each group role deals a batch to the ranks of its worker group, where a role of `roles.py` works on
its rows, and puts together what comes back: values by row, figures and losses by adding up.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.contracts import WorkerGroup
from stages.lm.batching import SequenceBatch
from stages.lm.dealing import Share, added_up, deal
from stages.lm.engines.hf import HFEngine
from stages.lm.rollout import Rollouts, Sampling
from stages.lm.sampling import sample_responses
from stages.step3_policy.ppo.config import PpoConfig
from stages.step3_policy.ppo.experience import Experience
from stages.step3_policy.ppo.roles import Figures


class RoleGroup:
    """A role on every rank."""

    part = ""

    def __init__(self, workers: WorkerGroup, config: PpoConfig, part: str = "") -> None:
        self.workers, self.config, self.part = workers, config, part or self.part

    def shares(self, batch: SequenceBatch) -> list[Share]:
        """A share of the batch a rank."""
        tokens = int(batch.response_lengths.sum())
        return self.deal(batch.lengths.tolist(), tokens)

    def deal(self, lengths: Sequence[int], num_tokens: int) -> list[Share]:
        """The same, from lengths."""
        ranks, max_tokens = self.workers.shape.processes, self.config.microbatch_tokens
        return deal(lengths, ranks, max_tokens, num_tokens)

    def on_rows(self, method: str, batch: SequenceBatch) -> list[tuple[list[int], Any]]:
        """(rows, what the method gave for them), by rank."""
        shares = self.shares(batch)
        given = [(batch.select(share.rows), share) for share in shares]
        answers = self.workers.call(self.part, method, given)
        return [(share.rows, answer) for share, answer in zip(shares, answers, strict=True)]

    def on_all(self, method: str, *arguments: Any) -> list[Any]:
        """The same arguments everywhere."""
        given = [arguments] * self.workers.shape.processes
        return self.workers.call(self.part, method, given)


class TrainedGroup(RoleGroup):
    """A role in training; a checkpoint has files of all its ranks."""

    def save(self, folder: Path) -> None:
        """Write what a checkpoint keeps of this role."""
        self.on_all("save", folder)

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint."""
        self.on_all("load", folder)


class PolicyGroup(TrainedGroup):
    """`PolicyRole` on every rank."""

    part = "policy"

    def __init__(self, workers: WorkerGroup, config: PpoConfig, pad_token_id: int) -> None:
        super().__init__(workers, config)
        self.pad_token_id = pad_token_id

    def logprobs_and_entropies(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """(B, R) each."""
        answers = self.on_rows("logprobs_and_entropies", batch)
        logprobs = by_row([(rows, answer[0]) for rows, answer in answers], batch)
        entropies = by_row([(rows, answer[1]) for rows, answer in answers], batch)
        return logprobs, entropies

    def policy_gradient(self, minibatch: Experience, kl_coef: float) -> Figures:
        """Accumulate the gradient of the clipped surrogate."""
        shares = self.shares(minibatch.batch)
        given = [(minibatch.select(share.rows), kl_coef, share) for share in shares]
        return added_up(self.workers.call(self.part, "policy_gradient", given))

    def ptx_gradient(self, documents: list[list[int]]) -> Figures:
        """Accumulate the gradient of the pretraining text."""
        lengths = [len(document) for document in documents]
        shares = self.deal(lengths, sum(lengths) - len(lengths))
        given = [([documents[row] for row in share.rows], share) for share in shares]
        return added_up(self.workers.call(self.part, "ptx_gradient", given))

    def step(self, lr: float) -> Figures:
        """One optimizer step, the same on every rank."""
        figures: Figures = self._of_first("step", lr)
        return figures

    def update_average(self) -> None:
        """Move the average towards the weights."""
        self._of_first("update_average")

    def weights(self) -> dict[str, Tensor]:
        """A copy of the whole weights, on the CPU."""
        weights: dict[str, Tensor] = self._of_first("weights")
        return weights

    def engine_weights(self) -> dict[str, Tensor]:
        """What an engine of its own is sent."""
        weights: dict[str, Tensor] = self._of_first("engine_weights")
        return weights

    def average_weights(self) -> dict[str, Tensor]:
        """The same of the average."""
        weights: dict[str, Tensor] = self._of_first("average_weights")
        return weights

    def _of_first(self, method: str, *arguments: Any) -> Any:
        return self.workers.call_for_first(self.part, method, *arguments)


class ReferenceGroup(RoleGroup):
    """`ReferenceRole` on every rank."""

    part = "ref_policy"

    def logprobs(self, batch: SequenceBatch) -> Tensor:
        """(B, R)."""
        return by_row(self.on_rows("logprobs", batch), batch)


class RewardGroup(RoleGroup):
    """`RewardRole` on every rank; the judge is one, too."""

    part = "reward_model"

    def scores_and_disagreements(self, batch: SequenceBatch) -> tuple[Tensor, Tensor | None]:
        """(B,) each."""
        judged = torch.empty(2, len(batch.lengths))
        answers = self.on_rows("scores_and_disagreements", batch)
        for rows, (scores, disagreements) in answers:
            judged[0, rows] = scores
            if disagreements is not None:
                judged[1, rows] = disagreements
        of_ensemble = answers[0][1][1] is not None
        return judged[0], judged[1] if of_ensemble else None

    def scores(self, batch: SequenceBatch) -> Tensor:
        """(B,)."""
        return self.scores_and_disagreements(batch)[0]


class CriticGroup(TrainedGroup):
    """`CriticRole` on every rank."""

    part = "critic"

    def values(self, batch: SequenceBatch) -> Tensor:
        """(B, R)."""
        return by_row(self.on_rows("values", batch), batch)

    def update(self, minibatch: Experience) -> Figures:
        """One optimizer step."""
        shares = self.shares(minibatch.batch)
        given = [(minibatch.select(share.rows), share) for share in shares]
        return added_up(self.workers.call(self.part, "update", given))


class EngineGroup(RoleGroup):
    """A `RolloutEngine` on every rank: prompts are dealt, weights are sent.

    in_process: it samples with the policy's own modules, so weights need no sending.
    """

    part = "engine"

    def __init__(self, workers: WorkerGroup, config: PpoConfig) -> None:
        super().__init__(workers, config)
        self.version = 0
        self.in_process = config.placement.engine_shares_weights

    def load_weights(self, version: int, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Take the policy's parameters as that version."""
        self.on_all("load_weights", version, dict(tensors))
        self.version = version

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, keys: np.ndarray
    ) -> Rollouts:
        """Responses to B prompts; which rank samples one does not change it."""
        shares = self.deal([len(prompt) for prompt in prompts], 0)
        given = [([prompts[row] for row in s.rows], sampling, keys[s.rows]) for s in shares]
        answers = self.workers.call(self.part, "generate", given)
        (version,) = {answer.version for answer in answers}
        whole = Rollouts(
            tokens=[[] for _ in prompts],
            logprobs=[[] for _ in prompts],
            finished=[False for _ in prompts],
            version=version,
        )
        for share, answer in zip(shares, answers, strict=True):
            for place, row in enumerate(share.rows):
                whole.tokens[row] = answer.tokens[place]
                whole.logprobs[row] = answer.logprobs[place]
                whole.finished[row] = answer.finished[place]
        return whole

    def close(self) -> None:
        """The ranks belong to who made the group."""


class RankEngine:
    """The engine of a rank, which cuts its prompts into batches itself."""

    def __init__(self, engine: HFEngine, sequences_per_batch: int) -> None:
        self.engine, self.sequences_per_batch = engine, sequences_per_batch

    def load_weights(self, version: int, weights: dict[str, Tensor]) -> None:
        """The policy's parameters; none where they are its own."""
        self.engine.load_weights(version, weights.items())

    def generate(self, prompts: list[list[int]], sampling: Sampling, keys: np.ndarray) -> Rollouts:
        """Responses to this rank's prompts."""
        return sample_responses(
            self.engine, prompts, sampling, keys, sequences_per_batch=self.sequences_per_batch
        )


def by_row(parts: Sequence[tuple[list[int], Tensor]], batch: SequenceBatch) -> Tensor:
    """(B, R) from the rows of each rank, cut to the longest response there."""
    whole = torch.zeros(batch.response_mask.shape)
    for rows, part in parts:
        whole[rows, : part.shape[1]] = part
    return whole
