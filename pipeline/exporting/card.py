"""The model card: README.md in the hub's format, written from the run's manifests alone."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import ModelCardData
from jinja2 import StrictUndefined

from pipeline.exporting.source import Exported
from pipeline.exporting.usage import usage
from pipeline.manifest import Manifest
from pipeline.reporting.data import final_figures

CONFIG_FILE = "pipeline_config.yaml"
TEMPLATE = "card.md"
TASKS = {False: "text-generation", True: "text-classification"}
OF_THE_POLICY = ("pretrain_loss_delta", "pretrain_tokens")  # without its name in theirs


@dataclass(frozen=True, kw_only=True)
class Form:
    """What was written.

    options: of the command, as typed. weights: how they are kept, in words. base: as others open
    it. base_on_hub: its name there. needs: packages that open it. size: bytes.
    """

    name: str
    options: str
    adapter: bool
    quantised: bool
    weights: str
    base: str
    base_on_hub: str | None
    license: str | None
    needs: tuple[str, ...]
    size: int


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prompt: its messages, the text the model reads, what ends a response; a response to it."""

    messages: list[dict[str, str]]
    text: str
    eos: str
    response: str


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The export beside the original: (what it is, original, export); or why there is nothing."""

    rows: list[tuple[str, str, str]]
    unchecked: str = ""


@dataclass(frozen=True, kw_only=True)
class DataRow:
    """A data asset: where it came from, its rows by split."""

    asset: str
    source: str
    rows: str
    hub: list[str]


def model_card(exported: Exported, form: Form, example: Example, checked: Checked) -> str:
    """The whole README.md."""
    data, made_of = data_rows(exported), exported.ancestors()
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    template = environment.from_string(files(__package__).joinpath(TEMPLATE).read_text())
    return template.render(
        head=head(exported, form, data),
        exported=exported,
        form=form,
        usage=usage(exported, form, example),
        example=example,
        data=data,
        figures=card_figures(exported),
        checked=checked,
        departures=exported.record.departures,
        ancestors=made_of,
        parents=parents,
        packages=packages(made_of),
        config_file=CONFIG_FILE,
    )


def head(exported: Exported, form: Form, data: list[DataRow]) -> str:
    """The YAML head, as the hub reads it."""
    relation = "adapter" if form.adapter else "quantized" if form.quantised else "finetune"
    known = ModelCardData(
        base_model=form.base_on_hub,
        base_model_relation=relation if form.base_on_hub else None,
        datasets=sorted({name for row in data for name in row.hub}) or None,
        library_name="peft" if form.adapter else "transformers",
        license=form.license,
        pipeline_tag=TASKS[exported.scores],
        tags=["rlhf", exported.asset, str(exported.config["name"])],
    )
    return str(known.to_yaml())


def data_rows(exported: Exported) -> list[DataRow]:
    """The data it descends from, by the data cards beside the tables."""
    rows = []
    for asset in exported.ancestors():
        path = Path(exported.record.stages[asset].folder) / "data_card.json"
        if path.is_file():
            card = json.loads(path.read_text())
            rows.append(_data_row(asset, card["source"], card["splits"]))
    return rows


def _data_row(asset: str, source: Mapping[str, Any], splits: Mapping[str, Any]) -> DataRow:
    rows = ", ".join(f"{split} {found['rows']:,}" for split, found in splits.items())
    if "adapter" not in source:
        seed = source.get("seed", 0)
        told = f"the embedded world: generated, seed {seed}"
        return DataRow(asset=asset, source=told, rows=rows, hub=[])
    sources = [source, *source.get("others", {}).values()]
    named = [_source(one) for one in sources]
    hub = [one["hub"] for one in sources if one["hub"]]
    return DataRow(asset=asset, source="; ".join(named), rows=rows, hub=hub)


def _source(source: Mapping[str, Any]) -> str:
    """A data set of the hub by its name, a file by its name without the folders."""
    place = source["hub"] or Path(source["path"]).name
    revision = f" at {source['revision']}" if source.get("revision") else ""
    return f"{place}{revision} ({source['adapter']})"


def card_figures(exported: Exported) -> dict[str, str]:
    """What the run measured of this model, and of the reward model that trained it."""
    asset = exported.asset
    shown = [f"{asset}.", f"evaluation.{asset}_"]
    if asset == "policy":
        shown += [f"evaluation.{name}" for name in OF_THE_POLICY]
    if "reward_model" in exported.ancestors():
        shown += ["reward_model.accuracy", "reward_model.label_ceiling"]
    figures = final_figures(exported.record, exported.manifests)
    return {name: _said(value) for name, value in figures.items() if name.startswith(tuple(shown))}


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_said(number)}" for name, number in value.items())
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"
    return str(value)


def parents(manifest: Manifest) -> str:
    """What it was made from, with the beginning of each fingerprint."""
    return ", ".join(f"{p.asset} {p.fingerprint[:8]}" for p in manifest.parents.values()) or "–"


def packages(manifests: Mapping[str, Manifest]) -> str:
    """The versions of all packages that made it."""
    found = {name: v for made in manifests.values() for name, v in made.parts.packages.items()}
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))
