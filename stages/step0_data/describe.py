"""What is in a table, in one pass: the figures of the paper's Tables 8-11 and what goes wrong most.

Lengths are counted by the function that is given: words, or the tokens of a model.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reward.agreement import Share, agreement, differences, qualities
from stages.contracts import UserError
from stages.records.schemas import Comparison, Completions, Prompt, Record, Text
from stages.step0_data.rules.languages import language_of
from stages.step0_data.rules.views import digest, prompt_text, responses, user_of
from stages.step0_data.rules.words import Length, words

LANGUAGE_ROWS = 200  # of a split; a text takes some milliseconds
MOST_LANGUAGES = 8
QUANTILE_STEP = 5  # percent


@dataclass
class Description:
    """Takes the rows of one split one by one; `figures` says what they were."""

    length: Length = words
    _lengths: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    _users: Counter[str] = field(default_factory=Counter)
    _turns: Counter[int] = field(default_factory=Counter)
    _systems: int = 0
    prompts: Counter[int] = field(default_factory=Counter)
    _rows: Counter[int] = field(default_factory=Counter)
    _texts: list[str] = field(default_factory=list)
    _labels: "_Labels" = field(default_factory=lambda: _Labels())

    def add(self, record: Record) -> None:
        """Note one row."""
        asked = prompt_text(record)
        self._lengths["document" if isinstance(record, Text) else "prompt"].append(
            self.length(asked)
        )
        for text in responses(record):
            self._lengths["response"].append(self.length(text))
        if user := user_of(record):
            self._users[user] += 1
        if not isinstance(record, Text):
            self._turns[sum(m["role"] == "user" for m in record.prompt)] += 1
            self._systems += record.prompt[0]["role"] == "system"
        prompt = digest(asked)
        self.prompts[prompt] += 1
        self._rows[prompt if isinstance(record, Prompt) else digest(record)] += 1
        if len(self._texts) < LANGUAGE_ROWS:
            self._texts.append(asked)
        if isinstance(record, Comparison):
            self._labels.add(record, prompt)
        elif isinstance(record, Completions):
            self._labels.sizes[len(record.completions)] += 1

    def figures(self) -> dict[str, Any]:
        """Everything, as JSON has it; what a table does not have is left out."""
        rows = self._rows.total()
        found: dict[str, Any] = {
            "rows": rows,
            **{f"{what}_length": distribution(values) for what, values in self._lengths.items()},
            "identical_rows": rows - len(self._rows),
            "distinct_prompts": len(self.prompts),
            "languages": languages(self._texts),
        }
        if self._users:
            found["users"] = len(self._users)
            found["rows_per_user"] = distribution(list(self._users.values()))
        if self._turns:
            found["user_turns"] = shares(self._turns)
            found["with_system_prompt"] = self._systems
        return found | self._labels.figures()


@dataclass
class _Labels:
    """What rankings say, and how far labelers agree who saw the same completions."""

    sizes: Counter[int] = field(default_factory=Counter)
    _orders: Counter[str] = field(default_factory=Counter)
    _longer: Counter[str] = field(default_factory=Counter)
    _all_tied: int = 0
    _labelers: Counter[str] = field(default_factory=Counter)
    _seen: dict[int, list[dict[int, int]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, record: Comparison, prompt: int) -> None:
        """Note one ranking."""
        self.sizes[len(record.completions)] += 1
        orders = np.sign(differences(qualities([record.ranks])))
        lengths = np.sign(differences([[float(len(text)) for text in record.completions]]))
        self._orders.update(_named(orders, ("second", "tie", "first")))
        untied = (orders != 0) & (lengths != 0)
        self._longer.update(_named(orders[untied] * lengths[untied], ("shorter", "", "longer")))
        self._all_tied += not orders.any()
        self._labelers[record.labeler or ""] += 1
        if record.labeler:
            ranks = zip(map(digest, record.completions), record.ranks, strict=True)
            self._seen[prompt].append(dict(ranks))

    def figures(self) -> dict[str, Any]:
        """Nothing for a table without labels."""
        found: dict[str, Any] = {"k": shares(self.sizes)} if self.sizes else {}
        if not self._orders:
            return found
        pairs = self._orders.total()
        found |= {
            "pairs": pairs,
            "tie_share": self._orders["tie"] / pairs,
            "all_tied_rows": self._all_tied,
            "first_listed_is_better": _ratio(self._orders, "first", "second"),
            "longer_is_better": _ratio(self._longer, "longer", "shorter"),
            "labelers": len(self._labelers.keys() - {""}),
        }
        agreed = self._agreement()
        if agreed.count:
            found |= {"agreement": agreed.value, "agreement_pairs": agreed.count}
        return found

    def _agreement(self) -> Share:
        """Of two labelers' rankings of one prompt, on the completions that both saw."""
        ones, others = [], []
        for rankings in self._seen.values():
            for number, one in enumerate(rankings):
                for other in rankings[:number]:
                    both = sorted(one.keys() & other.keys())
                    ones.append([one[text] for text in both])
                    others.append([other[text] for text in both])
        return agreement(qualities(ones), qualities(others))


def describe(records: Iterable[Record], length: Length = words) -> dict[str, Any]:
    """The figures of one split."""
    description = Description(length)
    for record in records:
        description.add(record)
    return description.figures()


def overlaps(splits: Mapping[str, Description]) -> dict[str, int]:
    """Prompts that stand in two splits: "train and test" -> how many."""
    names = list(splits)
    return {
        f"{one} and {other}": len(splits[one].prompts.keys() & splits[other].prompts.keys())
        for number, other in enumerate(names)
        for one in names[:number]
    }


def distribution(values: Sequence[int]) -> dict[str, Any]:
    """mean, std, median, p95 and max, as the paper's tables have them; every 5th percentile."""
    numbers = np.asarray(values, dtype=np.float64)
    return {
        "mean": round(float(numbers.mean()), 2),
        "std": round(float(numbers.std()), 2),
        "median": float(np.median(numbers)),
        "p95": float(np.percentile(numbers, 95)),
        "max": float(numbers.max()),
        "quantiles": [float(q) for q in np.percentile(numbers, range(0, 101, QUANTILE_STEP))],
    }


def languages(texts: Sequence[str]) -> dict[str, int]:
    """The likeliest language of each text, the most frequent first; empty without py3langid."""
    try:
        counts = Counter(language_of(text) for text in texts)
    except UserError:
        return {}
    return dict(counts.most_common(MOST_LANGUAGES))


def shares(counts: Mapping[int, int]) -> dict[str, int]:
    """Counts in the order of what was counted."""
    return {str(value): counts[value] for value in sorted(counts)}


def _named(signs: np.ndarray, names: tuple[str, str, str]) -> list[str]:
    """-1, 0 and 1 by their names."""
    return [names[int(sign) + 1] for sign in signs]


def _ratio(counts: Mapping[str, int], one: str, other: str) -> float | None:
    total = counts[one] + counts[other]
    return counts[one] / total if total else None
