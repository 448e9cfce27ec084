"""QLoRA's base: what is in 4 bits, and that widened it is the very same function."""

from pathlib import Path

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from peft.tuners.tuners_utils import BaseTunerLayer

from stages.lm.loading import load_causal_lm
from stages.lm.peft import quantised
from stages.lm.peft.adapters import adapt, merged, network_of
from stages.lm.peft.config import PeftConfig, PeftKind
from tests.stages.small_world import untrained_model


@pytest.fixture
def base(tmp_path: Path) -> Path:
    untrained_model(40, seed=0).save_pretrained(tmp_path)
    return tmp_path


def test_all_linear_layers_but_the_last_are_in_4_bits(base: Path) -> None:
    """16 values a block of 64 weights. Mutation: the output layer rounded too."""
    network, plain = quantised.load_causal_lm(base), load_causal_lm(base)
    rounded = {n for n, part in network.named_modules() if isinstance(part, Linear4bit)}
    assert rounded == {n for n, _ in plain.named_modules() if n.endswith("_proj")}
    assert torch.equal(network.lm_head.weight, plain.lm_head.weight)
    weight = quantised.widened(network.model.layers[0].mlp.up_proj).weight
    block = weight.flatten()[:64].unique()
    assert len(block) <= 16
    assert not torch.allclose(weight, plain.model.layers[0].mlp.up_proj.weight, atol=1e-4)


def outputs(network: torch.nn.Module, names: list[str]) -> list[torch.Tensor]:
    """What these layers make of fixed numbers: one by one, as untrained ones amplify rounding."""
    layers = [network.get_submodule(name) for name in names]
    return [layer(torch.linspace(-1, 1, 3 * layer.in_features).view(3, -1)) for layer in layers]


def test_merged_it_is_the_rounded_base_with_the_adapter(base: Path) -> None:
    """Mutation: the adapter merged into the base as it was before."""
    network = quantised.load_causal_lm(base)
    model = adapt(network, PeftConfig(kind=PeftKind.qlora, rank=2), total_steps=1)
    assert all(p.dtype is torch.float32 for p in model.parameters() if p.requires_grad)
    names = [n for n, part in network_of(model).named_modules() if isinstance(part, BaseTunerLayer)]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
        expected = outputs(network_of(model), names)
        plain = merged(model)
        for found, one in zip(outputs(plain, names), expected, strict=True):
            assert torch.allclose(found, one, rtol=0, atol=1e-5)
    plain.save_pretrained(base / "merged")
    opened = load_causal_lm(base / "merged")
    weights, before = plain.state_dict(), load_causal_lm(base).state_dict()
    assert opened.state_dict().keys() == weights.keys() == before.keys()
    assert all(torch.equal(w, weights[name]) for name, w in opened.state_dict().items())
    kept = [name for name in weights if name.removesuffix(".weight") not in names]
    assert all(torch.equal(weights[name], before[name]) for name in kept)
    assert "quantization_config" not in opened.config.to_dict()
