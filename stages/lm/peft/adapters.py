"""Adapters: what SFT makes, how they are saved beside the weights they merge to, and opened again.

    model/           the merged weights: `from_pretrained` opens them without PEFT or this project
    model/adapter/   PEFT's own folder, and base.json: which base the adapter belongs to

PEFT computes; here is decided what lies where, and that it fits together.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stages.contracts import UserError
from stages.lm.checkpoints import sync
from stages.lm.loading import load_causal_lm, model_hash, save_model
from stages.lm.peft.config import ALL_LINEAR, PeftConfig, PeftKind

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedTokenizerBase

FOLDER, BASE_FILE = "adapter", "base.json"
PROBE_TOKENS = 32
MERGED_WITHIN = 1e-3  # of the unmerged model's logits; float32 leaves about 1e-5


class MergeError(RuntimeError):
    """Merged weights that do not compute what base and adapter do."""


def lora_config(config: PeftConfig) -> "LoraConfig | None":
    """What TRL's trainers are given as `peft_config`; None where all weights are trained."""
    if config.kind is PeftKind.none:
        return None
    from peft import LoraConfig

    layers = config.target_modules
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=ALL_LINEAR if layers == [ALL_LINEAR] else layers,
        task_type="CAUSAL_LM",
    )


def adapter_of(model: Path) -> Path:
    """The adapter in a model folder.

    Raises:
        UserError: there is none, because all of the model's weights were trained.
    """
    folder = model / FOLDER
    if not (folder / BASE_FILE).is_file():
        raise UserError(
            f"{model} has no adapter",
            got="a model of which all weights were trained",
            do="peft=none; or make it again with peft=lora; or let it be the base of a new run "
            f"with base=folder base.path={model}",
        )
    return folder


def base_of(adapter: Path) -> str:
    """The hash of the base that an adapter belongs to."""
    return str(json.loads((adapter / BASE_FILE).read_text())["model_sha256"])


def check_base(base: Path, models: Mapping[str, Path]) -> str:
    """The hash of the base in that folder, to which the adapters of all these models must belong.

    Raises:
        UserError: one does not, or has no adapter; it names both.
    """
    found = model_hash(base)
    for name, model in models.items():
        wanted = base_of(adapter_of(model))
        if wanted != found:
            raise UserError(
                f"{name} is an adapter on another base",
                got=f"the base {base} is {found[:8]}..., {model} belongs to {wanted[:8]}...",
                do=f"give the base and a {name} that descend from one run",
            )
    return found


def open_adapter(network: Any, adapter: Path, *, trainable: bool = False) -> "PeftModel":
    """The network with that adapter in its layers, without dropout; all else is frozen."""
    from peft import LoraConfig, PeftModel

    config = LoraConfig.from_pretrained(adapter)
    config.lora_dropout = 0.0
    return PeftModel.from_pretrained(network, adapter, is_trainable=trainable, config=config).eval()


def load_adapted(base: Path, model: Path, *, trainable: bool = False) -> "PeftModel":
    """A language model on a base of its own, with the adapter that lies in the folder `model`."""
    return open_adapter(load_causal_lm(base), adapter_of(model), trainable=trainable)


def adapt_classifier(network: Any, adapter: Path) -> "PeftModel":
    """A classifier with a trainable copy of a language model's adapter; its head is trained too."""
    from peft import LoraConfig, TaskType, get_peft_model, set_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    config = LoraConfig.from_pretrained(adapter)
    config.lora_dropout, config.inference_mode = 0.0, False
    config.task_type = TaskType.SEQ_CLS  # with it PEFT trains and saves the head
    head = {f"base_model.model.score.{name}": p for name, p in network.score.named_parameters()}
    model = get_peft_model(network, config)
    weights = {**load_peft_weights(str(adapter), device="cpu"), **head}
    loaded = set_peft_model_state_dict(model, weights)
    assert not loaded.unexpected_keys, f"no such layers: {loaded.unexpected_keys[:3]}"
    return model


def save_adapter(model: "PeftModel", folder: Path, base_sha256: str) -> None:
    """Write the adapter of a model into `folder / "adapter"`, synced to disk."""
    target = folder / FOLDER
    config: Any = model.peft_config["default"]
    config.target_modules = sorted(config.target_modules)  # a set's order changes from run to run
    model.save_pretrained(str(target), selected_adapters=["default"], save_embedding_layers=False)
    (target / "README.md").unlink()  # a card without content
    (target / BASE_FILE).write_text(json.dumps({"model_sha256": base_sha256}) + "\n")
    for path in (*target.iterdir(), target, folder):
        sync(path)


def publish(
    model: Any, tokenizer: "PreTrainedTokenizerBase", folder: Path, *, base: Path, kind: PeftKind
) -> dict[str, str]:
    """Write a trained model; what its contract says of the base to which its adapter belongs.

    An adapter is merged into its base for that: the model is of no more use for training.

    Raises:
        MergeError: the merged weights compute something else.
    """
    if kind is PeftKind.none:
        save_model(model, tokenizer, folder)
        return {}
    base_sha256 = model_hash(base)
    save_merged(model, tokenizer, folder, base_sha256)
    return {"base_sha256": base_sha256}


def save_merged(
    model: "PeftModel", tokenizer: "PreTrainedTokenizerBase", folder: Path, base_sha256: str
) -> None:
    """Write the adapter, merge it into its base, write that."""
    save_adapter(model, folder, base_sha256)
    apart = probe(model.get_base_model())
    network = model.eval().merge_and_unload()
    check_merged(apart, probe(network))
    save_model(network, tokenizer, folder)


@torch.no_grad()
def probe(network: Any) -> Tensor:
    """The logits of some fixed tokens."""
    tokens = torch.arange(PROBE_TOKENS, device=network.device) % network.config.vocab_size
    logits: Tensor = network(input_ids=tokens[None]).logits
    return logits.float()


def check_merged(apart: Tensor, merged: Tensor) -> None:
    """Refuse merged weights whose logits are not those of base and adapter apart."""
    largest = float((apart - merged).abs().max())
    if not largest <= MERGED_WITHIN:
        raise MergeError(f"logits of the merged model differ by {largest:.2g}")


@torch.no_grad()
def merged_weights(network: Any) -> dict[str, Tensor]:
    """The weights that adapters change, with them, by the names they have in the plain model."""
    from peft.tuners.lora import LoraLayer

    layers = {name: part for name, part in network.named_modules() if isinstance(part, LoraLayer)}
    return {
        f"{name}.weight": layer.get_base_layer().weight + layer.get_delta_weight("default")
        for name, layer in layers.items()
    }
