"""The engine samples from the model's own distribution, whatever the batch."""

import numpy as np
import torch

from stages.lm.batching import collate
from stages.lm.engines.hf import HFEngine
from stages.lm.logprobs import response_logprobs
from stages.lm.rollout import Sampling, choose_tokens, sampling_keys, truncated, uniforms

PROMPTS = [[5, 7, 8], [6, 9], [10, 11, 12, 13, 14], [7]]


def engine(model, eos=2):
    return HFEngine(model, eos_token_id=eos, pad_token_id=0)


def test_engine_logprobs_equal_the_training_forward(tiny_model):
    """Red when the mask, the positions or the cache of a dropped row are wrong (shift by one)."""
    sampling = Sampling(max_new_tokens=9, temperature=0.7)
    rollouts = engine(tiny_model).generate(
        PROMPTS, sampling, sampling_keys(0, 0, range(4), [0] * 4)
    )
    batch = collate(PROMPTS, rollouts.tokens, pad_token_id=0)
    recomputed = response_logprobs(tiny_model, batch, temperature=0.7)
    for row, logprobs in enumerate(rollouts.logprobs):
        torch.testing.assert_close(
            recomputed[row, : len(logprobs)], torch.tensor(logprobs), rtol=0, atol=2e-6
        )


def test_split_of_the_batch_changes_no_token(tiny_model):
    sampling = Sampling(max_new_tokens=12)
    keys = sampling_keys(3, 1, range(4), [0] * 4)
    together = engine(tiny_model).generate(PROMPTS, sampling, keys)
    for row, prompt in enumerate(PROMPTS):
        alone = engine(tiny_model).generate([prompt], sampling, keys[row : row + 1])
        assert alone.tokens[0] == together.tokens[row]


def test_finished_rows_end_in_eos_and_others_are_cut(tiny_model):
    rollouts = engine(tiny_model).generate(
        PROMPTS * 8, Sampling(max_new_tokens=15), sampling_keys(0, 0, range(32), [0] * 32)
    )
    assert any(rollouts.finished)
    assert not all(rollouts.finished)
    for tokens, finished in zip(rollouts.tokens, rollouts.finished, strict=True):
        assert (tokens[-1] == 2) == finished
        assert 2 not in tokens[:-1]
        assert finished or len(tokens) == 15


def test_pad_equal_to_eos_changes_nothing(tiny_model):
    sampling, keys = Sampling(max_new_tokens=10), sampling_keys(5, 0, range(4), [0] * 4)
    usual = engine(tiny_model).generate(PROMPTS, sampling, keys)
    shared = HFEngine(tiny_model, eos_token_id=2, pad_token_id=2).generate(PROMPTS, sampling, keys)
    assert usual.tokens == shared.tokens


def test_noise_is_uniform_and_differs_by_every_part_of_its_key():
    keys = sampling_keys(0, 0, list(range(20000)), [0] * 20000)
    noise = uniforms(keys, 0)
    assert abs(noise.mean() - 0.5) < 0.01
    assert abs(np.var(noise) - 1 / 12) < 0.002
    variants = [
        sampling_keys(*parts) for parts in ((0, 0, [1], [0]), (1, 0, [1], [0]), (0, 1, [1], [0]))
    ]
    variants.append(sampling_keys(0, 0, [1], [1]))
    assert len({float(uniforms(key, 0)[0]) for key in variants} | {float(noise[0])}) == 5
    assert uniforms(keys[:1], 0) != uniforms(keys[:1], 1)


def test_inverse_transform_picks_by_cumulated_probability():
    logprobs = torch.tensor([[0.5, 0.3, 0.2]]).log().repeat(4, 1)
    chosen = choose_tokens(logprobs, Sampling(max_new_tokens=1), np.array([0.0, 0.49, 0.51, 0.99]))
    assert chosen.tolist() == [0, 0, 1, 2]


def test_sampled_frequencies_follow_the_probabilities():
    probabilities = torch.tensor([0.1, 0.6, 0.3])
    noise = uniforms(sampling_keys(0, 0, list(range(30000)), [0] * 30000), 0)
    chosen = choose_tokens(probabilities.log().expand(30000, 3), Sampling(max_new_tokens=1), noise)
    assert torch.allclose(torch.bincount(chosen) / 30000, probabilities, atol=0.01)


def test_top_k_and_top_p_keep_the_likely_tokens():
    logprobs = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert truncated(logprobs, Sampling(max_new_tokens=1, top_k=2)).isfinite().tolist() == [
        [True, True, False, False]
    ]
    assert truncated(logprobs, Sampling(max_new_tokens=1, top_p=0.7)).isfinite().tolist() == [
        [True, True, False, False]
    ]
