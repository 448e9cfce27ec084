"""The data card: what came in, what was left out and why, what is in each split, ten rows.

`data_card.json` for programs, `data_card.md` for people, beside the tables they describe.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stages.contracts import StageConfig
from stages.records.account import Account
from stages.records.tables import R, iterate_table
from stages.step0_data.describe import Description, overlaps
from stages.step0_data.rules.ledger import Ledger
from stages.step0_data.rules.words import Length, words

CARD, CARD_FOR_PEOPLE = "data_card.json", "data_card.md"
SPLITS = ("train", "validation", "test")
ROWS_SHOWN, LONGEST_SHOWN = 10, 600  # rows; characters of a text


@dataclass(kw_only=True)
class Origin:
    """Where the rows came from, and what became of each on its way in.

    accounts: of each source that was read. ledger: of the rules; neither for the embedded world.
    """

    source: StageConfig
    accounts: Mapping[str, Account] = field(default_factory=dict)
    ledger: Ledger | None = None

    def dropped(self) -> dict[str, int]:
        """Rows by reason: of the formats (rows of files) and of the rules (records)."""
        found: dict[str, int] = {}
        for account in self.accounts.values():
            for reason, rows in account.dropped.items():
                found[reason] = found.get(reason, 0) + rows
        rules = self.ledger.dropped if self.ledger else {}
        return found | {reason: found.get(reason, 0) + n for reason, n in rules.items()}

    def left_out(self) -> dict[str, int]:
        """Parts of rows that stand in no record."""
        found: dict[str, int] = {}
        for account in self.accounts.values():
            for part, number in account.left_out.items():
                found[part] = found.get(part, 0) + number
        return found

    def metrics(self) -> dict[str, float]:
        """Rows read, kept, dropped by reason."""
        if self.ledger is None:
            return {}
        figures = self.ledger.metrics() | {
            "rows_in": float(sum(account.rows for account in self.accounts.values())),
            "rows_used": float(sum(account.used for account in self.accounts.values())),
        }
        dropped = {f"dropped_{_name(why)}": float(n) for why, n in self.dropped().items()}
        left_out = {f"left_out_{_name(part)}": float(n) for part, n in self.left_out().items()}
        return figures | dropped | left_out


def write_card(folder: Path, kind: type[R], origin: Origin) -> dict[str, float]:
    """Describe the tables in `folder`; the figures of how they came to be."""
    card = make_card(folder, kind, words) | {
        "source": {"class": type(origin.source).__name__, **_plain(asdict(origin.source))},
        "rows": origin.metrics(),
        "dropped": origin.dropped(),
        "left_out": origin.left_out(),
        "dropped_rows": _dropped_rows(origin),
    }
    (folder / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    (folder / CARD_FOR_PEOPLE).write_text(markdown(card))
    return origin.metrics()


def make_card(folder: Path, kind: type[R], length: Length, unit: str = "words") -> dict[str, Any]:
    """What is in the tables, lengths in `unit` by `length`."""
    splits: dict[str, Description] = {}
    samples: list[dict[str, Any]] = []
    for split in SPLITS:
        path = folder / f"{split}.parquet"
        if not path.is_file():
            continue
        splits[split] = Description(length)
        for record in iterate_table(path, kind):
            splits[split].add(record)
            if len(samples) < ROWS_SHOWN:
                samples.append(_shortened(asdict(record)))
    return {
        "table": kind.__name__,
        "unit": unit,
        "splits": {split: found.figures() for split, found in splits.items()},
        "prompts_in_two_splits": overlaps(splits),
        "samples": samples,
    }


def markdown(card: Mapping[str, Any]) -> str:
    """The card for a person."""
    lines = [f"# {card['table']}", "", f"Lengths in {card['unit']}."]
    for split, figures in card["splits"].items():
        lines += ["", f"## {split}", ""]
        lines += [f"- {name.replace('_', ' ')}: {_said(value)}" for name, value in figures.items()]
    for heading in ("dropped", "left_out", "prompts_in_two_splits"):
        if found := card.get(heading):
            lines += ["", f"## {heading.replace('_', ' ')}", ""]
            lines += [f"- {why}: {number}" for why, number in found.items()]
    lines += ["", "## source", "", "```json", json.dumps(card.get("source", {}), indent=2), "```"]
    lines += ["", "## rows", ""]
    for row in card["samples"]:
        lines += ["```json", json.dumps(row, indent=2, ensure_ascii=False), "```", ""]
    return "\n".join(lines)


def _said(value: Any) -> str:
    if isinstance(value, Mapping) and "median" in value:
        value = {name: number for name, number in value.items() if name != "quantiles"}
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_said(item)}" for name, item in value.items()) or "none"
    return f"{value:.3g}" if isinstance(value, float) and value < 100 else f"{value}"


def _dropped_rows(origin: Origin) -> list[dict[str, str]]:
    """The first rows of each reason, those of the formats with their place in the file."""
    found = [
        {"reason": example.why, "where": f"{example.file}, {example.position}"}
        for account in origin.accounts.values()
        for example in account.examples
    ]
    return found + (origin.ledger.examples if origin.ledger else [])


def _shortened(value: Any) -> Any:
    """A record with its long texts cut, its absent fields left out."""
    if isinstance(value, dict):
        return {name: _shortened(item) for name, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_shortened(item) for item in value]
    if isinstance(value, str) and len(value) > LONGEST_SHOWN:
        return f"{value[:LONGEST_SHOWN]} … ({len(value)} characters)"
    return value


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _name(reason: str) -> str:
    """A reason as part of a figure's name."""
    return re.sub(r"[^a-z0-9]+", "_", reason.lower()).strip("_")
