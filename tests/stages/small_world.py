"""Assets of the embedded world in miniature, and an untrained model that knows its words."""

from pathlib import Path
from random import Random

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stages.lm.loading import save_model
from stages.lm.vocabulary import word_tokenizer
from stages.records.schemas import Demonstration, Prompt, Text
from stages.records.tables import write_table
from stages.world.prompts import draw_demonstrations, draw_prompts

SPLITS = {"train": 12, "validation": 8, "test": 10}


def write_small_world(folder: Path) -> Path:
    """Folders prompts/, demonstrations/, text/ and a model in sft/, base/ and start/."""
    demonstrations = write_tables(folder)
    tokenizer = word_tokenizer(f"{d.prompt[-1]['content']} {d.response}" for d in demonstrations)
    for name, seed in (("sft", 0), ("base", 1), ("start", 2)):
        save_model(untrained_model(len(tokenizer), seed), tokenizer, folder / name / "model")
    return folder


def write_tables(folder: Path) -> list[Demonstration]:
    """Prompts, text and demonstrations; many of the latter, so that every word occurs."""
    for split, number in SPLITS.items():
        prompts: list[Prompt] = draw_prompts(Random(split), number, split=split, held_out=False)
        write_table(folder / "prompts" / f"{split}.parquet", prompts)
    demonstrations = draw_demonstrations(Random(0), 400, care=0.5, split="train", held_out=False)
    texts = [Text(text=demonstration.response) for demonstration in demonstrations]
    for split in ("train", "validation"):
        write_table(folder / "demonstrations" / f"{split}.parquet", demonstrations[:20])
        write_table(folder / "text" / f"{split}.parquet", texts[:50])
    return demonstrations


def untrained_model(vocabulary: int, seed: int) -> LlamaForCausalLM:
    """A Llama of a few thousand parameters, special tokens as the word tokenizer has them."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    model.lm_head.weight.data *= 5  # sharper than a fresh model, so that responses differ
    return model.eval()
