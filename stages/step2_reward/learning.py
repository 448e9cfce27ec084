"""One optimizer step of the reward model (InstructGPT §3.5 Eq. 1, App. C.2), here or on ranks.

A step has `batch_size` comparison sets. They are dealt to the ranks whole, by tokens, and cut into
as many forwards on each; losses are divided by the sets of the whole step, so that neither changes
the gradient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from reward.encoding import SEPARATE, Chosen
from reward.model import RewardModel
from reward.ranked_prompts import RankedPrompt, group_prompts, ranked_scores
from reward.ranking import LOSSES, RankedScores, RankingLosses, pairwise_losses
from reward.scoring import TOKENS_PER_FORWARD
from stages.contracts import WorkerGroup
from stages.lm.backends.base import Backend, SingleProcess
from stages.lm.backends.make import make_backend
from stages.lm.backends.ranks import rank_and_size
from stages.lm.batching import collate
from stages.lm.dealing import Share, deal, deal_and_cut
from stages.lm.learning import Figures, Forward, Learner, LearnerGroup, RankLearner
from stages.lm.optimisation import OptimizerConfig
from stages.lm.process import prepare_process
from stages.lm.training import batch_indices
from stages.step2_reward.config import Denominator, Loss, RewardModelConfig
from stages.step2_reward.starting import Comparisons, Folders, read_comparisons, start

PART = "reward_model"


@dataclass(kw_only=True)
class Piece:
    """Comparison sets of one forward. num_pairs: of the whole step."""

    sets: list[RankedPrompt]
    num_pairs: int


@dataclass(kw_only=True)
class LearnRankings:
    """What is learnt: Eq. 1, or another loss of rankings."""

    config: RewardModelConfig
    train: Sequence[RankedPrompt]
    pad_token_id: int
    encoding: Chosen = SEPARATE
    rank: int = 0
    ranks: int = 1

    def pieces(self, step: int) -> list[Piece]:
        """This rank's sets of a step, by width, `microbatch_tokens` a forward."""
        config = self.config
        rows = batch_indices(len(self.train), config.batch_size, config.seed, step)
        batch = [self.train[row] for row in rows]
        num_pairs = sum(prompt.num_pairs for prompt in batch)
        own, forwards = self._deal(batch)[self.rank]
        return [
            Piece(sets=[batch[own[place]] for place in places], num_pairs=num_pairs)
            for places in forwards
        ]

    def _deal(self, batch: Sequence[RankedPrompt]) -> list[tuple[list[int], list[list[int]]]]:
        count, budget = self.encoding.tokens, self.config.microbatch_tokens

        def cut(rows: list[int]) -> list[list[int]]:
            return group_prompts([batch[row] for row in rows], budget, count)

        return deal_and_cut([count([prompt]) for prompt in batch], self.ranks, cut)

    def loss(self, forward: Forward, piece: Piece) -> tuple[Tensor, Figures]:
        """The sets' share of the mean over all sets of the step."""
        scores = forward(self.encoding.batch(piece.sets, self.pad_token_id))
        ranked = ranked_scores(scores, piece.sets)
        losses = ranking_losses(self.config, ranked)
        return losses.losses.sum() / self.config.batch_size, {
            "accuracy/train": num_right(ranked) / piece.num_pairs,
            "batch/pairs": float(losses.num_pairs.sum()),
        }


def ranking_losses(config: RewardModelConfig, ranked: RankedScores) -> RankingLosses:
    """The loss of each set that the config names."""
    if config.loss is Loss.pairwise:
        return pairwise_losses(ranked, count_ties=config.denominator is Denominator.all)
    return LOSSES[config.loss](ranked)


def num_right(ranked: RankedScores) -> float:
    """Untied pairs whose better completion scores higher; equal scores count half."""
    outcomes = 0.5 + 0.5 * torch.sign(ranked.differences.detach())
    return float((outcomes * ranked.preferences).sum())


