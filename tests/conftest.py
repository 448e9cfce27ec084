"""Fixtures shared by the tests: a tiny tokenizer and a tiny Llama, built here, no network."""

import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import pytest

WORDS = "the cat dog ball box is red blue write about list count one two three and . , ?"


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """A test draws the same numbers alone, in a file and in the whole suite."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A word-level tokenizer with special tokens and a chat template."""
    from stages.lm.vocabulary import word_tokenizer

    return word_tokenizer([WORDS])


@pytest.fixture
def tiny_model(tiny_tokenizer: Any) -> Any:
    """A two-layer Llama of a few thousand parameters, weights from seed 0, in eval mode."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=tiny_tokenizer.bos_token_id,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def tiny_model_folder(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> Path:
    """An artifact folder with `model/` as every stage writes it."""
    from stages.lm.loading import save_model

    save_model(tiny_model, tiny_tokenizer, tmp_path / "tiny" / "model")
    return tmp_path / "tiny"
