"""The reward model on worker groups: where and in how many pieces it is computed changes nothing.

The reference computes every response and every pair alone, in one process.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.stages.step2_reward.trajectories import (
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
TOLERANCE = 1e-6  # of weights that move by about 1e-3 a step


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