class RewardLearner(Learner, Protocol):
    """A reward model in training."""

    def validation_scores(self) -> Tensor:
        """(N,) raw scores of all validation responses, prompt after prompt."""


class RewardRank(RankLearner[Piece]):
    """One rank, or the only process."""

    def __init__(
        self, objective: LearnRankings, backend: Backend, validation: Sequence[RankedPrompt]
    ) -> None:
        super().__init__(objective, backend)
        self.pad_token_id = objective.pad_token_id
        self.prompts = [prompt.prompt for prompt in validation for _ in prompt.responses]
        self.responses = [response for prompt in validation for response in prompt.responses]

    @torch.no_grad()
    def validation_scores(self, share: Share | None = None) -> Tensor:
        """(N,), or of the share's rows."""
        share = share or deal_responses(self.prompts, self.responses, 1)[0]
        scores = torch.empty(len(share.rows), device="cpu")
        for places in share.forwards:
            rows = [share.rows[place] for place in places]
            batch = collate(
                [self.prompts[row] for row in rows],
                [self.responses[row] for row in rows],
                self.pad_token_id,
            )
            scores[places] = self.backend.forward(batch).cpu()
        return scores


class RewardGroup(LearnerGroup):
    """A `RewardRank` on every rank."""

    def __init__(self, workers: WorkerGroup, validation: Sequence[RankedPrompt]) -> None:
        super().__init__(workers, PART)
        prompts = [prompt.prompt for prompt in validation for _ in prompt.responses]
        responses = [response for prompt in validation for response in prompt.responses]
        self.shares = deal_responses(prompts, responses, workers.shape.processes)

    def validation_scores(self) -> Tensor:
        """Dealt, and put back by row."""
        answers = self.workers.call(PART, "validation_scores", [(s,) for s in self.shares])
        scores = torch.empty(1 + max(row for share in self.shares for row in share.rows))
        for share, answer in zip(self.shares, answers, strict=True):
            scores[share.rows] = answer
        return scores


def deal_responses(
    prompts: Sequence[list[int]], responses: Sequence[list[int]], ranks: int
) -> list[Share]:
    """Shares of all responses, each with its own copy of the prompt."""
    lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    return deal(lengths, ranks, TOKENS_PER_FORWARD, num_tokens=sum(lengths))


def make_learner(
    config: RewardModelConfig,
    folders: Folders,
    model: RewardModel,
    comparisons: Comparisons,
    encoding: Chosen,
    workers: Mapping[str, WorkerGroup],
) -> RewardLearner:
    """`model` in this process, or one like it on every rank of the stage's worker group."""
    optimizer = OptimizerConfig.of(config, config.lr, config.precision)
    if not workers:
        objective = _objective(config, comparisons, encoding)
        return RewardRank(objective, SingleProcess(model, optimizer), comparisons.validation)
    (group,) = workers.values()
    group.build(load_rank, config, folders, encoding)
    return RewardGroup(group, comparisons.validation)


def load_rank(
    config: RewardModelConfig, folders: Folders, encoding: Chosen
) -> dict[str, RewardRank]:
    """What a rank of the worker group holds; it reads the comparisons itself."""
    prepare_process(config.threads, config.seed)
    comparisons = read_comparisons(config, folders)
    rank, ranks = rank_and_size()
    backend = make_backend(
        start(config, folders).model,
        OptimizerConfig.of(config, config.lr, config.precision),
        config.placement.kind,
        config.placement.deepspeed,
    )
    objective = _objective(config, comparisons, encoding, rank, ranks)
    return {PART: RewardRank(objective, backend, comparisons.validation)}


def _objective(
    config: RewardModelConfig,
    comparisons: Comparisons,
    encoding: Chosen,
    rank: int = 0,
    ranks: int = 1,
) -> LearnRankings:
    return LearnRankings(
        config=config,
        train=comparisons.train,
        pad_token_id=comparisons.pad_token_id,
        encoding=encoding,
        rank=rank,
        ranks=ranks,
    )
