"""Adapters: made by SFT, saved beside what they make of their base, and opened again.

    model/           where base and adapter merge: the merged weights, which `from_pretrained`
                     opens without PEFT or this project. Virtual tokens do not merge: then it is
                     the base's weights, and our loaders add what lies in model/adapter
    model/adapter/   PEFT's own folder, and base.json: which base the adapter belongs to

PEFT computes; here is decided what lies where, and that it fits together.
"""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stages.contracts import UserError
from stages.lm.checkpoints import sync
from stages.lm.loading import load_causal_lm, model_hash, save_model
from stages.lm.peft import quantised
from stages.lm.peft.config import PeftConfig, PeftKind
from stages.lm.peft.folders import ADAPTER, base_of, kind_of, write_base
from stages.lm.peft.methods import check_family, library_config, train_biases
from stages.lm.peft.virtual_tokens import (
    new_virtual_tokens,
    open_virtual_tokens,
    save_virtual_tokens,
    without_virtual_tokens,
)

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

PROBE_TOKENS = 32
MERGED_WITHIN = 1e-3  # of the largest logit; float32 leaves 1e-5, and 4e-5 after 30 layers


class MergeError(RuntimeError):
    """Merged weights that do not compute what base and adapter do."""


def load_base(folder: Path, kind: PeftKind) -> Any:
    """The base as `kind` trains on it: as it is, or in 4 bits."""
    if kind is PeftKind.qlora:
        return quantised.load_causal_lm(folder)
    return load_causal_lm(folder)


def adapt(network: Any, config: PeftConfig, total_steps: int) -> Any:
    """What is trained for `total_steps`: PEFT's model around the network, or the network itself.

    Raises:
        UserError: the network has nothing that `config.kind` could train.
    """
    from peft import get_peft_model

    check_family(config.kind, network)
    settings = library_config(config, total_steps)
    if settings is not None:
        with quantised.told(network):
            return get_peft_model(network, settings)
    if config.kind is PeftKind.bitfit:
        train_biases(network)
    if config.kind.adds_tokens:
        new_virtual_tokens(network, config)
    return network


def network_of(model: Any) -> Any:
    """The network in PEFT's model, its adapters in its layers; or that network itself."""
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


def adapter_of(model: Path) -> Path:
    """The adapter in a model folder.

    Raises:
        UserError: there is none, because all of the model's weights were trained.
    """
    folder = model / ADAPTER
    if base_of(folder) is None:
        raise UserError(
            f"{model} has no adapter",
            got="a model of which all weights were trained",
            do="peft=none; or make it again with peft=lora; or let it be the base of a new run "
            f"with base=folder base.path={model}",
        )
    return folder


def check_base(base: Path, models: Mapping[str, Path], kind: PeftKind) -> str:
    """The hash of the base in that folder, to which the adapters of all these models must belong.

    Raises:
        UserError: one does not, has no adapter, or one of another kind; it names both.
    """
    found = model_hash(base)
    for name, model in models.items():
        adapter = adapter_of(model)
        if kind_of(adapter) is not kind:
            raise UserError(
                f"{name} is an adapter of another method",
                got=f"peft={kind}, {model} was made with peft={kind_of(adapter)}",
                do=f"peft={kind_of(adapter)}, or make {name} again",
            )
        wanted = str(base_of(adapter))
        if wanted != found:
            raise UserError(
                f"{name} is an adapter on another base",
                got=f"the base {base} is {found[:8]}..., {model} belongs to {wanted[:8]}...",
                do=f"give the base and a {name} that descend from one run",
            )
    return found


def open_adapter(network: Any, adapter: Path, *, trainable: bool = False) -> Any:
    """The network with that adapter, without dropout; all else is frozen. PEFT's model around it
    where the adapter lies in its layers."""
    from peft import LoraConfig, PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(adapter)
    if config.is_prompt_learning:
        open_virtual_tokens(network, adapter, trainable=trainable)
        return network.eval()
    if isinstance(config, LoraConfig):
        config.lora_dropout = 0.0
    with quantised.told(network):
        model = PeftModel.from_pretrained(network, adapter, is_trainable=trainable, config=config)
    return model.eval()


def load_adapted(base: Path, model: Path, *, trainable: bool = False) -> Any:
    """A language model on a base of its own, with the adapter that lies in the folder `model`."""
    adapter = adapter_of(model)
    return open_adapter(load_base(base, kind_of(adapter)), adapter, trainable=trainable)


