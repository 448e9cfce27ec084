"""The benchmark of PPO counts what a person counts, and drives the real loop."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stages.lm.engines import hf as hf_module
from stages.step3_policy.ppo import loop as loop_module

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from ppo_ours import OurSide
from ppo_workload import Workload, end_probability

SMALL = Workload(
    hidden=16, layers=2, heads=2, vocab=40, prompt=5, response=6, batch=8, epochs=3, threads=1
)


@pytest.fixture(autouse=True)
def _modules_as_before(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop_module, "Stopwatch", loop_module.Stopwatch)
    monkeypatch.setattr(hf_module, "choose_tokens", hf_module.choose_tokens)


def test_products_of_an_iteration_are_those_counted_by_hand():
    """Mutations: attention left out; the head at prompt tokens, too; one backward product a layer.

    A layer's matrices hold 4 H^2 numbers in the attention and 12 H^2 behind it; attention makes two
    products of T x T x H; a backward makes twice the products of its forward.
    """
    made = OurSide(SMALL).answer("count")
    tokens, width = SMALL.batch * (SMALL.prompt + SMALL.response), SMALL.hidden
    length = SMALL.prompt + SMALL.response
    body = tokens * SMALL.layers * 2 * (16 * width**2 + 2 * length * width)
    head = SMALL.batch * SMALL.response * 2 * width * SMALL.vocab
    value_head, score_head = SMALL.batch * SMALL.response * 2 * width, SMALL.batch * 2 * width
    assert made["policy"] == 3 * SMALL.epochs * (body + head)
    assert made["critic"] == 3 * SMALL.epochs * (body + value_head)
    assert made["scoring"] == 4 * body + 2 * head + value_head + score_head


def test_responses_end_where_they_were_drawn_to():
    """A response's length is what the loop learns from."""
    workload = replace(SMALL, eos_after=3)
    side = OurSide(workload)
    figures = side.iterate()
    lengths = workload.lengths(0).clip(max=workload.response)
    assert figures["rollout/response_tokens"] == pytest.approx(lengths.mean())
    assert figures["rollout/eos_rate"] == (workload.lengths(0) <= workload.response).mean()


def test_mean_length_is_the_one_asked_for():
    p = end_probability(16, 48)
    surviving = [(1 - p) ** t for t in range(48)]  # E min(L, n) = sum of P(L > t)
    assert sum(surviving) == pytest.approx(16)
