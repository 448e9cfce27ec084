"""What is kept of every row while the table itself stays on disk: some 50 bytes of numbers.

Hashes stand for contents, so that a million rows are grouped and ordered in memory. `order` follows
from the seed and the row's content: who of several stays does not depend on the order of the file.
Rows that a source holds out come first, so that a held-out file keeps what train has as well.
"""

from array import array
from dataclasses import dataclass, field

import numpy as np

from stages.records.schemas import Prompt, Record, Text
from stages.step0_data.rules.config import RulesConfig
from stages.step0_data.rules.near_duplicates import Signatures
from stages.step0_data.rules.views import digest, prompt_text, user_of

NOBODY = 0  # the user of a row that names none
SPLITS = ("train", "validation", "test")
OPEN = -1  # the split of a row that its source assigns to none


@dataclass(kw_only=True)
class Columns:
    """One entry a row, all (rows,). Hashes are uint64; split is an index into SPLITS, or OPEN."""

    content: np.ndarray
    prompt: np.ndarray
    prefix: np.ndarray
    user: np.ndarray
    order: np.ndarray
    split: np.ndarray
    signatures: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.content)


@dataclass
class ColumnsBuilder:
    """Takes records one by one; `done` gives their columns."""

    config: RulesConfig
    seed: int
    _hashes: dict[str, "array[int]"] = field(init=False)
    _split: "array[int]" = field(default_factory=lambda: array("b"))

    def __post_init__(self) -> None:
        names = ("content", "prompt", "prefix", "user", "order")
        self._hashes = {name: array("Q") for name in names}
        self._signatures = Signatures(self.seed) if self.config.near_duplicates else None

    def add(self, record: Record, split: int) -> None:
        """Note a row. Of a prompt table two rows with one prompt are equal, whoever sent them."""
        text, user = prompt_text(record), user_of(record)
        prompt = digest(text if isinstance(record, Text) else record.prompt)
        self._hashes["prompt"].append(prompt)
        self._hashes["content"].append(prompt if isinstance(record, Prompt) else digest(record))
        self._hashes["prefix"].append(_prefix(text, self.config.prefix_characters, prompt))
        self._hashes["user"].append(NOBODY if user is None else digest("user", user))
        later = split in (OPEN, SPLITS.index("train"))
        self._hashes["order"].append((digest(self.seed, record) >> 1) | (later << 63))
        self._split.append(split)
        if self._signatures is not None:
            self._signatures.add(text)

    def done(self) -> Columns:
        """The columns of all rows."""
        hashes = {name: np.array(values, np.uint64) for name, values in self._hashes.items()}
        signatures = None if self._signatures is None else self._signatures.done()
        return Columns(split=np.array(self._split, np.int8), signatures=signatures, **hashes)


def _prefix(text: str, characters: int, prompt: int) -> int:
    """Equal for prompts that share their first N characters; a shorter one is alone."""
    return digest("prefix", text[:characters]) if len(text) >= characters > 0 else prompt
