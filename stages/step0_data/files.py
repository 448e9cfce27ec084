"""The data assets from the user's own files, or from a hub's data set.

    source ─► records (`stages.records`) ─► the paper's rules ─► train, validation (and test)

Every row is accounted for: read = kept + dropped, reason by reason, in the figures and in the data
card that lies beside the tables.
"""

from collections.abc import Iterator
from pathlib import Path

from stages.contracts import Context, InterruptedRunError, Report
from stages.records.account import Account
from stages.records.reading import R, read_source
from stages.records.schemas import Comparison, Demonstration, Prompt, Text
from stages.step0_data.card import Origin, write_card
from stages.step0_data.files_config import FilesConfig
from stages.step0_data.rules.ledger import Sourced
from stages.step0_data.rules.prepare import prepare

TOLD_EVERY = 1000  # rows


def demonstrations(config: FilesConfig, *, out: Path, context: Context) -> Report:
    """Prompts with the responses that labelers wrote."""
    return _make(config, Demonstration, out, context)


def prompts(config: FilesConfig, *, out: Path, context: Context) -> Report:
    """Prompts alone."""
    return _make(config, Prompt, out, context)


def comparisons(config: FilesConfig, *, out: Path, context: Context) -> Report:
    """Ranked completions, which nobody has to sample or to label."""
    return _make(config, Comparison, out, context)


def text(config: FilesConfig, *, out: Path, context: Context) -> Report:
    """Pretraining text."""
    return _make(config, Text, out, context)


def _make(config: FilesConfig, kind: type[R], out: Path, context: Context) -> Report:
    accounts: dict[str, Account] = {}
    rows = _told(_rows(config, kind, accounts), context)
    ledger = prepare(rows, kind, config.rules, config.seed, out, config.weights())
    origin = Origin(source=config, accounts=accounts, ledger=ledger)
    figures = write_card(out, kind, origin)
    return Report(metrics=figures)


def _rows(config: FilesConfig, kind: type[R], accounts: dict[str, Account]) -> Iterator[Sourced[R]]:
    """All records, each with the split it came with; `accounts` fills while they are read."""
    for name, split, source in config.sources():
        loaded = read_source(source, kind)
        accounts[f"{name} {split or 'all'}"] = loaded.account
        for record in loaded:
            yield Sourced(record=record, source=name, split=split)


def _told(rows: Iterator[Sourced[R]], context: Context) -> Iterator[Sourced[R]]:
    for number, row in enumerate(rows, start=1):
        if number % TOLD_EVERY == 0:
            context.journal.start(number, "rows")  # how many there are is not known
            context.journal.advance(number)
            if context.should_stop():
                raise InterruptedRunError("stopped while reading: the next run reads again")
        yield row
