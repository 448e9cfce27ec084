"""The demonstrations of the embedded world: writers of different care answer prompts."""

from pathlib import Path
from random import Random

from stages.contracts import Context, Report
from stages.records.schemas import Demonstration
from stages.records.tables import write_table
from stages.step0_data.card import Origin, write_card
from stages.step0_data.config import DemonstrationsConfig
from stages.world.gold import gold_reward
from stages.world.prompts import draw_demonstrations


def run(config: DemonstrationsConfig, *, out: Path, context: Context) -> Report:
    """Write train and validation demonstrations; validation asks for held-out combinations."""
    del context
    metrics: dict[str, float] = {}
    for split, number in (("train", config.num_train), ("validation", config.num_validation)):
        rng = Random(f"{config.seed} demonstrations {split}")
        records = draw_demonstrations(
            rng,
            number,
            care=config.care,
            split=f"demonstrations-{split}",
            held_out=split == "validation",
        )
        write_table(out / f"{split}.parquet", records)
        metrics |= {f"{split}_{name}": value for name, value in _figures(records).items()}
    write_card(out, Demonstration, Origin(source=config))
    return Report(metrics=metrics)


def _figures(records: list[Demonstration]) -> dict[str, float]:
    gold = [gold_reward(record.prompt, record.response, True) for record in records]
    return {
        "demonstrations": float(len(records)),
        "gold": sum(gold) / len(gold),
        "perfect_share": sum(value >= 1 - 1e-6 for value in gold) / len(gold),
    }
