"""Labels of Ziegler et al. (2019), lm-human-preferences: the best of four continuations.

`query` and `sample0` to `sample3` are token ids of GPT-2: give the tokenizer's own file,
options.tokenizer=FOLDER_OF_GPT2/tokenizer.json. Texts that were decoded already are taken as they
are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stages.contracts import UserError
from stages.records.adapter import Adapter, Rows
from stages.records.comparing import ranked
from stages.records.fields import Fields
from stages.records.schemas import Comparison

SAMPLES = 4
PADDING = 50_259  # openai/lm-human-preferences pads with an id behind GPT-2's vocabulary


@dataclass(kw_only=True)
class LmHumanPreferences(Adapter):
    """Comparisons of K = 4: one is best, the others tie behind it."""

    tokenizer: str = ""

    def comparisons(self, rows: Rows) -> Iterator[Comparison]:
        """One a row."""
        return rows.each(self._comparison)

    def _comparison(self, row: Fields) -> Comparison:
        best = row.integer("best")
        if not 0 <= best < SAMPLES:
            raise row.error("best", str(best), f"the index of one of {SAMPLES} samples")
        texts = [
            (self._text(row, f"sample{k}"), f"sample{k}", 1 if k == best else 2)
            for k in range(SAMPLES)
        ]
        return ranked(row, [{"role": "user", "content": self._text(row, "query")}], texts)

    def _text(self, row: Fields, name: str) -> str:
        if isinstance(row.value(name), str):
            return row.text(name)
        tokens = [token for token in row.integers(name) if token != PADDING]
        size = self._decoder.get_vocab_size()
        if unknown := [token for token in tokens if not 0 <= token < size]:
            raise row.error(name, f"token {unknown[0]}", f"ids below {size}, of this tokenizer")
        return str(self._decoder.decode(tokens))

    @cached_property
    def _decoder(self) -> Any:
        from tokenizers import Tokenizer

        if not Path(self.tokenizer).is_file():
            raise UserError(
                "these labels are token ids of GPT-2, which need its tokenizer",
                got=f"tokenizer={self.tokenizer or 'none'}",
                do="set options.tokenizer to GPT-2's tokenizer.json, or decode the file to texts",
            )
        return Tokenizer.from_file(self.tokenizer)
