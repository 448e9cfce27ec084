"""Many samples of the SFT policy for one prompt, and what the reward model says of each.

P prompts, N samples a prompt. What best-of-n measures and rejection sampling learns from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reward.ensemble import load_scorer
from reward.scoring import score_responses
from stages.contracts import Context, GoldKind, InterruptedRunError
from stages.lm.engines.hf import HFEngine
from stages.lm.loading import load_causal_lm, load_tokenizer, text_contract
from stages.lm.prompts import FittingPrompts
from stages.lm.rollout import Sampling, sampling_keys
from stages.lm.sampling import sample_responses
from stages.lm.tokens import decode_response
from stages.step3_policy.best_of_n_config import SamplesConfig


@dataclass(kw_only=True)
class Samples:
    """N responses to each of P prompts; rewards are (P, N). gold: None where it is not known."""

    texts: list[list[str]]
    finished: np.ndarray  # (P, N) bool
    proxy: np.ndarray
    gold: np.ndarray | None


class Sampler:
    """The SFT policy and the reward model, with all it takes to sample and to score."""

    def __init__(self, config: SamplesConfig, sft: Path, reward_model: Path) -> None:
        self.config = config
        self.tokenizer = load_tokenizer(sft / "model")
        model = load_causal_lm(sft / "model")
        self.contract = text_contract(self.tokenizer, model.config.max_position_embeddings)
        self.engine = HFEngine(
            model,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        self.reward_model = load_scorer(reward_model / "model")

    def samples(
        self, rows: FittingPrompts, number: int, context: Context, stream: int = 0
    ) -> Samples:
        """`number` responses to each prompt, judged. stream: of noise, one a table of prompts.

        Raises InterruptedRunError when asked to stop: there is no checkpoint.
        """
        shape = (len(rows.records), number)
        owners = [row for row in range(shape[0]) for _ in range(number)]
        prompts = [rows.tokens[owner] for owner in owners]
        context.journal.start(len(prompts), "responses")
        rollouts = sample_responses(
            self.engine,
            prompts,
            Sampling(
                max_new_tokens=self.config.max_response_tokens, temperature=self.config.temperature
            ),
            sampling_keys(
                self.config.seed, stream, owners, [i % number for i in range(len(owners))]
            ),
            sequences_per_batch=self.config.sequences_per_batch,
            tell=_told(context),
        )
        scores = score_responses(
            self.reward_model.scores, prompts, rollouts.tokens, self.engine.pad_token_id
        )
        texts = [decode_response(self.tokenizer, tokens) for tokens in rollouts.tokens]
        return Samples(
            texts=[texts[start : start + number] for start in range(0, len(texts), number)],
            finished=np.array(rollouts.finished).reshape(shape),
            proxy=scores.double().numpy().reshape(shape),
            gold=self._gold(rows, owners, texts, rollouts.finished),
        )

    def _gold(
        self,
        rows: FittingPrompts,
        owners: Sequence[int],
        texts: Sequence[str],
        finished: Sequence[bool],
    ) -> np.ndarray | None:
        if self.config.gold is not GoldKind.world:
            return None
        from stages.world.gold import gold_reward

        judged = zip(owners, texts, finished, strict=True)
        gold = [gold_reward(rows.records[owner].prompt, text, done) for owner, text, done in judged]
        return np.array(gold).reshape(len(rows.records), -1)


def _told(context: Context) -> Callable[[int], None]:
    def tell(done: int) -> None:
        context.journal.advance(done)
        if context.should_stop():
            raise InterruptedRunError("stopped while sampling: the next run samples again")

    return tell
