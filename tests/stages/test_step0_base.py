import math

import numpy as np
import pytest
import torch

from stages.contracts import Context, InterruptedRunError, UserError
from stages.lm.loading import load_causal_lm, load_tokenizer, model_hash
from stages.lm.tokens import decode_response, encode_prompt, encode_response
from stages.records.schemas import Text
from stages.records.tables import write_table
from stages.step0_base.base import run
from stages.step0_base.config import BaseConfig, BaseKind, TokenizerKind
from stages.step0_base.pretraining import block_loss, mean_document_loss, pack

TINY = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_layers": 1,
    "num_heads": 2,
    "steps": 6,
    "batch_size": 2,
    "block_length": 8,
    "checkpoint_every": 2,
    "warmup_steps": 1,
}


@pytest.fixture
def text(tmp_path):
    documents = [
        Text(text=f"the {a} saw the {b} .") for a in ("cat", "dog") for b in ("ball", "hat", "box")
    ]
    for split in ("train", "validation"):
        write_table(tmp_path / "text" / f"{split}.parquet", documents * 4)
    return tmp_path / "text"


def test_packing_lays_documents_end_to_end_and_drops_the_rest():
    assert pack(np.arange(1, 8), 3).tolist() == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(UserError, match="shorter than one block"):
        pack(np.array([1, 2]), 3)


def test_uniform_predictions_cost_log_v(tiny_model):
    """A model without any weight predicts uniformly: log V a token, in blocks and in documents."""
    for parameter in tiny_model.parameters():
        parameter.requires_grad_(False).zero_()
    blocks = torch.tensor([[7, 7, 7, 3]])
    vocabulary = tiny_model.config.vocab_size
    assert float(block_loss(tiny_model, blocks).detach()) == pytest.approx(math.log(vocabulary))
    assert mean_document_loss(tiny_model, [[7, 7, 7, 3], [7, 3]]) == pytest.approx(
        math.log(vocabulary)
    )


def test_block_loss_equals_the_loss_written_out(tiny_model):
    """Red when the targets are not shifted by one."""
    blocks = torch.tensor([[1, 7, 8, 9, 2], [1, 9, 8, 7, 2]])
    with torch.no_grad():
        logprobs = tiny_model(input_ids=blocks).logits.log_softmax(-1)
        expected = -sum(
            float(logprobs[row, t, blocks[row, t + 1]]) for row in range(2) for t in range(4)
        )
        assert float(block_loss(tiny_model, blocks)) == pytest.approx(expected / 8, rel=1e-5)
        assert mean_document_loss(tiny_model, blocks.tolist()) == pytest.approx(
            expected / 8, rel=1e-5
        )


def test_scratch_writes_a_model_that_transformers_opens_and_learns(text, tmp_path):
    config = BaseConfig(**(TINY | {"steps": 60, "lr": 1e-2}))
    report = run(config, text=text, out=tmp_path / "out", context=Context.at(tmp_path / "c"))
    model, tokenizer = (f(tmp_path / "out" / "model") for f in (load_causal_lm, load_tokenizer))
    assert model.config.vocab_size == len(tokenizer) == report.metrics["vocabulary"]
    assert report.metrics["validation_loss"] < 0.6 * math.log(len(tokenizer))
    assert report.contract["max_length"] == config.max_length
    assert report.contract["pad_token_id"] != report.contract["eos_token_id"]


def test_a_stopped_pretraining_continues_to_the_same_weights(text, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(BaseConfig(**TINY), text=text, out=whole, context=Context.at(tmp_path / "c1"))
    stops = iter([False, False, True])
    context = Context.at(tmp_path / "c2")
    context.should_stop = lambda: next(stops, False)
    with pytest.raises(InterruptedRunError):
        run(BaseConfig(**TINY), text=text, out=parts, context=context)
    run(BaseConfig(**TINY), text=text, out=parts, context=context)
    assert model_hash(whole / "model") == model_hash(parts / "model")


def test_a_folder_is_taken_as_it_is(text, tiny_model_folder, tmp_path):
    config = BaseConfig(kind=BaseKind.folder, path=str(tiny_model_folder / "model"))
    report = run(config, text=text, out=tmp_path / "out", context=Context.at(tmp_path / "c"))
    assert model_hash(tmp_path / "out" / "model") == model_hash(tiny_model_folder / "model")
    assert report.contract["max_length"] == 64  # the model's own, below the config's


@pytest.mark.parametrize(
    "values",
    [
        {"kind": BaseKind.folder},
        {"kind": BaseKind.folder, "path": "/no/such/folder"},
        {"lr": -1e-3},
        {"steps": 0},
        {"hidden_size": 100, "num_heads": 8},
    ],
)
def test_unusable_settings_are_refused(values):
    with pytest.raises(UserError, match=r"base\."):
        BaseConfig(**values)


def test_real_text_gets_byte_pairs_that_lose_nothing(tmp_path):
    """Words would be unknown; byte pairs give back a text with its lines, marks and accents."""
    lines = ["Ein Café,\n  two  spaces: naïve!", "The cat sat on the mat.", "The cat ran."]
    for split in ("train", "validation"):
        write_table(tmp_path / "text" / f"{split}.parquet", [Text(text=t) for t in lines * 4])
    config = BaseConfig(**(TINY | {"tokenizer": TokenizerKind.bpe, "max_words": 290}))
    report = run(config, text=tmp_path / "text", out=tmp_path, context=Context.at(tmp_path / "c"))
    tokenizer = load_tokenizer(tmp_path / "model")
    assert report.metrics["vocabulary"] == len(tokenizer) == 290
    assert report.contract["chat_template"] == "role_tokens"
    for line in [*lines, "words never seen: 漢字 😀\t"]:
        assert decode_response(tokenizer, encode_response(tokenizer, line, finished=True)) == line
    prompt = encode_prompt(tokenizer, [{"role": "user", "content": "cat"}])
    assert tokenizer.decode(prompt) == "<bos><user>cat<assistant>"
