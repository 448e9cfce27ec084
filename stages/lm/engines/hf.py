"""The engine in the policy's own process: a Transformers model and its key-value cache.

Cost follows real tokens: a finished sequence leaves the batch.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.lm.batching import pad_left
from stages.lm.rollout import Rollouts, Sampling, choose_tokens, truncated, uniforms


class HFEngine:
    """A `RolloutEngine` over a Transformers model, in PPO the policy's own."""

    in_process = True

    def __init__(self, model: Any, *, eos_token_id: int, pad_token_id: int) -> None:
        self.model, self.eos_token_id, self.pad_token_id = model, eos_token_id, pad_token_id
        self.version = 0

    @torch.no_grad()
    def load_weights(self, version: int, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Copy the parameters in, but for those that are the model's own."""
        own = dict(self.model.named_parameters())
        for name, tensor in tensors:
            if tensor.data_ptr() != own[name].data_ptr():
                own[name].copy_(tensor)
        self.version = version

    def close(self) -> None:
        """Nothing to give back: the model belongs to who made it."""

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, keys: np.ndarray
    ) -> Rollouts:
        """Responses to B prompts (token ids), with the noise of `keys` (B,)."""
        decoding = _Decoding(self, prompts, keys)
        # Autocast keeps rounded weights until its outermost context ends: once, not once a token.
        with torch.autocast(self.model.device.type, enabled=False):
            for position in range(sampling.max_new_tokens):
                decoding.step(position, sampling)
                if decoding.done():
                    break
        return decoding.rollouts


class _Decoding:
    """The state of one `generate` call. `rows` are the sequences still being written."""

    def __init__(self, engine: HFEngine, prompts: Sequence[list[int]], keys: np.ndarray) -> None:
        from transformers import DynamicCache

        self.engine, self.keys = engine, keys
        device = engine.model.device
        self.tokens = pad_left(prompts, engine.pad_token_id).to(device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        columns = torch.arange(self.tokens.shape[1], device=device)
        self.mask = (columns >= self.tokens.shape[1] - lengths[:, None]).long()
        self.cache = DynamicCache(config=engine.model.config)
        self.rows = np.arange(len(prompts))
        self.rollouts = Rollouts(
            tokens=[[] for _ in prompts],
            logprobs=[[] for _ in prompts],
            finished=[False] * len(prompts),
            version=engine.version,
        )

    def step(self, position: int, sampling: Sampling) -> None:
        """Draw one token for every unfinished row."""
        logprobs = truncated(self._next_logprobs(sampling.temperature), sampling)
        chosen = choose_tokens(logprobs, sampling, uniforms(self.keys[self.rows], position))
        taken = logprobs.gather(1, chosen[:, None])[:, 0]
        self._record(chosen.tolist(), taken.tolist())
        self._keep(chosen)

    def done(self) -> bool:
        """Whether every sequence has ended."""
        return len(self.rows) == 0

    def _next_logprobs(self, temperature: float) -> Tensor:
        """(B, V) float32 at the sampling temperature. Position ids come from the mask."""
        width = self.tokens.shape[1]
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -width:]
        output = self.engine.model(
            input_ids=self.tokens,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1].float()
        return (logits / temperature).log_softmax(-1)

    def _record(self, chosen: list[int], logprobs: list[float]) -> None:
        for row, token, logprob in zip(self.rows, chosen, logprobs, strict=True):
            self.rollouts.tokens[row].append(token)
            self.rollouts.logprobs[row].append(logprob)
            self.rollouts.finished[row] = token == self.engine.eos_token_id

    def _keep(self, chosen: Tensor) -> None:
        """Drop finished rows from the batch and its cache; append the chosen token to the rest."""
        alive = (chosen != self.engine.eos_token_id).nonzero()[:, 0]
        if len(alive) < len(chosen):
            self.cache.batch_select_indices(alive)
            self.rows = self.rows[alive.cpu().numpy()]
        self.tokens = chosen[alive, None]
        self.mask = torch.cat([self.mask[alive], self.mask.new_ones(len(alive), 1)], dim=1)
