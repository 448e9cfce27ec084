"""The prompts that users of the embedded world send, split by user."""

from pathlib import Path
from random import Random

from stages.contracts import Context, Report
from stages.records.schemas import Prompt
from stages.records.tables import write_table
from stages.step0_data.card import Origin, write_card
from stages.step0_data.config import PromptsConfig
from stages.world.prompts import draw_prompts


def run(config: PromptsConfig, *, out: Path, context: Context) -> Report:
    """Write train, validation and test prompts.

    Users stand in one split only (Ouyang et al. 2022, App. A), and validation and test prompts ask
    for combinations of entities that no training prompt asks for.
    """
    del context
    sizes = {
        "train": config.num_train,
        "validation": config.num_validation,
        "test": config.num_test,
    }
    metrics: dict[str, float] = {}
    for split, number in sizes.items():
        rng = Random(f"{config.seed} prompts {split}")
        prompts = draw_prompts(rng, number, split=split, held_out=split != "train")
        write_table(out / f"{split}.parquet", prompts)
        metrics |= {f"{split}_{name}": value for name, value in _figures(prompts).items()}
    write_card(out, Prompt, Origin(source=config))
    return Report(metrics=metrics)


def _figures(prompts: list[Prompt]) -> dict[str, float]:
    distinct = {prompt.prompt[-1]["content"] for prompt in prompts}
    return {
        "prompts": float(len(prompts)),
        "users": float(len({prompt.user for prompt in prompts})),
        "distinct_share": len(distinct) / len(prompts),
    }
