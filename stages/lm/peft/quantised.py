"""QLoRA's base: linear layers in 4 bits (NF4, its scales quantised too; Dettmers et al. 2023).

bitsandbytes keeps the weights and widens them to float32 for each product, on a CPU as well. The
output layer and a reward model's head stay as they are. What is published is the base so rounded,
widened again, with the adapter in it: the very weights that were trained with.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stages.lm.loading import how_to_open
from stages.lm.peft.config import PeftKind, check_library

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

KEPT = ["lm_head", "score"]


def load_causal_lm(folder: Path) -> Any:
    """The causal language model in `folder`, its linear layers in 4 bits, in eval mode."""
    from transformers import AutoModelForCausalLM

    return load(AutoModelForCausalLM, folder)


def load(auto: Any, folder: Path, **settings: Any) -> Any:
    """The same of another of Transformers' automatic classes."""
    check_library(PeftKind.qlora)
    network = auto.from_pretrained(
        folder,
        quantization_config=_nf4(),
        device_map={"": torch.get_default_device()},
        **how_to_open(auto, folder, **settings),
    )
    # The trainers take these marks as a sign that adapters are to be rounded, or missing.
    network.is_loaded_in_4bit = network.is_quantized = False
    compute_in_own_dtype(network)
    return network.eval()


def compute_in_own_dtype(network: nn.Module) -> None:
    """Let layers in 4 bits compute on this processor as on any other.

    Where it has products of bfloat16 (AVX-512), bitsandbytes would pack the weights for these:
    coarser than what was asked for, and only for widths that are multiples of 32.
    """
    layer: Any
    for layer in network.modules():
        if _in_4_bits(layer):
            layer.support_avx512bf16_for_cpu = False


def _nf4() -> "BitsAndBytesConfig":
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=KEPT,
    )


def is_quantised(model: nn.Module) -> bool:
    """Whether there are layers in 4 bits."""
    return any(_in_4_bits(part) for part in model.modules())


def _in_4_bits(part: nn.Module) -> bool:
    if importlib.util.find_spec("bitsandbytes") is None:
        return False
    from bitsandbytes.nn.modules import Linear4bit

    return isinstance(part, Linear4bit)


@contextmanager
def told(network: Any) -> Iterator[None]:
    """While PEFT puts adapters into a network, it is told of layers in 4 bits."""
    in_4_bits = is_quantised(network)
    if in_4_bits:
        network.is_loaded_in_4bit = True
    try:
        yield
    finally:
        if in_4_bits:
            network.is_loaded_in_4bit = False


@torch.no_grad()
def merged_layer(layer: Any) -> nn.Module:
    """The plain layer that a layer with an adapter amounts to; it is used up."""
    base: nn.Module = layer.get_base_layer()
    if not _in_4_bits(base):
        layer.merge()
        return base
    plain = widened(base)
    plain.weight += layer.get_delta_weight("default")
    return plain


@torch.no_grad()
def widened(layer: Any) -> nn.Linear:
    """A layer in 4 bits as a plain one in float32."""
    from bitsandbytes.functional import dequantize_4bit

    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    plain.weight.copy_(dequantize_4bit(layer.weight.data, layer.weight.quant_state))
    if layer.bias is not None:
        plain.bias.copy_(layer.bias)
    return plain.to(layer.weight.device)


def merged(model: Any) -> Any:
    """The network of PEFT's model, its layers plain and with the adapter in them."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    network = model.get_base_model()
    for name, part in list(network.named_modules()):
        if isinstance(part, BaseTunerLayer):
            network.set_submodule(name, merged_layer(part))
        elif isinstance(part, ModulesToSaveWrapper):
            network.set_submodule(name, part.modules_to_save["default"])
    for name, part in list(network.named_modules()):
        if _in_4_bits(part):
            network.set_submodule(name, widened(part))
    del network.config.quantization_config, network.hf_quantizer
    return network
