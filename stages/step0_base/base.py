"""The base language model: a small Llama pretrained on the `text` asset, or a model as it is.

Left out: distributed pretraining and any context beyond one block. A base model worth having at
scale is downloaded; this one exists so that the whole chain runs, and really learns, anywhere.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from stages.contracts import Context, Report, UserError
from stages.lm.chat import settle_template
from stages.lm.loading import (
    load_causal_lm,
    load_tokenizer,
    save_model,
    settle_pad,
    text_contract,
)
from stages.lm.peft.folders import ADAPTER, is_merged, kind_of
from stages.lm.token_cache import tokenized_documents
from stages.records.schemas import Text
from stages.records.tables import iterate_table, texts
from stages.step0_base.config import BaseConfig, BaseKind, TokenizerKind

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def run(config: BaseConfig, *, text: Path, out: Path, context: Context) -> Report:
    """Write the base model to `out/model`; its kinds are below."""
    if config.kind is BaseKind.scratch:
        return _pretrain(config, text, out, context)
    assert config.path is not None
    path = Path(config.path)
    if config.kind is BaseKind.gguf:
        from stages.step0_base.gguf import load_gguf

        return _take(*load_gguf(path), config, out)
    _check_plain(path)
    return _take(load_causal_lm(path), load_tokenizer(path), config, out)


def _check_plain(folder: Path) -> None:
    if not is_merged(folder / ADAPTER):
        raise UserError(
            "virtual tokens cannot be part of a base: they do not merge into its weights",
            got=f"{folder}, made with peft={kind_of(folder / ADAPTER)}",
            do="take the base that it was trained on, or a model of another peft",
        )


def _pretrain(config: BaseConfig, text: Path, out: Path, context: Context) -> Report:
    """Train a tokenizer on the text, then a Llama on its documents."""
    from stages.step0_base.pretraining import new_llama, pretrain

    tokenizer = _new_tokenizer(config, texts(iterate_table(text / "train.parquet", Text)))
    train, validation = (
        tokenized_documents(text / f"{split}.parquet", tokenizer, context)
        for split in ("train", "validation")
    )
    model = new_llama(config, tokenizer)
    loss = pretrain(model, train, validation, config, context)
    return _publish(model, tokenizer, config.max_length, out, {"validation_loss": loss})


def _new_tokenizer(config: BaseConfig, texts: Iterable[str]) -> "PreTrainedTokenizerBase":
    from stages.lm.vocabulary import bpe_tokenizer, word_tokenizer

    if config.tokenizer is TokenizerKind.bpe:
        return bpe_tokenizer(texts, config.max_words)
    return word_tokenizer(texts, config.max_words)


def _take(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", config: BaseConfig, out: Path
) -> Report:
    """Publish a pretrained model, in float32; what its tokenizer lacks is settled here."""
    settle_template(tokenizer)
    settle_pad(model, tokenizer)
    max_length = min(config.max_length, int(model.config.max_position_embeddings))
    return _publish(model, tokenizer, max_length, out, {})


def _publish(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    out: Path,
    metrics: dict[str, float],
) -> Report:
    save_model(model, tokenizer, out / "model")
    figures = {"parameters": float(model.num_parameters()), "vocabulary": float(len(tokenizer))}
    return Report(metrics=metrics | figures, contract=text_contract(tokenizer, max_length))
