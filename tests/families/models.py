"""One tiny model a family, random weights, with a tokenizer of that family's habits.

All: hidden 32, two blocks, four heads. Weights are larger than a fresh model's, so that positions,
masks, windows and caps show in the log-probabilities.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.families import tokenizers as of

WINDOW = 6


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model type of Transformers, what its config needs besides the sizes, its tokenizer."""

    model_type: str
    tokenizer: Callable[[], Any]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def habits(self) -> str:
        """What its tokenizer does, in words."""
        return " ".join(str(self.tokenizer.__doc__).split()).rstrip(".")


ROPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128,
}  # fmt: skip
GROUPED = ROPE | {"num_key_value_heads": 2, "head_dim": 8}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
ALIBI = {"hidden_size": 32, "n_layer": 2, "n_head": 4}
FALCON = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128,
}  # fmt: skip
EXPERTS = GROUPED | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LAYERS = ["sliding_attention", "full_attention"]


def gpt2_tokens() -> Any:
    """EOS is BOS; no pad, no template."""
    end = "<|endoftext|>"
    return of.byte_pairs([end], eos=end, bos=end)


def neox_tokens() -> Any:
    """EOS is BOS; no pad, but a spare special token; no template."""
    end = "<|endoftext|>"
    return of.byte_pairs([end, "<|padding|>"], eos=end, bos=end)


def opt_tokens() -> Any:
    """EOS is BOS, which plain encoding prepends; pad is token 1."""
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    return of.byte_pairs(specials, eos="</s>", bos="</s>", pad="<pad>", adds_bos=True)


def bloom_tokens() -> Any:
    """BOS, EOS and pad apart, no template."""
    return of.byte_pairs(["<unk>", "<s>", "</s>", "<pad>"], eos="</s>", bos="<s>", pad="<pad>")


def falcon_tokens() -> Any:
    """No BOS, no pad; special tokens that nothing uses."""
    end = "<|endoftext|>"
    return of.byte_pairs([">>TITLE<<", ">>ABSTRACT<<", end], eos=end)


def llama_tokens() -> Any:
    """BOS in plain encoding and in the template; EOS ends a turn, not a text; no pad."""
    marks = ["<|start_header_id|>", "<|end_header_id|>"]
    specials = ["<|begin_of_text|>", "<|end_of_text|>", *marks, "<|eot_id|>"]
    return of.byte_pairs(
        specials, eos="<|eot_id|>", bos="<|begin_of_text|>", template=of.LLAMA3, adds_bos=True
    )


def qwen_tokens(template: str = of.CHATML) -> Any:
    """No BOS; pad is what ends a text, EOS what ends a turn; a system message of its own."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    return of.byte_pairs(specials, eos="<|im_end|>", pad="<|endoftext|>", template=template)


def qwen3_tokens() -> Any:
    """As Qwen 2's, and its template thinks before an answer it is shown."""
    return qwen_tokens(of.THINKS)


def mistral_tokens() -> Any:
    """BOS in the template, which knows no generation prompt and wants roles in turn; no pad."""
    return of.pieces(["<unk>", "<s>", "</s>"], eos="</s>", bos="<s>", template=of.MISTRAL)


def gemma_tokens() -> Any:
    """BOS in the template, which has no system role and strips what is said; EOS ends no turn."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    return of.pieces(specials, eos="<eos>", bos="<bos>", pad="<pad>", template=of.GEMMA)


def glm_tokens() -> Any:
    """Pad is EOS; no BOS, but a prefix in the template."""
    end = "<|endoftext|>"
    specials = [end, "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"]
    return of.byte_pairs(specials, eos=end, pad=end, template=of.GLM)


def olmo_tokens() -> Any:
    """EOS is BOS; a pad of its own, no template."""
    end = "<|endoftext|>"
    return of.byte_pairs([end, "<|pad|>"], eos=end, bos=end, pad="<|pad|>")


FAMILIES = {
    "llama": Family(model_type="llama", tokenizer=llama_tokens, settings=GROUPED),
    "qwen2": Family(
        model_type="qwen2", tokenizer=qwen_tokens, settings=ROPE | {"num_key_value_heads": 2}
    ),
    "qwen3": Family(model_type="qwen3", tokenizer=qwen3_tokens, settings=GROUPED),
    "mistral": Family(
        model_type="mistral",
        tokenizer=mistral_tokens,
        settings=GROUPED | {"sliding_window": WINDOW},
    ),
    "gemma3": Family(
        model_type="gemma3_text",
        tokenizer=gemma_tokens,
        settings=GROUPED
        | {
            "sliding_window": WINDOW,
            "layer_types": LAYERS,
            "query_pre_attn_scalar": 8,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gpt2": Family(model_type="gpt2", tokenizer=gpt2_tokens, settings=GPT2),
    "gpt_neox": Family(model_type="gpt_neox", tokenizer=neox_tokens, settings=ROPE),
    "opt": Family(
        model_type="opt",
        tokenizer=opt_tokens,
        settings=ROPE | {"ffn_dim": 48, "word_embed_proj_dim": 16},
    ),
    "bloom": Family(model_type="bloom", tokenizer=bloom_tokens, settings=ALIBI),
    "falcon": Family(model_type="falcon", tokenizer=falcon_tokens, settings=FALCON),
    "falcon_alibi": Family(
        model_type="falcon",
        tokenizer=falcon_tokens,
        settings=FALCON | {"alibi": True, "multi_query": False, "parallel_attn": False},
    ),
    "falcon_new": Family(
        model_type="falcon",
        tokenizer=falcon_tokens,
        settings=FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "phi": Family(model_type="phi", tokenizer=gpt2_tokens, settings=ROPE),
    "glm4": Family(model_type="glm4", tokenizer=glm_tokens, settings=GROUPED),
    "olmo2": Family(model_type="olmo2", tokenizer=olmo_tokens, settings=GROUPED),
    "qwen3_moe": Family(model_type="qwen3_moe", tokenizer=qwen3_tokens, settings=EXPERTS),
}


def new_model(family: Family, tokenizer: Any, **changes: Any) -> Any:
    """The family's model in eval mode; weights from seed 0."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    ids = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    settings = {"vocab_size": len(tokenizer), **family.settings, **ids, **changes}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family.model_type](**settings))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(6)
    return model.eval()


@cache
def _tokenizer(make: Callable[[], Any]) -> Any:
    return make()


def write_family(name: str, folder: Path, **changes: Any) -> Path:
    """The checkpoint of a family as its makers would publish it, straight by Transformers."""
    family = FAMILIES[name]
    tokenizer = _tokenizer(family.tokenizer)
    new_model(family, tokenizer, **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
