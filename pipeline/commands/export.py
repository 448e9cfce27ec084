"""`export RUN --to FOLDER`: a run's model as a Hugging Face folder, with a model card.

It opens with `from_pretrained` wherever Transformers is installed, this project or not.
"""

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from pipeline.exporting.source import Exported, find_exported
from pipeline.exporting.target import check_target, new_folder
from pipeline.progress import console
from pipeline.runs import find_run

if TYPE_CHECKING:
    from pipeline.exporting.card import Checked
    from pipeline.exporting.writing import Wish

WEIGHT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def main(arguments: Sequence[str]) -> int:
    """Write the folder, compare it with the original, say what became of it."""
    asked = _parse(arguments)
    exported = find_exported(find_run(asked.run, asked.runs_dir), asked.asset)
    check_target(asked.to, overwrite=asked.overwrite, needed=_needed(exported, asked))

    from transformers.utils.logging import disable_progress_bar

    from pipeline.exporting.writing import write_export  # torch: after all was found right

    disable_progress_bar()
    wish = _wish(asked, arguments)
    wish.check(exported)
    with new_folder(asked.to) as out:
        checked = write_export(exported, wish, out)
    _print(asked, checked)
    return 0


def _parse(arguments: Sequence[str]) -> Namespace:
    parser = ArgumentParser(prog="python -m pipeline export", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="its id, the beginning of its id, or its folder")
    parser.add_argument("--to", metavar="FOLDER", type=Path, required=True, help="made by this")
    parser.add_argument(
        "--asset", default="policy", help="policy (the default), sft, ppo_init, reward_model, base"
    )
    parser.add_argument(
        "--what",
        choices=["merged", "adapter"],
        default="merged",
        help="the whole model, or only what a run with adapters trained",
    )
    parser.add_argument("--dtype", choices=list(WEIGHT_BYTES), default="float32")
    parser.add_argument(
        "--quantise",
        "--quantize",
        choices=["int8", "int4", "gptq", "awq"],
        help="the linear layers; --dtype is then what is left",
    )
    parser.add_argument(
        "--base-model",
        metavar="NAME",
        help="the base by a name that others can open, on the hub for one: for adapters and card",
    )
    parser.add_argument("--license", help="for the card; by default what the base's card says")
    parser.add_argument(
        "--check-rows",
        metavar="N",
        type=int,
        default=32,
        help="prompts and texts on which it is compared with the original; 0: not at all",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an older export")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    return parser.parse_args(arguments)


def _needed(exported: Exported, asked: Namespace) -> int:
    """Bytes, about: the weights are float32 in the store."""
    if asked.what == "adapter":
        adapter = (exported.model / "adapter").glob("*")
        return sum(path.stat().st_size for path in adapter)
    return exported.artifact.manifest.model_size * WEIGHT_BYTES[asked.dtype] // 4


def _wish(asked: Namespace, arguments: Sequence[str]) -> "Wish":
    from pipeline.exporting.writing import Wish
    from stages.step4_evaluation.export.folder import Dtype
    from stages.step4_evaluation.export.quantise import Quantise

    return Wish(
        name=asked.to.absolute().name,
        options=_options(asked, arguments),
        adapter=asked.what == "adapter",
        dtype=Dtype(asked.dtype),
        quantise=Quantise(asked.quantise) if asked.quantise else None,
        base_model=asked.base_model,
        license=asked.license,
        rows=asked.check_rows,
    )


def _options(asked: Namespace, arguments: Sequence[str]) -> str:
    """The command's options as typed, without what only says where things lie."""
    names = ("asset", "what", "dtype", "quantise", "base_model", "license", "check_rows")
    given = [
        part
        for name in names
        if (option := f"--{name.replace('_', '-')}") in {a.partition("=")[0] for a in arguments}
        for part in (option, str(getattr(asked, name)))
    ]
    return f" {shlex.join(given)}" if given else ""


def _print(asked: Namespace, checked: "Checked") -> None:
    screen = console()
    if checked.rows:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for heading in ("", "original", "export"):
            table.add_column(heading, justify="right" if heading else "left")
        for row in checked.rows:
            table.add_row(*row)
        screen.print(table)
    else:
        screen.print(f"not compared with the original: {checked.unchecked}", soft_wrap=True)
    screen.print(f"\nexported to {asked.to}; what it is: {asked.to / 'README.md'}", soft_wrap=True)
