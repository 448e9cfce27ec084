"""Best-of-n for a person who waits: n whole responses, the one the reward model likes best."""

from collections.abc import Iterator
from pathlib import Path

from reward.ensemble import load_scorer
from reward.scoring import score_responses
from stages.lm.engines.hf import HFEngine
from stages.lm.rollout import Sampling, sampling_keys
from stages.lm.streaming import Speaker
from stages.lm.tokens import decode_response, encode_prompt
from stages.records.schemas import Message


class BestOfSpeaker(Speaker):
    """Answers with the best of n samples. Policy and reward model share a tokenizer."""

    def __init__(self, folder: Path, *, reward_model: Path, n: int) -> None:
        super().__init__(folder)
        self.reward_model, self.n = load_scorer(reward_model), n

    def reply(self, prompt: list[Message], sampling: Sampling, seed: int) -> Iterator[str]:
        """The best response, at once: which it is shows only when all have ended."""
        eos, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        assert eos is not None
        assert pad is not None
        prompts = [encode_prompt(self.tokenizer, prompt)] * self.n
        keys = sampling_keys(seed, 0, range(self.n), range(self.n))
        engine = HFEngine(self.model, eos_token_id=eos, pad_token_id=pad)
        responses = engine.generate(prompts, sampling, keys).tokens
        scores = score_responses(self.reward_model.scores, prompts, responses, pad)
        yield decode_response(self.tokenizer, responses[int(scores.argmax())])
