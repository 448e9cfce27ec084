"""From a stream of records to the tables of the splits, with every row accounted for.

    records ─► rules of one row ─► a table on disk, and columns of hashes in memory
            ─► rules of rows together ─► split ─► shares of sources ─► contamination
            ─► train, validation, test

Memory does not grow with the texts: some 50 bytes a row (550 with near duplicates) stay in it.
Rows in = rows out + dropped, reason by reason. Which rows stay depends on the seed and the rows,
not on their order.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, cast

import numpy as np

from stages.contracts import UserError
from stages.records.schemas import Prompt
from stages.records.tables import R, TableWriter, iterate_table
from stages.step0_data.rules import decisions
from stages.step0_data.rules.columns import OPEN, SPLITS, Columns, ColumnsBuilder
from stages.step0_data.rules.config import RulesConfig
from stages.step0_data.rules.contamination import HeldOutPrompts
from stages.step0_data.rules.ledger import Ledger, Sourced
from stages.step0_data.rules.mixing import over_share
from stages.step0_data.rules.row_rules import DroppedRow, RowRules
from stages.step0_data.rules.splits import assign_splits
from stages.step0_data.rules.views import prompt_text

OVER = "over_its_share"  # of a mixture


def prepare(  # what comes in, what is done with it, where it goes
    rows: Iterable[Sourced[R]],
    kind: type[R],
    config: RulesConfig,
    seed: int,
    out: Path,
    weights: Mapping[str, float] | None = None,
) -> Ledger:
    """Write `out/train.parquet`, and validation and test where the config or a source has them.

    weights: of the sources by name, where they are mixed in proportion.

    Raises:
        UserError: no row is left, or a split stays empty.
    """
    ledger = Ledger()
    spool = _Spool(out / "rows.parquet", kind)
    columns = spool.fill(rows, RowRules(config), ColumnsBuilder(config, seed), ledger)
    fates = decide(columns, config, seed)
    if weights:
        fates.drop(over_share(columns, fates.there(), fates.split, spool.sources, weights), OVER)
    held_out = _index_held_out(spool, fates, config)
    _write_splits(spool, fates, held_out, config, ledger, out)
    ledger.contaminated = held_out.figures()
    ledger.users = _users(columns, fates)
    spool.path.unlink()
    if not ledger.kept["train"]:
        raise UserError(
            "no row of train is left",
            got=f"left out: {dict(ledger.dropped)}",
            do="hold out less, or set contamination.drop=false",
        )
    assert ledger.read == ledger.kept.total() + ledger.dropped.total()
    return ledger


@dataclass(kw_only=True)
class Fates:
    """split: (rows,) int8, index into SPLITS. reason: by row, of those that go."""

    split: np.ndarray
    reason: dict[int, str]

    def there(self) -> np.ndarray:
        """(rows,) bool: which rows stay."""
        stay = np.ones(len(self.split), bool)
        stay[list(self.reason)] = False
        return stay

    def drop(self, gone: np.ndarray, reason: str) -> None:
        """Let rows (rows,) bool go."""
        self.reason.update(dict.fromkeys(np.flatnonzero(gone).tolist(), reason))

    def splits(self) -> list[str]:
        """The splits that any row is in."""
        stay = self.there()
        return [name for i, name in enumerate(SPLITS) if (stay & (self.split == i)).any()]


def decide(columns: Columns, config: RulesConfig, seed: int) -> Fates:
    """All rules of rows together, one after another."""
    there = np.ones(len(columns), bool)
    reasons: dict[int, str] = {}

    def drop(gone: np.ndarray, reason: str) -> None:
        reasons.update(dict.fromkeys(np.flatnonzero(gone).tolist(), reason))
        there[gone] = False

    if config.identical:
        drop(decisions.identical_rows(columns, there), "identical")
    if config.prefix_characters:
        drop(decisions.shared_prefixes(columns, there), "common_prefix")
    if config.near_duplicates:
        threshold = config.near_duplicates
        drop(decisions.resembling_prompts(columns, there, threshold), "near_duplicate")
    if config.max_prompts_per_user:
        limit = config.max_prompts_per_user
        drop(decisions.over_user_limit(columns, there, limit), "over_user_limit")
    split, elsewhere = assign_splits(columns, there, config.split, seed)
    drop(elsewhere, "prompt_in_other_split")
    return Fates(split=split, reason=reasons)


class _Spool(Generic[R]):
    """The rows that passed the rules of one row, on disk; their sources and splits in memory."""

    def __init__(self, path: Path, kind: type[R]) -> None:
        self.path = path
        self.kind: type[R] = kind
        self.sources: list[str] = []

    def fill(
        self,
        rows: Iterable[Sourced[R]],
        rules: RowRules,
        columns: ColumnsBuilder,
        ledger: Ledger,
    ) -> Columns:
        """Read all rows, write those that pass, and give their columns."""
        with TableWriter(self.path, self.kind) as table:
            for row in rows:
                ledger.read += 1
                try:
                    record = cast(R, rules.apply(row.record))  # rules keep the kind
                except DroppedRow as dropped:
                    ledger.drop(dropped.reason, row)
                    continue
                columns.add(record, OPEN if row.split is None else SPLITS.index(row.split))
                self.sources.append(row.source)
                table.add(record)
        ledger.changed = rules.changed
        if not self.sources:
            raise UserError(
                "no row is left",
                got=f"{ledger.read} rows read; left out: {dict(ledger.dropped) or 'none'}",
                do="check the source, or loosen the rules",
            )
        return columns.done()

    def __iter__(self) -> Iterator[tuple[int, Sourced[R]]]:
        for number, record in enumerate(iterate_table(self.path, self.kind)):
            yield number, Sourced(record=record, source=self.sources[number])


def _index_held_out(spool: _Spool[R], fates: Fates, config: RulesConfig) -> HeldOutPrompts:
    held_out = HeldOutPrompts(config.contamination)
    if config.contamination.against:
        for record in iterate_table(Path(config.contamination.against), Prompt):
            held_out.add(prompt_text(record), "against")
    for number, row in spool:
        split = SPLITS[fates.split[number]]
        if split != "train" and number not in fates.reason:
            held_out.add(prompt_text(row.record), split)
    return held_out


def _write_splits(
    spool: _Spool[R],
    fates: Fates,
    held_out: HeldOutPrompts,
    config: RulesConfig,
    ledger: Ledger,
    out: Path,
) -> None:
    with ExitStack() as stack:
        tables = {
            split: stack.enter_context(TableWriter(out / f"{split}.parquet", spool.kind))
            for split in fates.splits()
        }
        for number, row in spool:
            split = SPLITS[fates.split[number]]
            reason = fates.reason.get(number)
            if reason is None and split == "train" and held_out.matches(prompt_text(row.record)):
                reason = "contaminated" if config.contamination.drop else None
            if reason is not None:
                fates.reason[number] = reason
                ledger.drop(reason, row)
                continue
            tables[split].add(row.record)
            ledger.kept[split] += 1
            ledger.by_source[row.source] += 1


def _users(columns: Columns, fates: Fates) -> dict[str, int]:
    """Users by split, where rows name any."""
    stay = fates.there() & (columns.user != 0)
    counts = {
        name: len(np.unique(columns.user[stay & (fates.split == i)]))
        for i, name in enumerate(SPLITS)
    }
    return {name: users for name, users in counts.items() if users}
