"""SFT: fine-tune the base model on demonstrations (InstructGPT §3.5, App. C.1).

    base, demonstrations -> model/ (the epoch of lowest validation loss), epochs/epoch_01/ ...

The paper trains past the lowest validation loss and picks the epoch by reward-model score on
validation prompts; every epoch is kept so that a later stage can choose that way (`selected.py`).
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages.contracts import Context, Report
from stages.lm.data_order import epoch_ends
from stages.lm.folders import link_folder
from stages.lm.loading import (
    load_tokenizer,
    model_hash,
    save_model,
    text_contract,
)
from stages.lm.peft.adapters import load_adapted, load_base, publish, save_adapter
from stages.lm.peft.config import PeftKind
from stages.step1_sft.config import SftConfig
from stages.step1_sft.fine_tuning import fine_tune
from stages.step1_sft.packing import packed
from stages.step1_sft.sequences import Sequence, read_demonstrations
from stages.step1_sft.validation import TokenFigures, token_figures


def run(
    config: SftConfig, *, base: Path, demonstrations: Path, out: Path, context: Context
) -> Report:
    """Train, keep every epoch, and mark the one of lowest validation loss.

    Raises InterruptedRunError after a checkpoint when asked to stop, UserError for unusable data.
    """
    folder, kind = base / "model", config.peft.kind
    model, tokenizer = load_base(folder, kind), load_tokenizer(folder)
    train, train_left_out = read_demonstrations(config, tokenizer, demonstrations / "train.parquet")
    validation, left_out = read_demonstrations(
        config, tokenizer, demonstrations / "validation.parquet"
    )
    rows = packed(train, config)
    ends = epoch_ends(len(rows), config.batch_size, config.epochs)
    kept = context.checkpoints / "epochs"
    keeper = EpochKeeper(kept, ends, validation, tokenizer, folder, kind)
    fine_tune(model, tokenizer, rows, config, context, keeper.after_step)
    best = keeper.best()
    of_base = keeper.publish(best, out)
    figures = keeper.figures(best)
    metrics = {
        "validation_loss": figures.loss,
        "validation_accuracy": figures.accuracy,
        "selected_epoch": float(best),
        "demonstrations": float(len(train)),
        "rows": float(len(rows)),
        "train_demonstrations_too_long": float(train_left_out),
        "validation_demonstrations_too_long": float(left_out),
    }
    positions = model.config.max_position_embeddings
    contract = text_contract(tokenizer, positions - config.peft.positions_taken)
    return Report(metrics=metrics, contract=contract | of_base)


class EpochKeeper:
    """Saves the model after every epoch with its validation figures; of an adapter itself alone.

    Epochs are written beside the checkpoints, which outlive a killed try, and before the checkpoint
    of the same step: a run that resumes there finds the epochs before it whole.
    """

    def __init__(
        self,
        folder: Path,
        ends: list[int],
        validation: list[Sequence],
        tokenizer: Any,
        base: Path,
        kind: PeftKind,
    ) -> None:
        self._folder, self._ends = folder, ends
        self._validation, self._tokenizer = validation, tokenizer
        self._base, self._kind = base, kind

    def after_step(self, step: int, model: Any) -> dict[str, float]:
        """At the end of an epoch: validate and save; the figures to log."""
        if step not in self._ends:
            return {}
        figures = token_figures(model, self._validation, self._tokenizer.pad_token_id)
        folder = self._epoch(self._ends.index(step) + 1)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "validation.json").write_text(json.dumps(asdict(figures)))
        if self._kind.has_adapter:
            save_adapter(model, folder, model_hash(self._base), self._kind)
        else:
            save_model(model, self._tokenizer, folder)  # syncs the whole folder to disk
        return {"loss/validation": figures.loss, "accuracy/validation": figures.accuracy}

    def figures(self, epoch: int) -> TokenFigures:
        """The validation figures of an epoch, counted from 1."""
        text = (self._epoch(epoch) / "validation.json").read_text()
        return TokenFigures(**json.loads(text))

    def best(self) -> int:
        """The epoch of lowest validation loss."""
        epochs = range(1, len(self._ends) + 1)
        return min(epochs, key=lambda epoch: self.figures(epoch).loss)

    def publish(self, epoch: int, out: Path) -> dict[str, str]:
        """Put all epochs and this one as `model` into `out`; what the contract says of the base."""
        link_folder(self._folder, out / "epochs")
        if self._kind.has_adapter:
            model = load_adapted(self._base, self._epoch(epoch))
            return publish(model, self._tokenizer, out / "model", base=self._base, kind=self._kind)
        link_folder(self._epoch(epoch), out / "model")
        return {}

    def _epoch(self, epoch: int) -> Path:
        return self._folder / f"epoch_{epoch:02d}"
