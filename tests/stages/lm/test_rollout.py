"""The engine samples from the model's own distribution, whatever the batch."""

import copy

import numpy as np
import pytest
import torch

from stages.contracts import UserError
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


def slow_truncated(probabilities: list[float], top_k: int, top_p: float) -> list[float]:
    """Token by token: the k likeliest, then the fewest of them that reach p of what they have."""
    order = sorted(range(len(probabilities)), key=lambda token: -probabilities[token])
    kept = order[:top_k] if top_k else order
    total, nucleus, reached = sum(probabilities[token] for token in kept), [], 0.0
    for token in kept:
        if reached >= top_p * total:
            break
        nucleus.append(token)
        reached += probabilities[token]
    mass = sum(probabilities[token] for token in nucleus)
    return [p / mass if t in nucleus else 0.0 for t, p in enumerate(probabilities)]


@pytest.mark.parametrize(
    ("top_k", "top_p"), [(0, 1.0), (1, 1.0), (5, 1.0), (99, 1.0), (0, 0.7), (0, 1e-9), (6, 0.8)]
)
def test_truncation_equals_a_slow_reference(top_k, top_p):
    """Mutations: `>` for `>=`; top_p of the whole distribution after top_k; not normalised."""
    logprobs = (
        torch.randn(50, 20, generator=torch.Generator().manual_seed(0)).mul(2).log_softmax(-1)
    )
    kept = truncated(logprobs, Sampling(max_new_tokens=1, top_k=top_k, top_p=top_p)).exp()
    slow = [slow_truncated(row, top_k, top_p) for row in logprobs.exp().tolist()]
    torch.testing.assert_close(kept, torch.tensor(slow), rtol=1e-5, atol=1e-7)


def test_truncated_sampling_draws_from_what_is_left(tiny_model):
    """Frequencies of 20,000 first tokens against the slow reference at a temperature of 1.3, and
    the log-probs that come with them. Mutation: log-probs of the whole distribution."""
    sampling = Sampling(max_new_tokens=1, temperature=1.3, top_k=6, top_p=0.7)
    keys = sampling_keys(0, 0, range(20000), [0] * 20000)
    rollouts = engine(tiny_model).generate([PROMPTS[0]] * 20000, sampling, keys)
    with torch.no_grad():
        logits = tiny_model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1]
    expected = torch.tensor(slow_truncated((logits / 1.3).softmax(-1).tolist(), 6, 0.7))
    tokens = torch.tensor(rollouts.tokens)[:, 0]
    frequencies = torch.bincount(tokens, minlength=len(expected)) / 20000
    torch.testing.assert_close(frequencies, expected, rtol=0, atol=0.015)
    torch.testing.assert_close(
        torch.tensor(rollouts.logprobs)[:, 0], expected[tokens].log(), rtol=0, atol=1e-5
    )


def test_greedy_takes_the_likeliest_whatever_the_noise(tiny_model):
    sampling = Sampling(max_new_tokens=8, greedy=True)
    answers = [
        engine(tiny_model).generate(PROMPTS, sampling, sampling_keys(seed, 0, range(4), [0] * 4))
        for seed in (0, 1)
    ]
    assert answers[0].tokens == answers[1].tokens
    first = [row[0] for row in answers[0].tokens]
    for prompt, token in zip(PROMPTS, first, strict=True):
        assert token == int(tiny_model(input_ids=torch.tensor([prompt])).logits[0, -1].argmax())


@pytest.mark.parametrize("wrong", [{"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_impossible_truncation_is_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling(max_new_tokens=1, **wrong)


def test_an_engine_with_weights_of_its_own_takes_the_policys(tiny_model):
    """Mutations: the copy left out; the version kept. Its own tensors are left alone."""
    own = engine(copy.deepcopy(tiny_model))
    keys, sampling = sampling_keys(0, 0, range(4), [0] * 4), Sampling(max_new_tokens=6)
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            parameter.mul_(1.5)
    wanted = engine(tiny_model).generate(PROMPTS, sampling, keys)
    assert own.generate(PROMPTS, sampling, keys).tokens != wanted.tokens
    own.load_weights(3, tiny_model.named_parameters())
    rollouts = own.generate(PROMPTS, sampling, keys)
    assert (rollouts.tokens, rollouts.logprobs) == (wanted.tokens, wanted.logprobs)
    assert rollouts.version == own.version == 3
