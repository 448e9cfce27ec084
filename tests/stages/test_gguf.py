"""A tiny Llama written as llama.cpp's converter writes it, and taken as a base."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter, TokenType
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.preflight import base_model_bytes
from stages.contracts import Context, UserError
from stages.lm.loading import load_causal_lm, load_tokenizer
from stages.lm.tokens import decode_response, encode_response
from stages.step0_base.base import run
from stages.step0_base.config import BaseConfig, BaseKind

LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
TOKENS = ["<unk>", "<bos>", "<eos>", "<spare>", "Ġ", *LETTERS, "ab"]  # Ġ: a space in byte pairs
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


@pytest.fixture
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(TOKENS), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=48,
            tie_word_embeddings=True, initializer_range=0.3,
        )
    ).eval()  # fmt: skip


@pytest.fixture
def gguf_file(llama, tmp_path) -> Path:
    writer = GGUFWriter(tmp_path / "tiny.gguf", "llama")
    _write_settings(writer, llama.config)
    _write_tokenizer(writer)
    for name, tensor in llama.state_dict().items():
        if name != "lm_head.weight":  # tied
            writer.add_tensor(*_as_llama_cpp(name, tensor.numpy(), llama.config))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file):
        write()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "tiny.gguf"


def _write_settings(writer, config) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    special = [TokenType.CONTROL] * 4
    writer.add_token_types([*special, *[TokenType.NORMAL] * (len(TOKENS) - 4)])
    writer.add_token_merges(["a b"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _as_llama_cpp(name: str, array: np.ndarray, config) -> tuple[str, np.ndarray]:
    """Its names; queries and keys with the two halves of a rotation side by side."""
    if name == "model.embed_tokens.weight":
        return "token_embd.weight", array
    if name == "model.norm.weight":
        return "output_norm.weight", array
    _, _, layer, *part, _ = name.split(".")
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    if part[-1] in heads:
        rows, columns = array.shape
        halves = array.reshape(heads[part[-1]], 2, -1, columns)
        array = halves.swapaxes(1, 2).reshape(rows, columns)
    return f"blk.{layer}.{NAMES['.'.join(part)]}.weight", np.ascontiguousarray(array)


def test_the_model_in_the_file_computes_what_it_was_written_from(llama, gguf_file, tmp_path):
    config = BaseConfig(kind=BaseKind.gguf, path=str(gguf_file))
    report = run(config, text=tmp_path, out=tmp_path / "out", context=Context.at(tmp_path / "c"))
    model, tokenizer = (f(tmp_path / "out" / "model") for f in (load_causal_lm, load_tokenizer))
    tokens = torch.arange(5, 25)[None]
    with torch.no_grad():
        ours = model(tokens).logits[..., : len(TOKENS)]
        torch.testing.assert_close(ours, llama(tokens).logits, atol=1e-5, rtol=1e-5)
    assert encode_response(tokenizer, "ab c", finished=True)[-1] == TOKENS.index("<eos>")
    assert decode_response(tokenizer, encode_response(tokenizer, "ab c", finished=True)) == "ab c"
    assert report.contract["max_length"] == 48
    assert base_model_bytes(config) == 4 * llama.num_parameters()
    assert report.contract["pad_token_id"] != report.contract["eos_token_id"]


def test_a_file_in_a_package_is_found_without_importing_it(gguf_file, tmp_path, monkeypatch):
    package = tmp_path / "carries_a_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('its dependencies are not here')")
    gguf_file.rename(package / "tiny.gguf")
    monkeypatch.syspath_prepend(tmp_path)
    config = BaseConfig(kind=BaseKind.gguf, path="tiny.gguf", package="carries_a_model")
    assert config.path == str(package / "tiny.gguf")


@pytest.mark.parametrize(
    ("content", "package", "what"),
    [
        (None, None, "no GGUF file"),
        (b"PK\x03\x04", None, "no GGUF file"),
        (b"GGUF", "no_such_package", "package no_such_package, which is not installed"),
    ],
)
def test_what_is_no_gguf_file_is_refused(content, package, what, tmp_path):
    path = tmp_path / "x.gguf"
    if content:
        path.write_bytes(content)
    with pytest.raises(UserError, match=what):
        BaseConfig(kind=BaseKind.gguf, path=str(path), package=package)


def test_an_architecture_that_transformers_cannot_read_is_named(tmp_path):
    writer = GGUFWriter(tmp_path / "odd.gguf", "no_such_architecture")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    config = BaseConfig(kind=BaseKind.gguf, path=str(tmp_path / "odd.gguf"))
    with pytest.raises(UserError, match=r"cannot read odd\.gguf"):
        run(config, text=tmp_path, out=tmp_path / "out", context=Context.at(tmp_path / "c"))
