"""Activation checkpointing: a block keeps its input alone and computes again in the backward.

Transformers' own switch acts in train mode only, and outside SFT models here stay in eval mode.
Generators and autocast are as they were when a block is computed again, so gradients are the same.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from stages.contracts import UserError


def checkpoint_activations(model: nn.Module) -> None:
    """From now on the blocks of `model` save memory in forwards that are differentiated.

    Copies of the module do so too.

    Raises:
        UserError: a model without blocks that Transformers knows how to compute again.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    if not blocks:
        raise UserError(
            "gradient_checkpointing finds no block to compute again",
            got=type(model).__name__,
            do="set gradient_checkpointing=false",
        )
    for block in blocks:
        block.forward = partial(_computed_again, block.forward)


def _computed_again(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """A cache would be written a second time, so what is computed with one is kept."""
    if not torch.is_grad_enabled() or options.get("past_key_values") is not None:
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, **options)
