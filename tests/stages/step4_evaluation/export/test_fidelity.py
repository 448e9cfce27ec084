"""Figures of an export beside its original: by hand, and where the answer is known."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stages.lm.engines.hf import HFEngine
from stages.lm.rollout import Sampling, sampling_keys
from stages.step4_evaluation.export.fidelity import (
    Material,
    Original,
    compare,
    generate,
    perplexity,
    predict,
)
from stages.step4_evaluation.export.reward_fidelity import compare_scores

PROMPTS = [[1, 5, 6], [1, 7], [1, 8, 9, 10, 11], [1, 12, 13, 5]]


class After:
    """A model that gives token t the next token t + 1 with probability 3/4 (of four tokens)."""

    def __call__(self, input_ids: Any, attention_mask: Any) -> Any:
        logits = torch.full((*input_ids.shape, 4), math.log(1 / 12))
        following = (input_ids + 1) % 4
        logits.scatter_(2, following[..., None], math.log(3 / 4))
        return SimpleNamespace(logits=logits)


def test_predictions_by_hand() -> None:
    """Of 1, 2 | 3, 3 the first is the likeliest (3/4), the second is not (1/12); one pair more."""
    found = predict(After(), [([1, 2], [3, 3]), ([0], [1])])
    assert found.tokens == 3
    assert found.likeliest == 2
    expected = -2 * math.log(3 / 4) - math.log(1 / 12)
    assert found.loss == pytest.approx(expected, rel=1e-6)
    assert perplexity(found) == pytest.approx((4 / 3 * 4 / 3 * 12) ** (1 / 3), rel=1e-6)


def test_predictions_are_those_of_each_pair_alone(tiny_model: Any) -> None:
    pairs = [(prompt, [6, 2]) for prompt in PROMPTS] + [([1], [5, 6, 7, 8, 9])]
    together = predict(tiny_model, pairs)
    alone = [predict(tiny_model, [pair]) for pair in pairs]
    assert together.loss == pytest.approx(sum(one.loss for one in alone), rel=1e-5)
    assert together.likeliest == sum(one.likeliest for one in alone)


def greedy(model: Any, prompts: list[list[int]], length: int) -> list[list[int]]:
    engine = HFEngine(model, eos_token_id=2, pad_token_id=0)
    keys = sampling_keys(0, 0, range(len(prompts)), range(len(prompts)))
    sampling = Sampling(max_new_tokens=length, greedy=True)
    return engine.generate(prompts, sampling, keys).tokens


def test_transformers_generates_our_greedy_tokens(tiny_model: Any) -> None:
    """In batches and alone, where some responses end and some are cut."""
    torch.nn.init.normal_(tiny_model.lm_head.weight, std=1.0)
    tiny_model.generation_config.eos_token_id = 2
    tiny_model.generation_config.pad_token_id = 0
    ours = greedy(tiny_model, PROMPTS * 6, 12)
    assert {tokens[-1] == 2 for tokens in ours} == {True, False}
    assert generate(tiny_model, PROMPTS * 6, 12) == ours


def test_of_two_that_agree_half_the_time() -> None:
    """Greedy tokens 3, 3 after 1, 2: the export has the first; its own response is another."""

    class Export(After):
        generation_config = SimpleNamespace(eos_token_id=0, pad_token_id=0)

        def generate(self, input_ids: Any, **_: Any) -> Any:
            return torch.cat([input_ids, torch.tensor([[3, 0]])], dim=1)

    material = Material(prompts=[[1, 2]], texts={"text": [([1], [2])]}, max_new_tokens=2)
    original = Original(responses=[[3, 3]], losses={"text": predict(After(), [([1], [3])])})
    found = compare(original, Export(), material)
    assert (found.same_tokens, found.tokens) == (0.5, 2)
    assert (found.same_responses, found.prompts) == (0.0, 1)
    assert found.perplexity["text"] == pytest.approx((12, 4 / 3), rel=1e-6)
    assert next(iter(found.rows())) == ("greedy tokens the same, of 2", "", "50.00%")


def test_scores_by_hand() -> None:
    """Pairs of 1, 2, 3 and of 5, 5: all ordered but (1, 2); across comparisons nothing counts."""
    ours, theirs = torch.tensor([1.0, 2, 3, 5, 5]), torch.tensor([1.5, 1.25, 3, 5, 4])
    found = compare_scores(ours, theirs, [0, 0, 0, 1, 1])
    assert found.pairs == 4
    assert found.same_order == 0.75
    assert found.largest_difference == 1.0
