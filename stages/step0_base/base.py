"""The base language model: a small Llama pretrained on the `text` asset, or a model as it is.

Left out: distributed pretraining and any context beyond one block. A base model worth having at
scale is downloaded; this one exists so that the whole chain runs, and really learns, anywhere.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from stages.contracts import Context, Report, UserError
from stages.lm.chat import settle_template
from stages.lm.hub import HubModel
from stages.lm.loading import (
    load_causal_lm,
    load_tokenizer,
    save_model,
    settle_context,
    settle_pad,
    text_contract,
)
from stages.lm.peft.folders import ADAPTER, is_merged, kind_of
from stages.lm.supported import check_folder, check_model, check_tokenizer
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
    if config.kind is BaseKind.gguf:
        from stages.step0_base.gguf import load_gguf

        return _take(*load_gguf(Path(str(config.path))), config, out)
    folder, origin = _find(config)
    check_folder(folder)
    _check_plain(folder)
    report = _take(load_causal_lm(folder), load_tokenizer(folder), config, out)
    report.contract |= origin
    return report


def _find(config: BaseConfig) -> tuple[Path, dict[str, str]]:
    """The model's folder; of a model from the hub, its name and commit."""
    if config.hub is None:
        return Path(str(config.path)), {}
    model = HubModel(config.hub, config.revision)
    return model.fetch(), {"hub": config.hub, "hub_commit": model.commit()}


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
    check_tokenizer(tokenizer)
    settle_template(tokenizer)
    settle_pad(model, tokenizer)
    settle_context(model.config, config.max_length)
    check_model(model, tokenizer.pad_token_id)
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
