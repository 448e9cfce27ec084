"""Two processes train as one does: gradients, norms, steps, whole weights, checkpoints.

The reference is the plain module with torch's own AdamW on all rows at once.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.lm.optimisation import NonFiniteError
from tests.stages.lm.backends.trainee import Network, build
from tests.stages.worker_processes import ProcessGroup

has_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="needs DeepSpeed: pip install -e '.[deepspeed]'"
)
EVERY_KIND = [
    "ddp",
    pytest.param("fsdp2", marks=pytest.mark.slow),
    *[
        pytest.param(option, marks=[pytest.mark.slow, has_deepspeed])
        for option in ("zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
    ],
]


@pytest.fixture(scope="module")
def pair() -> Iterator[ProcessGroup]:
    """Two processes for all tests."""
    group = ProcessGroup(2)
    yield group
    group.close()


def rows_of(step: int) -> Tensor:
    return torch.randn(16, 7, generator=torch.Generator().manual_seed(step))


def reference(steps: int) -> tuple[dict[str, Tensor], list[tuple[list[float], float]]]:
    """Weights and ([norm of each half's gradient], norm of the sum) of training in one piece."""
    model, found = Network(), []
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=0.05,
        betas=(0.9, 0.95),
        eps=1e-5,
    )
    for step in range(steps):
        rows = rows_of(step)
        halves = [gradient(model, half) for half in (rows[:8], rows[8:])]
        for parameter, a, b in zip(model.parameters(), *halves, strict=True):
            parameter.grad = a + b
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), 0.5))
        optimizer.step()
        found.append(([norm_of(half) for half in halves], norm))
    return {name: p.detach() for name, p in model.named_parameters()}, found


def gradient(model: nn.Module, rows: Tensor) -> list[Tensor]:
    loss = ((model(rows[:, :4]) - rows[:, 4:]) ** 2).sum() / 16
    return list(torch.autograd.grad(loss, list(model.parameters())))


def norm_of(tensors: list[Tensor]) -> float:
    return float(torch.stack([(t**2).sum() for t in tensors]).sum().sqrt())


def train(group: ProcessGroup, steps: range, cut: int) -> list[list[dict[str, Any]]]:
    """Each half of the rows a part of the gradient, dealt to two ranks, in `cut` micro-batches."""
    found = []
    for step in steps:
        rows = rows_of(step)
        shares = [
            [list(half[rank::2].chunk(cut)) for half in (rows[:8], rows[8:])] for rank in (0, 1)
        ]
        found.append(group.call("trainee", "step", [(share, 16) for share in shares]))
    return found


def whole_weights(group: ProcessGroup) -> list[dict[str, Tensor]]:
    return group.call("trainee", "weights", [(), ()])


@pytest.mark.parametrize("cut", [pytest.param(1, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_two_ranks_train_as_one_process(pair: ProcessGroup, kind: str, cut: int) -> None:
    """Mutations: the loss not multiplied by the number of ranks; no micro-batch the last one; the
    norm of one rank's shards; what was set aside not added back.
    """
    pair.build(build, kind)
    found = train(pair, range(5), cut)
    weights, expected = reference(5)
    for rank in (0, 1):
        torch.testing.assert_close(whole_weights(pair)[rank], weights, rtol=1e-4, atol=1e-5)
        for answers, (norms, norm) in zip(found, expected, strict=True):
            assert answers[rank]["norm"] == pytest.approx(norm, rel=1e-4)
            if not kind.startswith("zero"):
                assert answers[rank]["norms"] == pytest.approx(norms, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_each_rank_keeps_its_part_alone(pair: ProcessGroup, kind: str) -> None:
    """51 weights: libraries that split nothing, and say nothing, would pass every other test here.

    Mutation: `SingleProcess` in the place of any of them.
    """
    pair.build(build, kind)
    train(pair, range(1), cut=1)
    (weights, moments), (others, other_moments) = pair.call("trainee", "held", [(), ()])
    splits_weights = kind in ("fsdp2", "zero3", "zero3_offload")
    assert max(weights, others) < 40 if splits_weights else weights == others == 51
    assert max(moments, other_moments) < 40 if kind != "ddp" else moments == other_moments == 51
    assert weights + others >= 51
    assert moments + other_moments >= 51


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_forwards_between_steps_see_the_newest_weights(pair: ProcessGroup, kind: str) -> None:
    """Mutation: fsdp2 without `reshard_after_forward=True` at the root."""
    pair.build(build, kind)
    rows = rows_of(9)
    model = Network()
    for step in range(3):
        outputs = pair.call("trainee", "outputs", [(rows,), (rows,)])
        for output in outputs:
            torch.testing.assert_close(output, model(rows[:, :4]).detach(), rtol=1e-4, atol=1e-5)
        train(pair, range(step, step + 1), cut=2)
        model.load_state_dict(reference(step + 1)[0])


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_continues_from_its_checkpoint(pair: ProcessGroup, kind: str, tmp_path: Path) -> None:
    """Bit for bit, into a group that was built anew. Mutation: the optimizer left out."""
    pair.build(build, kind)
    train(pair, range(3), cut=2)
    pair.call("trainee", "save", [(tmp_path / "saved",)] * 2)
    train(pair, range(3, 5), cut=2)
    expected = whole_weights(pair)[0]
    pair.build(build, kind)
    pair.call("trainee", "load", [(tmp_path / "saved",)] * 2)
    train(pair, range(3, 5), cut=2)
    torch.testing.assert_close(whole_weights(pair)[0], expected, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_gradient_that_is_not_finite_is_an_error(kind: str) -> None:
    """Of a group of its own, which is of no more use. Mutation: `check_norm` left out."""
    group = ProcessGroup(2)
    group.build(build, kind)
    bad = torch.full((8, 7), torch.inf)
    with pytest.raises(NonFiniteError, match="gradient norm"):
        group.call("trainee", "step", [([[bad]], 16), ([[rows_of(0)]], 16)])
    group.close()
