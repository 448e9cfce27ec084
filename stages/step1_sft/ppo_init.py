"""The PPO initialisation model (InstructGPT App. C.3): PPO's start and its KL reference.

    base, demonstrations, text -> model/

From the base model, two epochs of demonstrations with pretraining documents mixed in: `text_share`
of all training sequences (0.1: one sequence in ten is a document). The loss is the mean over the
labelled tokens of a batch, so a document weighs by its length. The paper chose the rate for low
loss on both validation sets: both are logged.
"""

from collections.abc import Sequence as Rows
from pathlib import Path
from typing import Any

import numpy as np

from stages.contracts import Context, Report, UserError
from stages.lm.data_order import epoch_ends
from stages.lm.loading import load_tokenizer, text_contract
from stages.lm.peft.adapters import load_base, publish
from stages.lm.token_cache import tokenized_documents
from stages.step1_sft.config import PpoInitConfig
from stages.step1_sft.fine_tuning import fine_tune
from stages.step1_sft.packing import packed
from stages.step1_sft.sequences import Sequence, document_sequences, read_demonstrations
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
    kind, tokenizer = config.peft.kind, load_tokenizer(base / "model")
    model = load_base(base / "model", kind)
    train, too_long = read_demonstrations(config, tokenizer, demonstrations / "train.parquet")
    documents = tokenized_documents(text / "train.parquet", tokenizer, context)
    held_out = tokenized_documents(text / "validation.parquet", tokenizer, context)
    train = packed(train + mixed_in(config, documents, len(train)), config)
    validation, _ = read_demonstrations(config, tokenizer, demonstrations / "validation.parquet")
    heldout = {
        "loss/validation": validation,
        "loss/validation_text": document_sequences(
            held_out[:VALIDATION_DOCUMENTS], config.max_length
        ),
    }
    ends = epoch_ends(len(train), config.batch_size, config.epochs)

    def losses(model: Any) -> dict[str, float]:
        pad = tokenizer.pad_token_id
        return {name: token_figures(model, held, pad).loss for name, held in heldout.items()}

    trained = fine_tune(
        model, tokenizer, train, config, context, lambda step, m: losses(m) if step in ends else {}
    )
    final = losses(trained)
    of_base = publish(trained, tokenizer, out / "model", base=base / "model", kind=kind)
    metrics = {
        "validation_loss": final["loss/validation"],
        "validation_loss_text": final["loss/validation_text"],
        "train_demonstrations_too_long": float(too_long),
    }
    positions = model.config.max_position_embeddings
    contract = text_contract(tokenizer, positions - config.peft.positions_taken)
    return Report(metrics=metrics, contract=contract | of_base)


def mixed_in(
    config: PpoInitConfig, documents: Rows[list[int]], num_demonstrations: int
) -> list[Sequence]:
    """Documents, drawn without replacement, that make up `text_share` of the whole."""
    wanted = round(num_demonstrations * config.text_share / (1 - config.text_share))
    if len(documents) < wanted:
        raise UserError(
            "too little pretraining text to mix in",
            got=f"{len(documents)} documents, text_share={config.text_share} needs {wanted}",
            do="lower text_share or give more text",
        )
    chosen = np.random.default_rng([config.seed, 0]).permutation(len(documents))[:wanted]
    return document_sequences((documents[int(i)] for i in sorted(chosen)), config.max_length)
