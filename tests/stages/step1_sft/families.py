"""Tiny models of a few families, random weights, for what depends on how positions enter."""

import torch


def tiny(family):
    """float32, eval mode, 20 tokens, 64 positions."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {
        "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
        "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    }.get(
        family,
        {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
        },
    )
    config = AutoConfig.for_model(
        family, vocab_size=20, bos_token_id=1, eos_token_id=2, pad_token_id=0, **sizes
    )
    return AutoModelForCausalLM.from_config(config).eval()
