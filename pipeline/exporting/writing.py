"""All that goes into an exported folder: weights, tokenizer, model card, config and a record."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import folder_size
from pipeline.exporting.card import CONFIG_FILE, Checked, Example, Form, model_card
from pipeline.exporting.source import Exported, base_name, hub_name, license_of
from pipeline.exporting.target import RECORD_FILE
from pipeline.runs import CONFIG_FILE as RUN_CONFIG
from stages.contracts import UserError
from stages.lm.chat import render_prompt
from stages.lm.loading import load_tokenizer
from stages.lm.peft.adapters import adapter_of
from stages.lm.peft.folders import ADAPTER, kind_of
from stages.lm.rollout import Sampling
from stages.records.schemas import Demonstration, Message
from stages.records.tables import iterate_table
from stages.step4_evaluation.export import fidelity, reward_fidelity
from stages.step4_evaluation.export.folder import (
    Dtype,
    Source,
    open_adapter,
    open_model,
    write_adapter,
    write_merged,
)
from stages.step4_evaluation.export.quantise import (
    PACKAGE,
    WORDS,
    Quantise,
    check_quantise,
    write_quantised,
)

CHECKED_TOKENS = 64  # of a response, at most
HELLO: list[Message] = [{"role": "user", "content": "Hello"}]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the user asked for.

    name: the folder's. options: as typed. dtype: of what is not quantised. base_model: the base by
    a name that others can open. rows: of each table, for the comparison with the original; 0: none.
    """

    name: str
    options: str
    adapter: bool
    dtype: Dtype
    quantise: Quantise | None
    base_model: str | None
    license: str | None
    rows: int

    @property
    def weights(self) -> str:
        """How they are kept, in words."""
        if self.adapter:
            return "an adapter in float32"
        if self.quantise is not None:
            return f"{WORDS[self.quantise]}, the rest in {self.dtype.value}"
        return self.dtype.value

    @property
    def needs(self) -> tuple[str, ...]:
        """The packages that open it."""
        more = ("peft",) if self.adapter else (PACKAGE,) if self.quantise else ()
        return ("transformers", *more)

    def check(self, exported: Exported) -> None:
        """Refuse what cannot be made.

        Raises:
            UserError: an adapter of a model that has none, or quantised; a whole model that is none
                without its adapter; a library is missing.
        """
        if self.adapter:
            adapter_of(exported.model)
        self._check_merged(exported)
        if self.quantise is None:
            return
        check_quantise(self.quantise)
        if self.adapter or exported.scores:
            raise UserError(
                "only a whole language model can be quantised",
                got="an adapter" if self.adapter else exported.asset,
                do="leave --quantise out",
            )

    def _check_merged(self, exported: Exported) -> None:
        method = kind_of(exported.model / ADAPTER)
        if method.adds_tokens and (exported.scores or not self.adapter):
            raise UserError(
                f"peft={method}: virtual tokens do not merge into the weights of a whole model",
                got=f"{exported.asset} as {'an adapter' if self.adapter else 'a whole model'}",
                do="export a policy with --what adapter; a reward model's head is in none",
            )


def write_export(exported: Exported, wish: Wish, out: Path) -> Checked:
    """Fill `out`; the comparison with the original that the card holds, too."""
    sampling = exported.sampling
    source = Source(model=exported.model, sampling=Sampling(**sampling) if sampling else None)
    base = base_name(exported, wish.base_model)
    if wish.adapter:
        write_adapter(source, out, base)
    elif wish.quantise is not None:
        write_quantised(source, out, wish.quantise, wish.dtype)
    else:
        write_merged(source, out, wish.dtype)
    size = folder_size(out)
    checked = _check(exported, wish, out, size)
    form = Form(
        name=wish.name,
        options=wish.options,
        adapter=wish.adapter,
        quantised=wish.quantise is not None,
        weights=wish.weights,
        base=base,
        base_on_hub=hub_name(base),
        license=wish.license or license_of(base),
        needs=wish.needs,
        size=size,
    )
    (out / "README.md").write_text(model_card(exported, form, example(exported), checked))
    shutil.copyfile(exported.run / RUN_CONFIG, out / CONFIG_FILE)
    _write_record(exported, form, checked, out)
    return checked


def _check(exported: Exported, wish: Wish, out: Path, size: int) -> Checked:
    if wish.rows == 0:
        return Checked(rows=[], unchecked="it was written with --check-rows 0")
    try:
        rows = _compared(exported, wish, out)
    except OSError as error:
        if not wish.adapter:
            raise
        return Checked(rows=[], unchecked=f"its base cannot be opened here ({_first(error)})")
    files = (path for path in exported.model.iterdir() if path.is_file())
    original = sum(path.stat().st_size for path in files)
    return Checked(rows=[*rows, ("size on disk", _megabytes(original), _megabytes(size))])


def _compared(exported: Exported, wish: Wish, out: Path) -> list[tuple[str, str, str]]:
    folders, model = exported.folders(), exported.model
    max_length = int(exported.artifact.manifest.contract["max_length"])
    if exported.scores:
        scored = reward_fidelity.read_comparisons(
            folders, model, rows=wish.rows, max_length=max_length
        )
        ours = reward_fidelity.original_scores(model, scored)
        bias = float(exported.artifact.manifest.metrics["reward_bias"])
        theirs = reward_fidelity.exported_scores(_opened(wish, out, True), bias, scored)
        return list(reward_fidelity.compare_scores(ours, theirs, scored.comparison).rows())
    material = fidelity.read_material(
        folders,
        model,
        rows=wish.rows,
        max_length=max_length,
        max_new_tokens=min(CHECKED_TOKENS, exported.config["evaluation"]["max_response_tokens"]),
    )
    original = fidelity.ask_original(model, material)
    return list(fidelity.compare(original, _opened(wish, out, False), material).rows())


def _opened(wish: Wish, out: Path, scores: bool) -> Any:
    return open_adapter(out, scores=scores) if wish.adapter else open_model(out)


def example(exported: Exported) -> Example:
    """The first validation demonstration of the run, or a greeting where it has none."""
    tokenizer = load_tokenizer(exported.model)
    messages, response = HELLO, "Hello"
    path = exported.folders().get("demonstrations", Path()) / "validation.parquet"
    if path.is_file():
        row = next(iterate_table(path, Demonstration))
        messages, response = row.prompt, row.response
    text = render_prompt(tokenizer, messages)
    return Example(messages=messages, text=text, eos=str(tokenizer.eos_token), response=response)


def _write_record(exported: Exported, form: Form, checked: Checked, out: Path) -> None:
    """`export.json`: the same for programs; and the mark of a folder that export may replace."""
    record = {
        "run": exported.record.run,
        "asset": exported.asset,
        "fingerprint": exported.artifact.manifest.fingerprint,
        **asdict(form),
        "checked": asdict(checked),
    }
    (out / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n")


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"
