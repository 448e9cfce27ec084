"""An engine in another process: what it is sent and answers, and every way in which it can fail."""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.lm.engines.process import EngineError
from stages.lm.engines.remote import EngineRestartWarning, Launch, RemoteEngine
from stages.lm.rollout import Rollouts, Sampling

ROOT = Path(__file__).parents[4]
SERVER = Path(__file__).parent / "fake_server.py"
PROMPTS, KEYS = [[1, 2], [3], [4, 5, 6]], np.array([10, 2**63 + 20, 30], dtype=np.uint64)
SAMPLING = Sampling(max_new_tokens=2)


@pytest.fixture
def start(tmp_path: Path):
    """start(FAULT): an engine whose server has that fault; closed after the test."""
    engines = []

    def make(fault: str, *, restarts: int = 1, generate_s: float = 20.0) -> RemoteEngine:
        launch = Launch(
            command=[sys.executable, str(SERVER), fault],
            environment={**os.environ, "PYTHONPATH": str(ROOT)},
            setup={"greeting": "hello", "marker": str(tmp_path / "marker")},
            log=tmp_path / "engine.log",
            deadlines_s={"start": 20.0, "load": 20.0, "generate": generate_s},
            restarts=restarts,
        )
        engines.append(RemoteEngine(launch, torch.float32))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def generate(engine: RemoteEngine) -> Rollouts:
    return engine.generate(PROMPTS, SAMPLING, KEYS)


def weights(value: float):
    return [("w", torch.full((2, 3), value)), ("b", torch.tensor(value))]


def test_what_is_sent_arrives(start) -> None:
    """By hand: prompt + key + 7 elements of weight, modulo 100. 2**63 is 9223372036854775808.

    Mutations: keys or prompts in another order; a tensor left out; the first version kept.
    """
    engine = start("none")
    assert [row[0] for row in generate(engine).tokens] == [13, 31, 45]  # no weights yet
    engine.load_weights(4, weights(2.0))
    rollouts = generate(engine)
    assert [row[0] for row in rollouts.tokens] == [27, 45, 59]
    assert rollouts.logprobs == [[-0.5, -0.5]] * 3
    assert rollouts.finished == [True] * 3
    assert rollouts.version == engine.version == 4


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("die", "SIGKILL"),
        ("late", "no answer before the deadline"),
        ("garbage", "an answer that is none"),
        ("wrong_id", "answered as -1"),
    ],
)
def test_a_failed_engine_is_started_again_with_its_weights(start, fault: str, cause: str) -> None:
    """The answer is that of an engine that never failed.

    Mutations: the weights not sent to the new process; the request not repeated.
    """
    engine = start(fault, generate_s=2.0)
    engine.load_weights(2, weights(1.0))
    with pytest.warns(EngineRestartWarning, match=cause):
        rollouts = generate(engine)
    assert [row[0] for row in rollouts.tokens] == [20, 38, 52]
    assert rollouts.version == 2
    assert generate(engine).tokens == rollouts.tokens


def test_one_that_fails_every_time_ends_in_an_error_with_its_log(start) -> None:
    engine = start("die_always", restarts=2)
    with (
        pytest.warns(EngineRestartWarning) as restarts,
        pytest.raises(EngineError, match="failed in generate") as caught,
    ):
        generate(engine)
    assert len(restarts) == 2
    assert "SIGKILL" in caught.value.got
    assert caught.value.got.count("last words") == 3
    assert "generate_s" in caught.value.do


def test_an_error_of_a_call_is_not_tried_again(start) -> None:
    engine = start("error")
    with pytest.raises(EngineError, match="generate") as caught:
        generate(engine)
    assert "ValueError: prompt 3 is too long" in caught.value.got


def test_a_server_that_does_not_start_says_why(start) -> None:
    engine = start("die_in_start", restarts=0)
    with pytest.raises(EngineError, match="failed in start") as caught:
        engine.load_weights(1, weights(1.0))
    assert "exit code 7" in caught.value.got
    assert "hello" in caught.value.got


def test_a_python_that_cannot_be_run_is_named(start) -> None:
    engine = start("none", restarts=0)
    engine.launch = replace(engine.launch, command=["/nowhere/python"])
    with pytest.raises(EngineError, match="failed in start") as caught:
        generate(engine)
    assert "/nowhere/python" in caught.value.got


def test_the_phase_is_the_one_that_failed(start) -> None:
    """A process that dies in a call and then does not start any more. Mutation: the call named."""
    engine = start("die", restarts=1)
    engine.load_weights(1, weights(1.0))
    engine.launch = replace(engine.launch, command=[sys.executable, str(SERVER), "die_in_start"])
    with (
        pytest.warns(EngineRestartWarning, match="generate"),
        pytest.raises(EngineError, match="failed in start"),
    ):
        generate(engine)


def test_an_answer_without_rollouts_is_refused(start) -> None:
    engine = start("too_few_always", restarts=0)
    with pytest.raises(EngineError, match="no rollouts"):
        generate(engine)


def test_the_version_is_what_the_engine_says(start) -> None:
    engine = start("stale")
    engine.load_weights(5, weights(1.0))
    assert generate(engine).version == 4


def test_the_server_ends_when_nobody_listens_any_more(start) -> None:
    engine = start("none")
    generate(engine)
    process = engine._server.process
    engine._server.channel.connection.close()
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() == 0


def test_closing_ends_a_call_that_waits(start) -> None:
    """A run that fails during an update does not wait for the rollouts in flight, or restart them.

    Mutation: the engine not marked as closed.
    """
    engine = start("late_always", restarts=1, generate_s=50.0)
    engine.load_weights(1, weights(1.0))
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(generate, engine)
        time.sleep(0.5)
        engine.close()
        with pytest.raises(EngineError):
            waiting.result(10)
