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
from torch import Tensor, nn

from stages.lm.loading import load_config
from stages.lm.peft.adapters import adapter_of, load_base, network_of, open_adapter
from stages.lm.peft.config import PeftKind
from stages.lm.peft.folders import ADAPTER, is_merged


class SharedBase:
    """The base in a folder; nothing ever writes to its weights."""

    def __init__(self, folder: Path, kind: PeftKind) -> None:
        self.model = load_base(folder, kind).requires_grad_(False)

    def causal_lm(self, model: Path, *, trainable: bool = False) -> Any:
        """A language model with a copy of the adapter in the folder `model`."""
        network = sharing_weights(self.model)
        return network_of(open_adapter(network, adapter_of(model), trainable=trainable))

    def classifier(self, model: Path, *, trainable: bool = False) -> Any:
        """The same with the one output, and the config, of the reward model in that folder."""
        from transformers import AutoModelForSequenceClassification

        with torch.device("meta"):  # nothing but the outer shell is kept
            network = AutoModelForSequenceClassification.from_config(load_config(model))
        decoder = sharing_weights(self.model).base_model
        setattr(network, network.base_model_prefix, decoder)
        head = network.score
        network.score = nn.Linear(head.in_features, 1, bias=head.bias is not None)
        if not is_merged(model / ADAPTER):  # then the head lies beside the base's weights
            network.score.load_state_dict(saved_head(model))
            network.score.requires_grad_(trainable)
        return network_of(open_adapter(network, adapter_of(model), trainable=trainable))


def saved_head(folder: Path) -> dict[str, Tensor]:
    """The head of the reward model in a folder."""
    from safetensors import safe_open

    head: dict[str, Tensor] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith("score.")]  # noqa: SIM118
            head |= {name.removeprefix("score."): file.get_tensor(name) for name in names}
    return head


def sharing_weights(model: nn.Module) -> Any:
    """A copy of the modules around the very same tensors."""
    return copy.deepcopy(model, {id(t): t for t in [*model.parameters(), *model.buffers()]})
