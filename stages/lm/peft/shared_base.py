"""One frozen base in memory under many models, each with an adapter of its own.

PEFT's own way is one tree of modules with several adapters, of which one is selected. Select
another one between a forward and its backward and the first one's gradient is lost without a word,
and activation checkpointing runs that forward again during the backward. Here nothing is selected:
every model is a tree of its own whose base weights ARE the base's tensors.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.lm.loading import load_causal_lm, load_config
from stages.lm.peft.adapters import adapter_of, open_adapter


class SharedBase:
    """The base in a folder; nothing ever writes to its weights."""

    def __init__(self, folder: Path) -> None:
        self.model = load_causal_lm(folder).requires_grad_(False)

    def causal_lm(self, model: Path, *, trainable: bool = False) -> Any:
        """A language model with a copy of the adapter in the folder `model`."""
        network = sharing_weights(self.model)
        return open_adapter(network, adapter_of(model), trainable=trainable).get_base_model()

    def classifier(self, model: Path, *, trainable: bool = False) -> Any:
        """The same with the one output, and the config, of the reward model in that folder."""
        from transformers import AutoModelForSequenceClassification

        with torch.device("meta"):  # nothing but the outer shell is kept
            network = AutoModelForSequenceClassification.from_config(load_config(model))
        decoder = sharing_weights(self.model).base_model
        setattr(network, network.base_model_prefix, decoder)
        head = network.score
        network.score = nn.Linear(head.in_features, 1, bias=head.bias is not None)
        return open_adapter(network, adapter_of(model), trainable=trainable).get_base_model()


def sharing_weights(model: nn.Module) -> Any:
    """A copy of the modules around the very same tensors."""
    return copy.deepcopy(model, {id(t): t for t in [*model.parameters(), *model.buffers()]})
