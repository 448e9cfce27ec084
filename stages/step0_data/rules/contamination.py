"""Whether prompts that are held out were seen in training: equal ones, and long runs in common.

As Brown et al. 2020 (App. C) for GPT-3: words in lower case without punctuation, runs of n words,
and runs that many held-out prompts share are the words of a template and tell nothing.
"""

import re
from collections import defaultdict

from stages.step0_data.rules.config import ContaminationConfig

WORD = re.compile(r"\w+")
TEMPLATE = 10  # held-out prompts that share a run, above which it tells nothing


class HeldOutPrompts:
    """An index of held-out prompts; `matches` looks a prompt of train up in it."""

    def __init__(self, config: ContaminationConfig) -> None:
        self._config = config
        self._equal: dict[str, list[int]] = defaultdict(list)
        self._with_run: dict[str, list[int]] = defaultdict(list)
        self._runs: list[list[str]] = []
        self._split: list[str] = []
        self.found: set[int] = set()

    def add(self, text: str, split: str) -> None:
        """Hold one prompt out."""
        words = WORD.findall(text.lower())
        index = len(self._split)
        self._split.append(split)
        self._equal[" ".join(words)].append(index)
        runs = sorted(set(_runs(words, self._config.ngram))) if self._config.overlap else []
        self._runs.append(runs)
        for run in runs:
            self._with_run[run].append(index)

    def matches(self, text: str) -> list[int]:
        """The held-out prompts that this prompt of train gives away; they are noted in `found`."""
        words = WORD.findall(text.lower())
        shared: dict[int, int] = defaultdict(int)
        for run in set(_runs(words, self._config.ngram)):
            for index in self._telling(run):
                shared[index] += 1
        equal = self._equal.get(" ".join(words), [])
        near = [i for i, n in shared.items() if n >= self._config.overlap * self._size(i)]
        matched = sorted({*equal, *near})
        self.found.update(matched)
        return matched

    def figures(self) -> dict[str, float]:
        """Held-out prompts that were found in train, by split."""
        counts = {f"contaminated_{split}": 0.0 for split in self._split}
        for index in self.found:
            counts[f"contaminated_{self._split[index]}"] += 1
        return counts

    def _telling(self, run: str) -> list[int]:
        having = self._with_run.get(run, [])
        return having if len(having) <= TEMPLATE else []

    def _size(self, index: int) -> int:
        return sum(bool(self._telling(run)) for run in self._runs[index])


def _runs(words: list[str], length: int) -> list[str]:
    return [" ".join(words[i : i + length]) for i in range(len(words) - length + 1)]
