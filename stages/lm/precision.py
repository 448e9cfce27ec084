"""In which dtype decoders compute. Weights, optimizer and all after the decoder stay float32.

bf16 and fp16 are torch's autocast around the decoder's own forward: products in 16 bits, the
residual stream and the norms in float32, gradients into float32 weights. Heads lie outside it:
logits, values and scores, and so log-probs, ratios, KL and losses, are float32. The smallest
numbers of fp16 would lose gradients, so losses are scaled (`stages.lm.backends.base`; Accelerate
does it in TRL's trainers). No torch here until it is asked for.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from stages.contracts import UserError

if TYPE_CHECKING:
    from torch import nn

FP16_ON_CPU = False  # slower there than fp32; tests set it, to see how losses are scaled


class Precision(StrEnum):
    """What the products inside a decoder are made in."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


@dataclass(kw_only=True)
class PrecisionConfig:
    """The group `precision`."""

    kind: Precision = Precision.fp32


def check_precision(precision: Precision, gpus: float) -> None:
    """Refuse fp16 where no process has a GPU."""
    if precision is Precision.fp16 and gpus == 0 and not FP16_ON_CPU:
        raise UserError(
            "precision=fp16 is for GPUs: a CPU computes in it no faster than in fp32",
            got="no process with a GPU",
            do="take precision=bf16: half the bits, too, with the range of fp32; or give GPUs with "
            "executor.gpus and placement.gpus",
        )


def compute_in(decoder: "nn.Module", precision: Precision) -> Callable[[], None]:
    """From now on the decoder's forward computes in `precision`, whoever calls it; gives the undo.

    By hooks, so that a copy of the module, or a wrapper around it, does so too.
    """
    if precision is Precision.fp32:
        return lambda: None
    import torch

    device = next(decoder.parameters()).device.type
    check_precision(precision, gpus=float(device != "cpu"))
    dtype = {Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}[precision]
    entered: list[Any] = []

    def enter(*_: Any) -> None:
        entered.append(torch.autocast(device, dtype=dtype))
        entered[-1].__enter__()

    def leave(*_: Any) -> None:
        entered.pop().__exit__(None, None, None)

    before = decoder.register_forward_pre_hook(enter)
    after = decoder.register_forward_hook(leave, always_call=True)

    def undo() -> None:
        before.remove()
        after.remove()

    return undo


@contextmanager
def computing_in(decoder: "nn.Module", precision: Precision) -> Iterator[None]:
    """Within this context alone."""
    undo = compute_in(decoder, precision)
    try:
        yield
    finally:
        undo()
