"""The pretraining text of the embedded world."""

from pathlib import Path
from random import Random

from stages.contracts import Context, Report
from stages.records.schemas import Text
from stages.records.tables import write_table
from stages.step0_data.card import Origin, write_card
from stages.step0_data.config import TextConfig
from stages.world.text import write_document


def run(config: TextConfig, *, out: Path, context: Context) -> Report:
    """Write train and validation documents; see `stages.world.text`."""
    del context
    metrics = {}
    for split, number in (("train", config.num_train), ("validation", config.num_validation)):
        rng = Random(f"{config.seed} text {split}")
        documents = [
            Text(text=write_document(rng, config.instruction_share)) for _ in range(number)
        ]
        write_table(out / f"{split}.parquet", documents)
        metrics[f"{split}_documents"] = float(number)
        metrics[f"{split}_words"] = float(sum(len(d.text.split()) for d in documents))
    write_card(out, Text, Origin(source=config))
    return Report(metrics=metrics)
