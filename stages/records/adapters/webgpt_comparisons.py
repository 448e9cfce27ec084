"""openai/webgpt_comparisons: two answers with scores in [-1, 1] that sum to 0; 0 is a tie."""

from collections.abc import Iterator
from dataclasses import dataclass

from stages.records.adapter import Adapter, Rows
from stages.records.comparing import ranked, ranks_of_scores
from stages.records.fields import Fields
from stages.records.schemas import Comparison


@dataclass(kw_only=True)
class WebGpt(Adapter):
    """Comparisons of two; the scores are kept."""

    def comparisons(self, rows: Rows) -> Iterator[Comparison]:
        """One a row."""
        return rows.each(self._comparison)

    def _comparison(self, row: Fields) -> Comparison:
        scores = [row.number("score_0"), row.number("score_1")]
        ranks = ranks_of_scores(scores)
        texts = [(row.text(f"answer_{k}"), f"answer_{k}", ranks[k]) for k in (0, 1)]
        return ranked(row, row.prompt("question.full_text"), texts, scores=scores)
