"""Batches of similar length are a matter of speed alone."""

from typing import Any

from stages.lm.engines.hf import HFEngine
from stages.lm.rollout import Sampling, sampling_keys
from stages.lm.sampling import sample_responses


def test_batching_changes_neither_order_nor_samples(tiny_model: Any, tiny_tokenizer: Any) -> None:
    """Mutation: results in the order of the batches, or keys not moved with their prompts."""
    engine = HFEngine(tiny_model, eos_token_id=tiny_tokenizer.eos_token_id, pad_token_id=0)
    prompts = [[1, 7, 8, 9], [1, 7], [1, 9, 8], [1, 10, 11, 12, 13], [1, 8]]
    keys = sampling_keys(0, 0, range(5), [0] * 5)
    sampling = Sampling(max_new_tokens=6)
    done: list[int] = []
    together = sample_responses(
        engine, prompts, sampling, keys, sequences_per_batch=2, tell=done.append
    )
    for row, prompt in enumerate(prompts):
        alone = engine.generate([prompt], sampling, keys[row : row + 1])
        assert together.tokens[row] == alone.tokens[0]
        assert together.finished[row] == alone.finished[0]
    assert done == [2, 4, 5]
