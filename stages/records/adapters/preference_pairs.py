"""Data sets of a chosen and a rejected response: the Tulu 3 mixture, RewardBench."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from stages.records.adapter import Adapter, Rows
from stages.records.comparing import compared, two_responses
from stages.records.fields import Fields
from stages.records.schemas import Comparison, Demonstration


@dataclass(kw_only=True)
class Tulu3(Adapter):
    """allenai/llama-3.1-tulu-3-8b-preference-mixture: conversations that share their start.

    Demonstrations are the chosen responses.
    """

    def comparisons(self, rows: Rows) -> Iterator[Comparison]:
        """One a row."""
        return rows.each(self._comparison)

    def demonstrations(self, rows: Rows) -> Iterator[Demonstration]:
        """The chosen response of each row."""
        return rows.each(self._demonstration)

    def _comparison(self, row: Fields) -> Comparison:
        return compared(*two_responses(row, "chosen", "rejected", "prompt"))

    def _demonstration(self, row: Fields) -> Demonstration:
        made = self._comparison(row)
        return Demonstration(prompt=made.prompt, response=made.completions[0])


@dataclass(kw_only=True)
class RewardBench(Adapter):
    """allenai/reward-bench: texts, the models that wrote them, and the subset they belong to."""

    def comparisons(self, rows: Rows) -> Iterator[Comparison]:
        """One a row."""
        return rows.each(self._comparison)

    def _comparison(self, row: Fields) -> Comparison:
        models = [row.text_or_none(name) for name in ("chosen_model", "rejected_model")]
        made = compared(
            *two_responses(row, "chosen", "rejected", "prompt"),
            sources=(models[0] or "chosen", models[1] or "rejected"),
        )
        return replace(made, subset=row.text("subset"))
