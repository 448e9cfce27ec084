"""An adapter alone: PEFT puts it on the base it names; that computes what the merged model does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.contracts import UserError
from stages.lm.loading import load_causal_lm, save_model
from stages.lm.peft.adapters import publish
from stages.lm.peft.config import PeftKind
from stages.lm.rollout import Sampling
from stages.step4_evaluation.export.folder import Source, open_adapter, write_adapter

TOKENS = torch.tensor([[1, 5, 6, 7, 8]])


@pytest.fixture
def base(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> Path:
    save_model(tiny_model, tiny_tokenizer, tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def trained(base: Path, tiny_tokenizer: Any, tmp_path: Path) -> Source:
    """A model folder as a LoRA stage leaves it, its adapter far from zero."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM")
    model: Any = get_peft_model(load_causal_lm(base), config)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.5)
    publish(model, tiny_tokenizer, tmp_path / "model", base=base, kind=PeftKind.lora)
    return Source(model=tmp_path / "model", sampling=Sampling(max_new_tokens=6, temperature=0.7))


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(TOKENS).logits
    return found


def test_it_opens_on_the_base_it_names(base: Path, trained: Source, tmp_path: Path) -> None:
    from peft import PeftModel

    out = tmp_path / "out"
    write_adapter(trained, out, str(base))
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        base
    )
    assert not (out / "model.safetensors").exists()
    merged = logits(load_causal_lm(trained.model))
    plain = load_causal_lm(base)
    assert not torch.allclose(logits(plain), merged, atol=1e-2)
    torch.testing.assert_close(logits(PeftModel.from_pretrained(plain, out)), merged)
    opened = open_adapter(out, scores=False)
    torch.testing.assert_close(logits(opened), merged)
    assert opened.generation_config.temperature == 0.7
    assert opened.generation_config.max_new_tokens == 6


def test_a_model_trained_whole_has_none(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no adapter"):
        write_adapter(Source(model=base, sampling=None), tmp_path / "out", "base")


def test_a_base_that_is_not_here_is_an_os_error(trained: Source, tmp_path: Path) -> None:
    """What `export` tells as: not compared, because its base cannot be opened here."""
    write_adapter(trained, tmp_path / "out", "owner/not-on-this-machine")
    with pytest.raises(OSError, match="find them in the cached files"):
        open_adapter(tmp_path / "out", scores=False)
