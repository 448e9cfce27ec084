"""The PPO initialisation model (InstructGPT App. C.3): PPO's start and its KL reference.

    base, demonstrations, text -> model/

From the base model, two epochs of demonstrations with pretraining documents mixed in: `text_share`
of all training sequences (0.1: one sequence in ten is a document). The loss is the mean over the
labelled tokens of a batch, so a document weighs by its length. The paper chose the rate for low
loss on both validation sets: both are logged.
"""

from pathlib import Path
from typing import Any

import numpy as np

from stages.contracts import Context, Report, UserError
from stages.lm.data_order import epoch_ends
from stages.lm.loading import load_causal_lm, load_tokenizer, text_contract
from stages.lm.peft.adapters import publish
from stages.records.schemas import Text
from stages.records.tables import read_table, texts
from stages.step1_sft.config import PpoInitConfig
from stages.step1_sft.fine_tuning import fine_tune
from stages.step1_sft.sequences import Sequence, encode_documents, read_demonstrations
from stages.step1_sft.validation import token_figures

VALIDATION_DOCUMENTS = 512


def run(
    config: PpoInitConfig,
    *,
    base: Path,
    demonstrations: Path,
    text: Path,
    out: Path,
    context: Context,
) -> Report:
    """Train on the mixture and keep the last epoch.

    Raises InterruptedRunError after a checkpoint when asked to stop, UserError for unusable data.
    """
    model, tokenizer = load_causal_lm(base / "model"), load_tokenizer(base / "model")
    train, too_long = read_demonstrations(config, tokenizer, demonstrations / "train.parquet")
    train += mixed_in(config, tokenizer, text / "train.parquet", len(train))
    validation, _ = read_demonstrations(config, tokenizer, demonstrations / "validation.parquet")
    heldout = {
        "loss/validation": validation,
        "loss/validation_text": read_documents(config, tokenizer, text / "validation.parquet")[
            :VALIDATION_DOCUMENTS
        ],
    }
    ends = epoch_ends(len(train), config.batch_size, config.epochs)

    def losses(model: Any) -> dict[str, float]:
        pad = tokenizer.pad_token_id
        return {name: token_figures(model, held, pad).loss for name, held in heldout.items()}

    trained = fine_tune(
        model, tokenizer, train, config, context, lambda step, m: losses(m) if step in ends else {}
    )
    final = losses(trained)
    of_base = publish(trained, tokenizer, out / "model", base=base / "model", kind=config.peft.kind)
    metrics = {
        "validation_loss": final["loss/validation"],
        "validation_loss_text": final["loss/validation_text"],
        "train_demonstrations_too_long": float(too_long),
    }
    contract = text_contract(tokenizer, model.config.max_position_embeddings)
    return Report(metrics=metrics, contract=contract | of_base)


def read_documents(config: PpoInitConfig, tokenizer: Any, table: Path) -> list[Sequence]:
    """The pretraining documents of a table as training sequences."""
    return encode_documents(tokenizer, texts(read_table(table, Text)), max_length=config.max_length)


def mixed_in(
    config: PpoInitConfig, tokenizer: Any, table: Path, num_demonstrations: int
) -> list[Sequence]:
    """Documents, drawn without replacement, that make up `text_share` of the whole."""
    wanted = round(num_demonstrations * config.text_share / (1 - config.text_share))
    documents = read_documents(config, tokenizer, table)
    if len(documents) < wanted:
        raise UserError(
            "too little pretraining text to mix in",
            got=f"{len(documents)} documents, text_share={config.text_share} needs {wanted}",
            do="lower text_share or give more text",
        )
    chosen = np.random.default_rng([config.seed, 0]).permutation(len(documents))[:wanted]
    return [documents[i] for i in sorted(chosen)]
