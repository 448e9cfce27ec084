"""What the models answer to the held-out prompts, and what judges say of it.

Every model answers the same prompts, once each, with noise of its own, a function of the seed.
Under common noise the answers of two similar models go together, and a win rate would no longer be
the chance that a response of one beats a response of the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import torch

from reward.ensemble import Ensemble, Scorer, load_scorer
from reward.model import RewardModel
from reward.scoring import score_responses
from reward.text_model import TextRewardModel, reads_tokens_of
from reward.text_rewards import TextReward
from reward.total import TotalReward
from stages.contracts import GoldKind, UserError
from stages.lm.batching import collate, micro_batches
from stages.lm.engines.hf import HFEngine
from stages.lm.logprobs import response_logprobs
from stages.lm.rollout import Rollouts, Sampling, sampling_keys
from stages.lm.sampling import sample_responses
from stages.lm.tokens import decode_response, encode_prompt
from stages.records.schemas import Prompt
from stages.step4_evaluation.config import EvaluationConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS_PER_FORWARD = 8_192


@dataclass(kw_only=True)
class Answers:
    """N responses in the order of their prompts. gold: None where nobody knows it."""

    tokens: list[list[int]]  # EOS included where finished
    texts: list[str]
    finished: list[bool]
    proxy: np.ndarray  # (N,) float64, the reward model's normalised scores, else the whole reward
    gold: np.ndarray | None  # (N,) float64 in [0, 1]

    def select(self, rows: Sequence[int]) -> "Answers":
        """These responses, in this order."""
        return Answers(
            tokens=[self.tokens[row] for row in rows],
            texts=[self.texts[row] for row in rows],
            finished=[self.finished[row] for row in rows],
            proxy=self.proxy[rows],
            gold=None if self.gold is None else self.gold[rows],
        )


class Exam:
    """The prompts, how they are answered, and the two judges: reward model and gold."""

    def __init__(
        self,
        config: EvaluationConfig,
        tokenizer: "PreTrainedTokenizerBase",
        prompts: Sequence[Prompt],
        reward_model: Path | None,
    ) -> None:
        self.config, self.tokenizer, self.prompts = config, tokenizer, prompts
        self.encoded = [encode_prompt(tokenizer, row.prompt) for row in prompts]
        self.reward_model = self._proxy(reward_model)
        self.pad_token_id = int(tokenizer.pad_token_id)
        self.sampling = Sampling(
            max_new_tokens=config.max_response_tokens,
            temperature=config.temperature,
            greedy=config.greedy,
            top_k=config.top_k,
            top_p=config.top_p,
        )

    def _proxy(self, reward_model: Path | None) -> Scorer | TextReward:
        """The reward model, given text where the tokens are not its own; else the whole reward."""
        if reward_model is None:
            return TotalReward(self.config.reward)
        if reads_tokens_of(reward_model, self.tokenizer):
            return load_scorer(reward_model)
        return TextRewardModel(reward_model)

    def scorer(self) -> "tuple[Scorer, PreTrainedTokenizerBase]":
        """The reward model, where there is one, and the tokenizer that it reads."""
        if isinstance(self.reward_model, TextRewardModel):
            return self.reward_model.model, self.reward_model.tokenizer
        assert isinstance(self.reward_model, RewardModel | Ensemble)
        return self.reward_model, self.tokenizer

    def answer(self, model: Any, name: str) -> Answers:
        """One response a prompt."""
        rows = range(len(self.prompts))
        return self.sample(model, name, rows, [0] * len(rows), self.reward_model, self.sampling)

    def answer_best_of(self, model: Any, name: str, n: int, chooser: Scorer) -> Answers:
        """Of n responses a prompt the one that `chooser` scores highest, the first of equals."""
        rows = np.repeat(np.arange(len(self.prompts)), n).tolist()
        numbers = np.tile(np.arange(n), len(self.prompts)).tolist()
        answers = self.sample(model, name, rows, numbers, chooser, self.sampling)
        best = answers.proxy.reshape(-1, n).argmax(1) + np.arange(len(self.prompts)) * n
        chosen = answers.select(best.tolist())
        whole = range(len(self.prompts)), chosen.tokens, chosen.texts, chosen.finished
        chosen.proxy = self._score(self.reward_model, *whole)
        return chosen

    def sample(
        self,
        model: Any,
        name: str,
        rows: Sequence[int],
        numbers: Sequence[int],
        judge: Scorer | TextReward,
        sampling: Sampling,
    ) -> Answers:
        """Response `numbers[i]` to prompt `rows[i]`; the noise depends on model name and seed."""
        rollouts = self._generate(model, name, rows, numbers, sampling)
        texts = [decode_response(self.tokenizer, tokens) for tokens in rollouts.tokens]
        return Answers(
            tokens=rollouts.tokens,
            texts=texts,
            finished=rollouts.finished,
            proxy=self._score(judge, rows, rollouts.tokens, texts, rollouts.finished),
            gold=self._gold(rows, texts, rollouts.finished),
        )

    @torch.no_grad()
    def logprobs(self, model: Any, answers: Answers) -> np.ndarray:
        """(N,) float64: log pi(y | x) of whole responses under `model`."""
        lengths = [len(p) + len(r) for p, r in zip(self.encoded, answers.tokens, strict=True)]
        sums = np.zeros(len(lengths))
        for rows in micro_batches(lengths, TOKENS_PER_FORWARD):
            batch = collate(
                [self.encoded[i] for i in rows],
                [answers.tokens[i] for i in rows],
                self.pad_token_id,
            )
            logprobs = response_logprobs(model, batch, self.config.temperature)
            sums[rows] = logprobs.double().sum(1).cpu().numpy()
        return sums

    def _generate(
        self,
        model: Any,
        name: str,
        rows: Sequence[int],
        numbers: Sequence[int],
        sampling: Sampling,
    ) -> Rollouts:
        engine = HFEngine(
            model, eos_token_id=self.tokenizer.eos_token_id, pad_token_id=self.pad_token_id
        )
        return sample_responses(
            engine,
            [self.encoded[row] for row in rows],
            sampling,
            sampling_keys(self.config.seed, crc32(name.encode()), rows, numbers),
            sequences_per_batch=self.config.sequences_per_batch,
        )

    def _score(
        self,
        judge: Scorer | TextReward,
        rows: Sequence[int],
        tokens: Sequence[list[int]],
        texts: list[str],
        finished: list[bool],
    ) -> np.ndarray:
        if not isinstance(judge, RewardModel | Ensemble):
            return np.array(judge([self.prompts[row].prompt for row in rows], texts, finished))
        prompts = [self.encoded[row] for row in rows]
        scores = score_responses(judge.scores, prompts, tokens, self.pad_token_id)
        return scores.double().cpu().numpy()

    def _gold(
        self, rows: Sequence[int], texts: Sequence[str], finished: Sequence[bool]
    ) -> np.ndarray | None:
        if self.config.gold is GoldKind.none:
            return None
        from stages.world.gold import gold_reward

        try:
            return np.array(
                [
                    gold_reward(self.prompts[row].prompt, text, ended)
                    for row, text, ended in zip(rows, texts, finished, strict=True)
                ]
            )
        except ValueError as error:
            raise UserError(
                "the embedded world cannot judge these prompts",
                got=str(error),
                do="set evaluation.gold=none: the reward model then judges alone",
            ) from None
