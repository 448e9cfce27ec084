"""Residual dropout for any decoder: on what each block adds to the residual stream.

Current decoders ship without it; the paper's SFT uses 0.2 (App. C.1). Hooks on the projections that
write to the residual stream leave the model's code and its saved config as they are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import dropout

from stages.contracts import UserError

# How Llama and its kin name the last projection of attention and of the feed-forward block.
RESIDUAL_WRITERS = ("o_proj", "down_proj")


@contextmanager
def residual_dropout(model: nn.Module, probability: float) -> Iterator[None]:
    """Within this context, residual branches drop features while `model` is in train mode.

    Raises UserError when no projection is found, rather than training without dropout in silence.
    """
    writers = residual_writers(model) if probability > 0 else []
    handles = [writer.register_forward_hook(_dropping(probability)) for writer in writers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def residual_writers(model: nn.Module) -> list[nn.Module]:
    """The projections whose output is added to the residual stream, two a block."""
    named = model.named_modules()
    writers = [module for name, module in named if name.split(".")[-1] in RESIDUAL_WRITERS]
    if not writers:
        raise UserError(
            "residual dropout finds no residual branch in this model",
            got=f"{type(model).__name__} without a module named {' or '.join(RESIDUAL_WRITERS)}",
            do="set residual_dropout=0",
        )
    return writers


def _dropping(probability: float) -> Any:
    def hook(module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return dropout(output, probability, training=module.training)

    return hook
