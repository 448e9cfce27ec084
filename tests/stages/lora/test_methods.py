"""Every method of the group `peft` in every stage, and the table of docs/peft.md that says so."""

import json
import os
import re
from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path

import pytest
import torch

from stages.contracts import Context, InterruptedRunError, UserError
from stages.lm.loading import model_hash
from stages.lm.peft.config import PeftConfig, PeftKind
from stages.lm.peft.folders import positions_taken
from stages.step0_base import base as base_stage
from stages.step0_base.config import BaseConfig, BaseKind
from tests.stages.lora.chain import never, run_reward_model, run_sft
from tests.stages.lora.methods import FOLDER, METHODS, STAGES, Chain

QUICK = {"bitfit, gpt2": ("sft", "dpo"), "dora": ("sft",), "prompt": STAGES}
CELLS = [
    pytest.param(
        method,
        stage,
        id=f"{method}-{stage}".replace(", ", "-"),
        marks=[] if stage in QUICK.get(method, ()) else pytest.mark.slow,
    )
    for method in METHODS
    for stage in (*STAGES, FOLDER)
]
REFUSED = {"bitfit, llama": "refused: peft=bitfit finds no biases to train"}
PAGE = Path("docs/peft.md")
Cell = Callable[[str, str], str]


@pytest.fixture(scope="module")
def cell(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Cell:
    torch.set_num_threads(1)
    chain = cache(lambda method: Chain(method, world, tmp_path_factory.mktemp("chain")))
    return cache(lambda method, stage: chain(method).cell(stage))


@pytest.mark.parametrize(("method", "stage"), CELLS)
def test_method_in_stage(cell: Cell, method: str, stage: str) -> None:
    """Mutations: the decoder without its virtual tokens; biases that are not frozen or are."""
    works = "yes" if stage == FOLDER else "works"
    if stage == FOLDER and METHODS[method].adds_tokens:
        works = "with the adapter"
    assert cell(method, stage) == REFUSED.get(method, works)


RESUMED = ("prefix", "bitfit, gpt2", "dora", "ia3", "adalora", "qlora")


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=[] if m in RESUMED[:2] else pytest.mark.slow) for m in RESUMED],
)
def test_sft_continues_bit_for_bit(world: Path, tmp_path: Path, method: str) -> None:
    """Mutations: a prefix's MLP, or the averages of AdaLoRA, left out of the checkpoint."""
    whole, parts = (Chain(method, world, tmp_path / name) for name in ("whole", "parts"))
    whole.stage("sft")
    ticks = count(1)
    with pytest.raises(InterruptedRunError):
        parts.run_sft(lambda: next(ticks) == 7)
    parts.run_sft(never)
    for folder in ("model", "epochs/epoch_01", "epochs/epoch_02"):
        found, expected = parts.out("sft") / folder, whole.out("sft") / folder
        assert model_hash(found) == model_hash(expected)
        if METHODS[method].has_adapter:
            assert model_hash(found / "adapter") == model_hash(expected / "adapter")


def test_table_has_every_cell_that_was_run_here(cell: Cell) -> None:
    """Those that are not slow; the next test knows them all."""
    table = read_table()
    assert list(table) == [*METHODS]
    for method, stages in QUICK.items():
        for stage in stages:
            assert table[method][stage] == cell(method, stage), (method, stage)


@pytest.mark.slow
def test_table_is_what_was_found(cell: Cell) -> None:
    found = {method: {s: cell(method, s) for s in (*STAGES, FOLDER)} for method in METHODS}
    if os.environ.get("PEFT_TABLE") == "write":
        write_table(found)
    assert read_table() == found


def read_table() -> dict[str, dict[str, str]]:
    """Method -> column -> cell, as the page has them."""
    _, text, _ = re.split("<!-- .*table -->\n", PAGE.read_text())
    head, _, *rows = (
        [part.strip(" `") for part in line.strip("| ").split("|")] for line in text.splitlines()
    )
    return {method: dict(zip(head[1:], cells, strict=True)) for method, *cells in rows}


def write_table(found: dict[str, dict[str, str]]) -> None:
    columns = [*STAGES, FOLDER]
    lines = [["peft", *(f"`{column}`" for column in columns)], ["---"] * (1 + len(columns))]
    lines += [[f"`{method}`", *(row[c] for c in columns)] for method, row in found.items()]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    before, _, after = re.split("(<!-- .*table -->\n)(?s:.*)(?=<!-- end)", PAGE.read_text())
    PAGE.write_text(before + "<!-- table -->\n" + table + after)


def test_adalora_leaves_the_mean_rank(world: Path, tmp_path: Path) -> None:
    """It starts at half as much again; 4 of 14 layers' worth of 6. Mutation: nothing is pruned."""
    chain = Chain("adalora", world, tmp_path)
    chain.stage("sft")
    config = json.loads((chain.out("sft") / "model/adapter/adapter_config.json").read_text())
    ranks = [sum(kept) for kept in config["rank_pattern"].values()]
    assert len(ranks) == 14
    assert sum(ranks) == 14 * 4
    assert max(ranks) <= 6


def test_an_adapter_of_another_method_is_refused(world: Path, tmp_path: Path) -> None:
    """Mutation: only the base compared."""
    chain = Chain("prompt", world, tmp_path)
    chain.stage("sft")
    with pytest.raises(UserError, match="of another method") as fault:
        run_reward_model(
            world, chain.out("sft"), tmp_path / "rm", peft=PeftKind.lora, max_length=60
        )
    assert "peft=prompt" in fault.value.got


def test_virtual_tokens_are_no_part_of_a_base_and_take_positions(
    world: Path, tmp_path: Path
) -> None:
    """The small world's model has 64. Mutation: a base without what was trained."""
    chain = Chain("prompt", world, tmp_path)
    chain.stage("sft")
    folder = chain.out("sft") / "model"
    assert positions_taken(folder) == 4
    base = BaseConfig(kind=BaseKind.folder, path=str(folder))
    with pytest.raises(UserError, match="cannot be part of a base"):
        base_stage.run(base, text=world / "text", out=tmp_path / "b", context=Context.at(tmp_path))
    with pytest.raises(UserError, match="too few positions"):
        run_sft(
            world, tmp_path / "long", peft=PeftConfig(kind=PeftKind.prompt, num_virtual_tokens=60)
        )
