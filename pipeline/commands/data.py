"""`data`: make the data assets of these settings, then print and draw what came in."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.artifacts import Store
from pipeline.commandline import with_config
from pipeline.config import PipelineConfig, run_folder, selection, stage_configs
from pipeline.errors import raise_faults
from pipeline.executors.local import LocalExecutor
from pipeline.planning import Plan, make_plan
from pipeline.preflight import run_faults
from pipeline.progress import console
from pipeline.reporting.headline import said
from pipeline.scheduler import Run
from pipeline.selection import Selection
from pipeline.workflow import DATA, workflow
from stages.step0_base.config import BaseConfig, BaseKind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TABLES = (*DATA, "comparisons")


def main(arguments: Sequence[str]) -> int:
    """Read the data, and say what it is."""
    with_config(arguments, show_data)
    return 0


def show_data(config: PipelineConfig, _: DictConfig) -> None:
    """Print every table's figures and write the page.

    Raises:
        UserError: a source that cannot be read, a row that breaks its format.
    """
    from pipeline.reporting.data_page import write_data_page

    screen = console()
    tokenizer = known_tokenizer(config)
    cards = {asset: read_card(asset, at, tokenizer) for asset, at in data_folders(config, screen)}
    for asset, card in cards.items():
        print_card(asset, card, screen)
    example = ""
    if tokenizer is not None:
        from stages.lm.chat import template_facts

        example = str(template_facts(tokenizer)["example"])
        screen.print(Text("what a model reads: ", style="bold"), Text(repr(example)))
    page = write_data_page(run_folder(config), cards, example)
    screen.print(f"page  {page}")


def data_folders(config: PipelineConfig, screen: Console) -> Iterator[tuple[str, Path]]:
    """The data assets, made if they are not there.

    Comparisons of labelers need a trained model: they are shown where a run has made them.
    """
    for asset in TABLES:
        plan = _plan(config, asset)
        if plan.stages[asset].stage.reads and plan.to_run:
            screen.print(
                f"{asset}: made from {', '.join(plan.to_run[:-1])}; run the workflow first"
            )
            continue
        if plan.to_run:
            raise_faults(run_faults(plan, run_folder(config)))
            with LocalExecutor() as executor:
                Run(plan, f"data of {config.name}").execute(executor)
        yield asset, plan.stages[asset].folder


def _plan(config: PipelineConfig, target: str) -> Plan:
    given = {name: at for name, at in selection(config).given.items() if name == target}
    graph = workflow(stage_configs(config))
    plan, faults = make_plan(
        graph, Selection(to_stage=target, given=given), Store(config.store), config.runs_dir
    )
    raise_faults(faults)
    return plan


def known_tokenizer(config: PipelineConfig) -> "PreTrainedTokenizerBase | None":
    """That of the base model, where there is one already: lengths are then in its tokens."""
    folder = _base_folder(config)
    if folder is None:
        return None
    from stages.lm.chat import settle_template
    from stages.lm.loading import load_tokenizer

    tokenizer = load_tokenizer(folder)
    settle_template(tokenizer)
    return tokenizer


def _base_folder(config: PipelineConfig) -> Path | None:
    base: BaseConfig = config.base
    if base.kind is BaseKind.folder:
        return Path(str(base.path))
    plan = _plan(config, "base")
    return None if "base" in plan.to_run else plan.stages["base"].folder / "model"


def read_card(
    asset: str, folder: Path, tokenizer: "PreTrainedTokenizerBase | None"
) -> dict[str, Any]:
    """The card of an artifact; with a tokenizer the lengths are its tokens."""
    from stages.records.schemas import Comparison, Demonstration, Prompt, Text
    from stages.step0_data.card import CARD, make_card
    from stages.step0_data.rules.words import words

    kinds: dict[str, Any] = {
        "demonstrations": Demonstration,
        "prompts": Prompt,
        "text": Text,
        "comparisons": Comparison,
    }
    path = folder / CARD
    kept = json.loads(path.read_text()) if path.is_file() else {}
    if kept and tokenizer is None:
        return dict(kept)
    if tokenizer is None:
        return kept | make_card(folder, kinds[asset], words)
    from stages.lm.tokens import encode_text

    def tokens(text: str) -> int:
        return len(encode_text(tokenizer, text))

    return kept | make_card(folder, kinds[asset], tokens, "tokens")


def print_card(asset: str, card: Mapping[str, Any], screen: Console) -> None:
    """Figures by split, rows left out by reason, some rows."""
    splits = card["splits"]
    table = Table(title=f"{asset} (lengths in {card['unit']})", box=None, title_justify="left")
    table.add_column("", overflow="fold")
    for split in splits:
        table.add_column(split, justify="right", overflow="fold")
    for name in dict.fromkeys(name for figures in splits.values() for name in figures):
        table.add_row(name.replace("_", " "), *(said(f.get(name)) for f in splits.values()))
    screen.print(table)
    for heading in ("dropped", "left_out", "prompts_in_two_splits"):
        for why, number in card.get(heading, {}).items():
            screen.print(f"  {heading.replace('_', ' ')}: {why}: {number}", markup=False)
    for row in card["samples"]:
        line = Text(f"  {json.dumps(row, ensure_ascii=False)}", style="dim")
        screen.print(line, no_wrap=True, overflow="ellipsis")
    screen.print()
