"""Train, validation and test by user, or by prompt where no user is named (App. A of the paper)."""

import numpy as np

from stages.contracts import UserError
from stages.step0_data.rules.columns import NOBODY, OPEN, SPLITS, Columns
from stages.step0_data.rules.config import SplitConfig
from stages.step0_data.rules.views import digest


def assign_splits(
    columns: Columns, there: np.ndarray, config: SplitConfig, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(rows,) int8, the split of every row, and (rows,) bool, rows whose prompt stands elsewhere.

    Users (or prompts) are taken in an order that follows from the seed; each joins test, then
    validation, if its rows still fit, else train. A prompt that users of two splits sent stays with
    the first of them; the others' rows go. Rows that came with a split keep it.

    Raises:
        UserError: a split that was asked for stays empty.
    """
    split = columns.split.copy()
    rows = np.flatnonzero(there & (split == OPEN))
    split[rows] = _drawn(columns, rows, _targets(columns, there, rows, config), seed)
    for name, wanted in (("validation", config.validation), ("test", config.test), ("train", 1)):
        if wanted and not (there & (split == SPLITS.index(name))).any():
            raise UserError(
                f"the {name} split is empty",
                got=f"{there.sum()} rows, split.validation={config.validation}, "
                f"split.test={config.test}; a user's rows and a prompt's rows stay together",
                do="bring more rows, or change the sizes of the splits",
            )
    return split, _prompts_elsewhere(columns, rows, split)


def _targets(
    columns: Columns, there: np.ndarray, rows: np.ndarray, config: SplitConfig
) -> dict[str, int]:
    """Rows to draw for a split; none where a source brings that split itself."""
    wanted = {"test": config.test, "validation": config.validation}
    brought = {name: bool((there & (columns.split == SPLITS.index(name))).any()) for name in wanted}
    counts = {
        name: max(1, round(size * len(rows))) if 0 < size < 1 else round(size)
        for name, size in wanted.items()
    }
    return {name: 0 if brought[name] else count for name, count in counts.items()}


def _drawn(columns: Columns, rows: np.ndarray, targets: dict[str, int], seed: int) -> np.ndarray:
    """The split of each of these rows."""
    owner = np.where(columns.user[rows] == NOBODY, columns.prompt[rows], columns.user[rows])
    owners, owned, sizes = np.unique(owner, return_inverse=True, return_counts=True)
    turn = np.argsort([digest(seed, "split", int(name)) for name in owners], kind="stable")
    of_owner = np.zeros(len(owners), np.int8)
    left = dict(targets)
    for index in turn.tolist():
        for name in left:
            if 0 < sizes[index] <= left[name]:
                left[name] -= int(sizes[index])
                of_owner[index] = SPLITS.index(name)
                break
    return of_owner[owned]


def _prompts_elsewhere(columns: Columns, rows: np.ndarray, split: np.ndarray) -> np.ndarray:
    """Rows of a prompt whose first row, in the seed's order, stands in another split."""
    rows = rows[np.lexsort((columns.order[rows], columns.prompt[rows]))]
    prompt = columns.prompt[rows]
    starts = np.r_[True, prompt[1:] != prompt[:-1]][: len(rows)]
    first = np.maximum.accumulate(np.where(starts, np.arange(len(rows)), 0))
    elsewhere = np.zeros(len(columns), bool)
    elsewhere[rows[split[rows] != split[rows][first]]] = True
    return elsewhere
