"""In which dtype decoders compute. Weights, optimizer and all after the decoder stay float32.

bf16 is torch's autocast around the decoder's own forward: products in bfloat16, the residual stream
and the norms in float32, gradients into float32 weights. Heads lie outside it: logits, values and
scores, and so log-probs, ratios, KL and losses, are float32. No torch here until it is asked for.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from stages.contracts import UserError

if TYPE_CHECKING:
    from torch import nn


class Precision(StrEnum):
    """What the products inside a decoder are made in."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


@dataclass(kw_only=True)
class PrecisionConfig:
    """The group `precision`."""

    kind: Precision = Precision.fp32


def check_precision(precision: Precision) -> None:
    """Refuse fp16."""
    if precision is Precision.fp16:
        raise UserError(
            "fp16 cannot be trained in here",
            got="precision=fp16: its smallest numbers lose gradients unless losses are scaled, "
            "and a CPU computes in it no faster than in fp32",
            do="take precision=bf16: half the bits, too, with the range of fp32",
        )


def compute_in(decoder: "nn.Module", precision: Precision) -> None:
    """From now on the decoder's forward computes in `precision`, whoever calls it.

    By hooks, so that a copy of the module, or a wrapper around it, does so too.
    """
    if precision is Precision.fp32:
        return
    import torch

    device = next(decoder.parameters()).device.type
    entered: list[Any] = []

    def enter(*_: Any) -> None:
        entered.append(torch.autocast(device, dtype=torch.bfloat16))
        entered[-1].__enter__()

    def leave(*_: Any) -> None:
        entered.pop().__exit__(None, None, None)

    decoder.register_forward_pre_hook(enter)
    decoder.register_forward_hook(leave, always_call=True)
