"""PPO-ptx on worker groups: where, by what and in how many pieces it is computed changes nothing.

The reference is the loop in one process, with one forward a minibatch.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stages.contracts import Context
from stages.lm.loading import load_tokenizer, save_model
from stages.lm.precision import Precision
from stages.step3_policy.ppo.data import load_data
from stages.step3_policy.ppo.loading import load_roles
from stages.step3_policy.ppo.loop import PpoLoop
from stages.step3_policy.ppo.placement import PlacementConfig
from tests.stages.step3_policy.ppo.small_ppo import folders_of, write_inputs
from tests.stages.step3_policy.ppo.trajectories import (
    FOUR_FORWARDS,
    ONE_FORWARD,
    Processes,
    Trajectory,
    config_of,
    distance,
    first_difference,
    placed,
    run,
)

has_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="needs DeepSpeed: pip install -e '.[deepspeed]'"
)
FREE_ITERATIONS = 3
TOLERANCE = 1e-5  # of weights that move by about 1e-3 a step; seen: 1.3e-7


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    torch.set_num_threads(1)
    made = Processes()
    yield made
    made.close()


def test_two_ranks_of_ddp_follow_one_process(
    ppo_inputs: dict[str, Path], tmp_path: Path, processes: Processes
) -> None:
    """Three iterations, sampling freely: the same tokens, weights and figures.

    Mutations: a loss over the rank's own tokens; figures of one rank; rows written back in the
    ranks' order; the noise keyed by the place on a rank.
    """
    one = config_of(PlacementConfig(), ONE_FORWARD)
    two = config_of(placed(2, "ddp", split=False), FOUR_FORWARDS)
    expected = run(one, ppo_inputs, tmp_path / "one", iterations=3)
    found = run(two, ppo_inputs, tmp_path / "two", workers=processes.of(two), iterations=3)
    assert first_difference(found, expected) == ""
    assert distance(found, expected) < TOLERANCE
    for a, b in zip(found.figures, expected.figures, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4)


CASES = [
    pytest.param(
        ranks,
        kind,
        microbatch_tokens,
        split,
        marks=[pytest.mark.slow, *([has_deepspeed] if kind.startswith("zero") else [])],
        id=f"{ranks}-{kind}-{name}-{'split' if split else 'colocated'}",
    )
    for ranks in (1, 2)
    for kind in (["none"] if ranks == 1 else []) + ["ddp", "zero1", "zero2", "zero3", "fsdp2"]
    for name, microbatch_tokens in {"whole": ONE_FORWARD, "pieces": FOUR_FORWARDS}.items()
    for split in (False, True)
]


@pytest.fixture(scope="module")
def made() -> dict[str, Trajectory]:
    return {}


@pytest.fixture
def reference(
    made: dict[str, Trajectory], ppo_inputs: dict[str, Path], tmp_path: Path
) -> Trajectory:
    """Ten iterations of one process in whole minibatches; the inputs are the same in every test."""
    if not made:
        config = config_of(PlacementConfig(), ONE_FORWARD)
        made["one process"] = run(config, ppo_inputs, tmp_path / "reference")
    return made["one process"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("ranks", "kind", "microbatch_tokens", "split"), CASES)
def test_every_placement_makes_the_same_trajectory(
    ranks: int,
    kind: str,
    microbatch_tokens: int,
    split: bool,
    reference: Trajectory,
    ppo_inputs: dict[str, Path],
    processes: Processes,
    tmp_path: Path,
) -> None:
    """Replayed responses: ten iterations within tolerance. Sampling freely: the same tokens for
    three iterations. The table of distances is printed; see it with `-s`.

    Mutations: the reference's learning rate in `step` left at the peak; ptx on one rank alone;
    stale weights in the engine of a group of its own.
    """
    expected, inputs = reference, ppo_inputs
    config = config_of(placed(ranks, kind, split=split), microbatch_tokens)
    workers = processes.of(config)
    replayed = run(config, inputs, tmp_path / "a", workers=workers, replay=expected.record)
    free = run(config, inputs, tmp_path / "b", workers=workers, iterations=FREE_ITERATIONS)
    gap, differs = distance(replayed, expected), first_difference(free, expected)
    print(f"{ranks} {kind:6} {microbatch_tokens:5} split={split!s:5} {gap:.1e} {differs}")
    assert differs == ""
    assert gap < TOLERANCE
    for a, b in zip(replayed.figures, expected.figures, strict=True):
        assert a == pytest.approx({name: b[name] for name in a}, rel=1e-2, abs=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["ddp", "fsdp2", pytest.param("zero3", marks=has_deepspeed)])
def test_two_ranks_compute_in_bfloat16_too(
    kind: str, ppo_inputs: dict[str, Path], processes: Processes, tmp_path: Path
) -> None:
    """Six steps of 1e-3 a weight; rounding to 8 bits may turn some of them round."""
    one = config_of(PlacementConfig(), ONE_FORWARD, precision=Precision.bf16)
    two = config_of(placed(2, kind, split=False), FOUR_FORWARDS, precision=Precision.bf16)
    expected = run(one, ppo_inputs, tmp_path / "one", iterations=3)
    workers = processes.of(two)
    replay = expected.record
    found = run(two, ppo_inputs, tmp_path / "two", workers=workers, replay=replay, iterations=3)
    assert distance(found, expected) < 3e-3
    assert typical(found, expected) < 1e-4


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["ddp", "fsdp2", pytest.param("zero3", marks=has_deepspeed)])
def test_two_ranks_train_a_tied_head(
    kind: str, tiny_model: Any, tiny_tokenizer: Any, processes: Processes, tmp_path: Path
) -> None:
    """Embeddings and head are one parameter: its gradient comes from both, its weight goes to both.

    Mutation: the shards of one module alone.
    """
    config = LlamaConfig(**(tiny_model.config.to_dict() | {"tie_word_embeddings": True}))
    torch.manual_seed(1)
    save_model(LlamaForCausalLM(config), tiny_tokenizer, tmp_path / "tied" / "model")
    inputs = write_inputs(tmp_path / "tied", tmp_path)
    one = config_of(PlacementConfig(), ONE_FORWARD)
    two = config_of(placed(2, kind, split=False), FOUR_FORWARDS)
    expected = run(one, inputs, tmp_path / "one", iterations=3)
    found = run(two, inputs, tmp_path / "two", workers=processes.of(two), iterations=3)
    assert "lm_head.weight" not in found.weights[0]
    assert first_difference(found, expected) == ""
    assert distance(found, expected) < TOLERANCE


def typical(found: Trajectory, expected: Trajectory) -> float:
    """The median difference of the last weights."""
    gaps = [(found.weights[-1][n] - w).abs().flatten() for n, w in expected.weights[-1].items()]
    return float(torch.cat(gaps).median())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "kind",
    ["ddp", "fsdp2", *[pytest.param(f"zero{n}", marks=has_deepspeed) for n in (1, 2, 3)]],
)
def test_two_ranks_continue_from_their_checkpoint(
    kind: str, ppo_inputs: dict[str, Path], processes: Processes, tmp_path: Path
) -> None:
    """Broken down after a checkpoint and half an iteration; the parts are then built anew.

    Mutations: the average, the optimizer, or the critic left out of what ranks write.
    """
    config = config_of(placed(2, kind, split=False), FOUR_FORWARDS, iterations=4)
    workers = processes.of(config)

    def loop(folder: str) -> PpoLoop:
        tokenizer = load_tokenizer(ppo_inputs["ppo_init"] / "model")
        context = Context.at(tmp_path / folder)
        inputs = (ppo_inputs["prompts"], ppo_inputs["text"])
        return PpoLoop(
            roles=load_roles(config, folders_of(ppo_inputs), workers),
            data=load_data(config, tokenizer, *inputs, context),
            config=config,
            context=context,
        )

    whole = loop("whole")
    whole.train()
    expected = [whole.roles.policy.weights(), whole.roles.policy.average_weights()]
    broken = loop("broken")
    broken.roles.critic.update = breaking_at(5, broken.roles.critic.update)
    with pytest.raises(ZeroDivisionError):
        broken.train()
    resumed = loop("broken")
    resumed.train()
    found = [resumed.roles.policy.weights(), resumed.roles.policy.average_weights()]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def breaking_at(call: int, method: Callable[..., Any]) -> Callable[..., Any]:
    calls = count(1)

    def counted(*arguments: Any) -> Any:
        return 1 / 0 if next(calls) == call else method(*arguments)

    return counted
