"""The rules that look at rows together: which rows stay, and in which split.

Every function takes the columns of the rows and which of them are still there, and gives those that
go: (rows,) bool. Nothing here is quadratic: rows are sorted and grouped by hashes.
"""

import numpy as np

from stages.step0_data.rules.columns import NOBODY, Columns
from stages.step0_data.rules.near_duplicates import near_duplicates


def identical_rows(columns: Columns, there: np.ndarray) -> np.ndarray:
    """All but one of equal rows."""
    rows = np.flatnonzero(there)
    rows = rows[np.lexsort((columns.order[rows], columns.content[rows]))]
    return _marked(rows[~_starts(columns.content[rows])], len(columns))


def shared_prefixes(columns: Columns, there: np.ndarray) -> np.ndarray:
    """Of prompts with one long prefix, all rows of all prompts but one."""
    rows = np.flatnonzero(there)
    rows = rows[np.lexsort((columns.order[rows], columns.prefix[rows]))]
    survivor = columns.prompt[rows][_first_of_group(columns.prefix[rows])]
    return _marked(rows[columns.prompt[rows] != survivor], len(columns))


def resembling_prompts(columns: Columns, there: np.ndarray, threshold: float) -> np.ndarray:
    """Of prompts that are nearly equal, all rows of all prompts but one."""
    assert columns.signatures is not None
    rows = np.flatnonzero(there)
    rows = rows[np.lexsort((columns.order[rows], columns.prompt[rows]))]
    first = rows[_starts(columns.prompt[rows])]  # one row stands for its prompt
    out = near_duplicates(columns.signatures[first], columns.order[first], threshold)
    gone = np.isin(columns.prompt[rows], columns.prompt[first][out])
    return _marked(rows[gone], len(columns))


def over_user_limit(columns: Columns, there: np.ndarray, limit: int) -> np.ndarray:
    """Rows of a user's prompts beyond the first `limit` in the seed's order."""
    rows = np.flatnonzero(there & (columns.user != NOBODY))
    user, prompt = columns.user[rows], columns.prompt[rows]
    place = np.lexsort((columns.order[rows], prompt, user))
    rows, user, prompt = rows[place], user[place], prompt[place]
    new_prompt = _starts(user) | _starts(prompt)
    group = np.cumsum(new_prompt) - 1  # of rows with one user and prompt
    first = rows[new_prompt]
    rank = _rank_within(columns.user[first], columns.order[first])
    return _marked(rows[rank[group] >= limit], len(columns))


def _rank_within(groups: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Each entry's place (from 0) by `order` among the entries of its group."""
    place = np.lexsort((order, groups))
    starts = _starts(groups[place])
    begin = np.maximum.accumulate(np.where(starts, np.arange(len(place)), 0))
    rank = np.empty(len(place), np.int64)
    rank[place] = np.arange(len(place)) - begin
    return rank


def _starts(values: np.ndarray) -> np.ndarray:
    """True where a sorted array begins a new group."""
    starts = np.ones(len(values), bool)
    starts[1:] = values[1:] != values[:-1]
    return starts


def _first_of_group(values: np.ndarray) -> np.ndarray:
    """For every entry of a sorted array, the index of the first of its group."""
    return np.maximum.accumulate(np.where(_starts(values), np.arange(len(values)), 0))


def _marked(rows: np.ndarray, total: int) -> np.ndarray:
    marked = np.zeros(total, bool)
    marked[rows] = True
    return marked