def adapt_classifier(network: Any, adapter: Path) -> Any:
    """A classifier with a trainable copy of a language model's adapter; its head is trained too."""
    from peft import (
        LoraConfig,
        PeftConfig,
        TaskType,
        get_peft_model,
        set_peft_model_state_dict,
    )
    from peft.utils.save_and_load import load_peft_weights

    config = PeftConfig.from_pretrained(adapter)
    if config.is_prompt_learning:
        open_virtual_tokens(network, adapter, trainable=True)
        network.score.requires_grad_(True)
        return network
    if isinstance(config, LoraConfig):
        config.lora_dropout = 0.0
    config.inference_mode = False
    config.task_type = TaskType.SEQ_CLS  # with it PEFT trains and saves the head
    head = {f"base_model.model.score.{name}": p for name, p in network.score.named_parameters()}
    with quantised.told(network):
        model = get_peft_model(network, config)
    weights = {**load_peft_weights(str(adapter), device="cpu"), **head}
    loaded = set_peft_model_state_dict(model, weights)
    assert not loaded.unexpected_keys, f"no such layers: {loaded.unexpected_keys[:3]}"
    return model


def save_adapter(model: Any, folder: Path, base_sha256: str, kind: PeftKind) -> None:
    """Write the adapter of a model into `folder / "adapter"`, synced to disk."""
    target = folder / ADAPTER
    if kind.adds_tokens:
        save_virtual_tokens(model.base_model.virtual_tokens, target)
    else:
        _save_layers(model, target)
    write_base(target, base_sha256, kind)
    for path in (*target.iterdir(), target, folder):
        sync(path)


def _save_layers(model: "PeftModel", target: Path) -> None:
    config: Any = model.peft_config["default"]
    for name in ("target_modules", "feedforward_modules"):  # a set's order changes from run to run
        if isinstance(named := vars(config).get(name), set):
            setattr(config, name, sorted(named))
    model.save_pretrained(str(target), selected_adapters=["default"], save_embedding_layers=False)
    (target / "README.md").unlink()  # a card without content


def publish(
    model: Any, tokenizer: "PreTrainedTokenizerBase", folder: Path, *, base: Path, kind: PeftKind
) -> dict[str, str]:
    """Write a trained model; what its contract says of the base to which its adapter belongs.

    An adapter is merged into its base for that: the model is of no more use for training.

    Raises:
        MergeError: the merged weights compute something else.
    """
    if not kind.has_adapter:
        save_model(model, tokenizer, folder)
        return {}
    base_sha256 = model_hash(base)
    save_adapter(model, folder, base_sha256, kind)
    if kind.merges:
        save_model(merged(model), tokenizer, folder)
        return {"base_sha256": base_sha256}
    with without_virtual_tokens(model):
        save_model(model, tokenizer, folder)
    return {"base_sha256": base_sha256, "adapter": "model/adapter, not merged into the weights"}


def merged(model: "PeftModel") -> Any:
    """A plain network that computes the same; base weights in 4 bits are widened as they are."""
    apart = probe(model.eval().get_base_model())
    network = quantised.merged(model) if quantised.is_quantised(model) else model.merge_and_unload()
    check_merged(apart, probe(network))
    return network


@torch.no_grad()
def probe(network: Any) -> Tensor:
    """The logits of some fixed tokens."""
    tokens = torch.arange(PROBE_TOKENS, device=network.device) % network.config.vocab_size
    logits: Tensor = network(input_ids=tokens[None]).logits
    return logits.float()


def check_merged(apart: Tensor, merged: Tensor) -> None:
    """Refuse merged weights whose logits are not those of base and adapter apart."""
    difference, largest = (float(x.abs().max()) for x in (apart - merged, apart))
    if not difference <= MERGED_WITHIN * largest:
        raise MergeError(
            f"logits of the merged model differ by {difference:.2g}, the largest is {largest:.2g}"
        )


@torch.no_grad()
def merged_weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights that adapters change, with them, by the names they have in the plain model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [(n, part) for n, part in network.named_modules() if isinstance(part, BaseTunerLayer)]
    return {
        f"{name}.{own}": tensor
        for name, layer in layers
        for own, tensor in quantised.merged_layer(deepcopy(layer)).named_parameters()
    }
