"""nvidia/HelpSteer2 and HelpSteer3: rated responses, and preferences with a strength.

Strengths go from -3 (the first response is much better) to 3 (the second is), 0 ties. A strength
becomes a margin, by default a third a step, the small margins of Touvron et al. (2023), Table 27.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from stages.records.adapter import Adapter, Part, Rows
from stages.records.comparing import compared, ranked, ranks_of_scores
from stages.records.fields import Fields
from stages.records.rows import SkipRow
from stages.records.schemas import Comparison, Demonstration, Message

STRONGEST = 3
_MARKER = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")  # between the turns of a prompt


@dataclass(kw_only=True)
class HelpSteer2(Adapter):
    """Comparisons of the responses to one prompt by one of their ratings (0 to 4).

    attribute: helpfulness, correctness, coherence, complexity or verbosity.
    """

    attribute: str = "helpfulness"

    def comparisons(self, rows: Rows) -> Iterator[Comparison]:
        """Neighbouring rows of one prompt together."""
        return rows.runs(self._rated, self._comparison)

    def demonstrations(self, rows: Rows) -> Iterator[Demonstration]:
        """Every response."""
        return rows.each(
            lambda row: Demonstration(
                prompt=_turns(row.said("prompt")), response=row.said("response")
            )
        )

    def _rated(self, row: Fields) -> tuple[str, float]:
        return row.said("prompt"), row.number(self.attribute)

    def _comparison(self, parts: list[Part[float]]) -> Comparison:
        row, scores = parts[0].row, [part.item for part in parts]
        texts = [
            (part.row.text("response"), "unknown", rank)
            for part, rank in zip(parts, ranks_of_scores(scores), strict=True)
        ]
        return ranked(row, _turns(row.said("prompt")), texts, scores=scores)


@dataclass(kw_only=True)
class HelpSteer2Preference(Adapter):
    """Comparisons of two with a margin. only_split: one file holds train and validation."""

    margin_per_step: float = 1 / 3
    only_split: str = ""

    def comparisons(self, rows: Rows) -> Iterator[Comparison]:
        """One a row."""
        return rows.each(self._comparison)

    def _comparison(self, row: Fields) -> Comparison:
        if self.only_split and row.text("split") != self.only_split:
            raise SkipRow("another split")
        prompt, texts = _turns(row.said("prompt")), (row.text("response_1"), row.text("response_2"))
        strength = _strength(row, "preference_strength")
        return _by_strength(row, prompt, texts, strength, self.margin_per_step)


@dataclass(kw_only=True)
class HelpSteer3(Adapter):
    """Comparisons of two with a margin. language: as in the column of that name; all if empty."""

    margin_per_step: float = 1 / 3
    language: str = ""

    def comparisons(self, rows: Rows) -> Iterator[Comparison]:
        """One a row."""
        return rows.each(self._comparison)

    def _comparison(self, row: Fields) -> Comparison:
        if self.language and row.text("language") != self.language:
            raise SkipRow("another language")
        prompt, texts = row.messages("context"), (row.text("response1"), row.text("response2"))
        strength = _strength(row, "overall_preference")
        return _by_strength(row, prompt, texts, strength, self.margin_per_step)


def _strength(row: Fields, name: str) -> int:
    strength = row.integer(name)
    if abs(strength) > STRONGEST:
        raise row.error(name, str(strength), f"from {-STRONGEST} to {STRONGEST}")
    return strength


def _by_strength(
    row: Fields, prompt: list[Message], texts: tuple[str, str], strength: int, step: float
) -> Comparison:
    if strength == 0:
        tied = [(text, f"response_{k}", 1) for k, text in enumerate(texts, start=1)]
        return ranked(row, prompt, tied)
    better, worse = texts if strength < 0 else (texts[1], texts[0])
    names = ("response_1", "response_2") if strength < 0 else ("response_2", "response_1")
    return compared(prompt, better, worse, margin=abs(strength) * step, sources=names)


def _turns(prompt: str) -> list[Message]:
    first, *rest = _MARKER.split(prompt)
    roles = {"User": "user", "Assistant": "assistant"}
    later = zip(rest[::2], rest[1::2], strict=True)
    turns = [{"role": roles[who], "content": said.strip()} for who, said in later]
    return [{"role": "user", "content": first.strip()}, *turns]
