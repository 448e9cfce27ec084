"""The reward model on worker groups: where and in how many pieces it is computed changes nothing.

The reference computes every response and every pair alone, in one process.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import pytest
import torch

from stages.contracts import Context, InterruptedRunError
from stages.lm.early_stopping import EarlyStopping
from stages.lm.loading import load_causal_lm
from stages.lm.peft.config import PeftKind
from tests.stages.lora.chain import run_sft
from tests.stages.step2_reward.trajectories import (
    BATCH,
    NUM_TRAIN,
    ONE_FORWARD,
    PIECES,
    Processes,
    Trajectory,
    config_of,
    distance,
    reference,
    train,
    write_comparisons,
)

has_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="needs DeepSpeed: pip install -e '.[deepspeed]'"
)
TOLERANCE = 2e-6  # of weights that move by about 1e-3 a step; seen: 7e-7, ZeRO 3 1.1e-6


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    torch.set_num_threads(1)
    made = Processes()
    yield made
    made.close()


@pytest.fixture(scope="module")
def inputs(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = write_comparisons(world, tmp_path_factory.mktemp("comparisons"))
    return {
        "sft": world / "sft",
        "comparisons": folder,
        "demonstrations": world / "demonstrations",
    }


@pytest.fixture(scope="module")
def expected(inputs: dict[str, Path]) -> Trajectory:
    return reference(inputs)


FAST = {(1, "none", PIECES), (2, "ddp", PIECES), (2, "fsdp2", ONE_FORWARD)}
CASES = [
    pytest.param(
        ranks,
        kind,
        microbatch_tokens,
        marks=[
            *([] if (ranks, kind, microbatch_tokens) in FAST else [pytest.mark.slow]),
            *([has_deepspeed] if kind.startswith("zero") else []),
        ],
        id=f"{ranks}-{kind}-{'whole' if microbatch_tokens == ONE_FORWARD else 'pieces'}",
    )
    for ranks in (1, 2)
    for kind in (["none"] if ranks == 1 else []) + ["ddp", "zero1", "zero2", "zero3", "fsdp2"]
    for microbatch_tokens in (ONE_FORWARD, PIECES)
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("ranks", "kind", "microbatch_tokens"), CASES)
def test_every_placement_makes_the_reference_s_trajectory(
    ranks: int,
    kind: str,
    microbatch_tokens: int,
    expected: Trajectory,
    inputs: dict[str, Path],
    processes: Processes,
    tmp_path: Path,
) -> None:
    """Ten steps; weights, losses, norms and rates. The table of distances is printed with `-s`.

    Mutations: a loss over the rank's own sets; figures of one rank; the peak rate on ranks.
    """
    config = config_of(ranks, kind, microbatch_tokens=microbatch_tokens)
    found = train(config, inputs, tmp_path, processes)
    gap = distance(found, expected)
    print(f"{ranks} {kind:6} {microbatch_tokens:5} {gap:.1e}")
    assert gap < TOLERANCE
    for name, curve in expected.curves.items():
        assert found.curves[name] == pytest.approx(curve, abs=1e-5)


KINDS = [
    (1, "none"),
    (2, "ddp"),
    *[
        pytest.param(
            2, kind, marks=[pytest.mark.slow, *([has_deepspeed] if "zero" in kind else [])]
        )
        for kind in ("zero1", "zero2", "zero3", "fsdp2")
    ],
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("ranks", "kind"), KINDS)
def test_a_stopped_training_continues_bit_by_bit(
    ranks: int, kind: str, inputs: dict[str, Path], processes: Processes, tmp_path: Path
) -> None:
    """Stopped after step 4, then a rank fails in step 8, two after a checkpoint; early stopping's
    best so far is of step 4 at the latest.

    Mutations: the optimizer, or the best weights, left out of the checkpoint.
    """
    rule = EarlyStopping(patience=9, validate_every=2)
    config = config_of(ranks, kind, microbatch_tokens=PIECES, early_stopping=rule, lr=0.03)
    whole = train(config, inputs, tmp_path / "whole", processes)
    stopping = Context.at(tmp_path / "parts")
    stopping.should_stop = stop_at(4)
    with pytest.raises(InterruptedRunError):
        train(config, inputs, tmp_path / "parts", processes, stopping)
    failing = Context.at(tmp_path / "parts")
    failing.should_stop = fail_at(4)
    with pytest.raises(ZeroDivisionError):
        train(config, inputs, tmp_path / "parts", processes, failing)
    parts = train(config, inputs, tmp_path / "parts", processes)
    assert distance(parts, whole) == 0
    assert parts.curves == whole.curves


def stop_at(call: int) -> Callable[[], bool]:
    calls = count(1)
    return lambda: next(calls) == call


def fail_at(call: int) -> Callable[[], bool]:
    calls = count(1)
    return lambda: next(calls) == call and bool(1 / 0)


def test_weights_of_the_lowest_validation_loss_are_published(
    inputs: dict[str, Path], processes: Processes, tmp_path: Path
) -> None:
    """Two ranks at a rate that is too high: equal to a run of that many steps alone.

    The schedule is constant, so that a shorter run makes the same steps. Mutations: the last
    weights; those of one validation later.
    """
    values = {"lr": 0.05, "final_lr_fraction": 1.0, "epochs": 6.0}
    rule = EarlyStopping(patience=2, validate_every=2)
    stopped = train(
        config_of(2, "ddp", early_stopping=rule, **values), inputs, tmp_path / "a", processes
    )
    losses = stopped.curves["loss/validation"]
    best = min(losses, key=losses.__getitem__)
    last = max(stopped.curves["loss/train"])
    assert (last - best, best < last < 30) == (4, True)
    short = train(
        config_of(2, "ddp", **(values | {"epochs": best * BATCH / NUM_TRAIN})),
        inputs,
        tmp_path / "b",
        processes,
    )
    assert distance(stopped, short) == 0


@pytest.mark.timeout(600)
def test_adapters_train_on_two_ranks(
    world: Path, inputs: dict[str, Path], processes: Processes, tmp_path: Path
) -> None:
    """As in one process; only the adapter and the head move. Mutation: ranks without the base."""
    run_sft(world, tmp_path / "sft", epochs=1)
    on_base = {**inputs, "sft": tmp_path / "sft" / "out", "base": world / "base"}
    settings = {"peft": PeftKind.lora, "lr": 1e-2}
    alone = train(config_of(1, "none", **settings), on_base, tmp_path / "one")
    pair = config_of(2, "ddp", microbatch_tokens=PIECES, **settings)
    found = train(pair, on_base, tmp_path / "two", processes)
    assert distance(found, alone) < 1e-5
    start = load_causal_lm(tmp_path / "sft" / "out" / "model").get_decoder()
    moved = [
        name
        for name, before in start.named_parameters()
        if not torch.allclose(before, found.weights[f"network.model.{name}"], atol=1e-5)
    ]
    assert moved == [name for name, _ in start.named_parameters() if "_proj" in name]
