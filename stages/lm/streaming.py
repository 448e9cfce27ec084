"""One response, token by token, for a person who reads along. Batches: `stages.lm.rollout`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.lm.loading import load_causal_lm, load_tokenizer
from stages.lm.rollout import Sampling, choose_tokens, truncated
from stages.lm.tokens import decode_response, encode_prompt, encode_text
from stages.records.schemas import Message


class Speaker:
    """A model that answers prompts while one listens."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = load_causal_lm(folder)
        self.tokenizer = load_tokenizer(folder)

    def reply(self, prompt: list[Message], sampling: Sampling, seed: int) -> Iterator[str]:
        """The response so far, after each token; the last one is the whole of it."""
        tokens: list[int] = []
        for token in self.tokens(encode_prompt(self.tokenizer, prompt), sampling, seed):
            tokens.append(token)
            yield decode_response(self.tokenizer, tokens)

    def unknown_words(self, text: str) -> list[str]:
        """Words of `text` that the tokenizer can only read as unknown."""
        unknown = self.tokenizer.unk_token_id
        return [word for word in text.split() if unknown in encode_text(self.tokenizer, word)]

    def known_words(self) -> list[str]:
        """The vocabulary in alphabetical order, without special tokens."""
        special = set(self.tokenizer.all_special_tokens)
        return sorted(word for word in self.tokenizer.get_vocab() if word not in special)

    @torch.no_grad()
    def tokens(self, prompt: list[int], sampling: Sampling, seed: int) -> Iterator[int]:
        """Sampled token ids; the end-of-sequence token is not among them."""
        from transformers import DynamicCache

        cache, noise = DynamicCache(config=self.model.config), np.random.default_rng(seed)
        unread = torch.tensor([prompt], device=self.model.device)
        for _ in range(sampling.max_new_tokens):
            output = self.model(
                input_ids=unread, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            logprobs = (output.logits[:, -1].float() / sampling.temperature).log_softmax(-1)
            chosen = choose_tokens(truncated(logprobs, sampling), sampling, noise.random(1))
            if int(chosen) == self.tokenizer.eos_token_id:
                return
            yield int(chosen)
            unread = chosen[:, None]
