"""`data.html`: what came in, table by table; one file, complete in itself."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.reporting.headline import said
from pipeline.reporting.panels import draw_curve
from pipeline.reporting.svg import SERIES_COLORS, new_plot, styled, to_svg

DATA_PAGE = "data.html"
LENGTHS = ("prompt_length", "response_length", "document_length")


@dataclass(frozen=True)
class Sheet:
    """One table on the page."""

    asset: str
    card: Mapping[str, Any]
    names: list[str]
    pictures: list[Markup]


def write_data_page(folder: Path, cards: Mapping[str, Mapping[str, Any]], example: str) -> Path:
    """Draw the cards into `folder`, atomically. example: how a model reads a conversation."""
    environment = Environment(
        loader=PackageLoader("pipeline.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["said"] = said
    environment.filters["as_json"] = partial(json.dumps, indent=2, ensure_ascii=False)
    sheets = [_sheet(asset, card) for asset, card in cards.items()]
    page = environment.get_template("data_page.html").render(sheets=sheets, example=example)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / DATA_PAGE
    scratch = path.with_suffix(".tmp")
    scratch.write_text(page, encoding="utf-8")
    os.replace(scratch, path)
    return path


def _sheet(asset: str, card: Mapping[str, Any]) -> Sheet:
    splits = card["splits"]
    names = list(dict.fromkeys(name for figures in splits.values() for name in figures))
    pictures = [_lengths(asset, name, card) for name in LENGTHS if name in names]
    if "k" in names:
        pictures.append(_sizes(asset, splits))
    return Sheet(asset, card, names, pictures)


def _lengths(asset: str, name: str, card: Mapping[str, Any]) -> Markup:
    """How long the shorter N percent are."""
    with styled():
        figure, axes = new_plot()
        for number, (split, figures) in enumerate(card["splits"].items()):
            if name in figures:
                quantiles = figures[name]["quantiles"]
                step = 100 // (len(quantiles) - 1)
                curve = {place * step: value for place, value in enumerate(quantiles)}
                draw_curve(axes, curve, split, number)
        what = name.replace("_", " ")
        axes.set(title=what, xlabel="percent of the texts, shortest first", ylabel=card["unit"])
        axes.set_yscale("symlog")
        axes.legend()
        return to_svg(figure, f"{asset}-{name}", f"{what} of {asset} by percentile")


def _sizes(asset: str, splits: Mapping[str, Mapping[str, Any]]) -> Markup:
    with styled():
        figure, axes = new_plot()
        for number, (split, figures) in enumerate(splits.items()):
            places = [int(k) + 0.3 * (number - 1) for k in figures["k"]]
            color = SERIES_COLORS[number % len(SERIES_COLORS)]
            axes.bar(places, list(figures["k"].values()), width=0.28, color=color, label=split)
        axes.set(title="completions a prompt", xlabel="K", ylabel="prompts")
        axes.set_yscale("symlog")
        axes.legend()
        return to_svg(figure, f"{asset}-k", f"completions a prompt of {asset}")
