"""A streamed reply is the response the batch engine would give."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.lm.engines.hf import HFEngine
from stages.lm.rollout import Sampling
from stages.lm.streaming import Speaker
from stages.lm.tokens import decode_response, encode_prompt

PROMPT = [{"role": "user", "content": "write about the cat ."}]


@pytest.fixture
def speaker(tiny_model_folder: Path) -> Speaker:
    return Speaker(tiny_model_folder / "model")


def test_greedy_reply_is_the_engines(
    speaker: Speaker, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    """Mutation: feed the whole prompt again beside the cache, or drop the cache."""
    sampling = Sampling(max_new_tokens=12, greedy=True)
    engine = HFEngine(
        tiny_model,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.pad_token_id,
    )
    prompt = encode_prompt(tiny_tokenizer, PROMPT)
    (tokens,) = engine.generate([prompt], sampling, np.zeros(1, dtype=np.uint64)).tokens
    *_, last = speaker.reply(PROMPT, sampling, seed=0)
    assert last == decode_response(tiny_tokenizer, tokens)


def test_replies_grow_and_a_seed_repeats_them(speaker: Speaker) -> None:
    sampling = Sampling(max_new_tokens=8)
    first, again = (list(speaker.reply(PROMPT, sampling, seed=3)) for _ in range(2))
    assert first == again
    assert all(later.startswith(earlier) for earlier, later in pairwise(first))
    assert len(first) <= 8


def test_unknown_and_known_words(speaker: Speaker) -> None:
    assert speaker.unknown_words("the cat saw a dinosaur .") == ["saw", "a", "dinosaur"]
    known = speaker.known_words()
    assert "cat" in known
    assert not {"<pad>", "<eos>", "<unk>"} & set(known)
