"""openbmb/UltraFeedback: four completions a prompt, rated by GPT-4.

`overall_score` is from 1 to 10. 2,628 wrong tens were mended on 2023-12-29, hence the pinned
revision. The four aspects' ratings are texts and may be "N/A".
"""

from collections.abc import Iterator
from dataclasses import dataclass

from stages.contracts import UserError
from stages.records.adapter import Adapter, Rows
from stages.records.comparing import EMPTY, ranked, ranks_of_scores
from stages.records.fields import Fields
from stages.records.rows import SkipRow
from stages.records.schemas import Comparison, Demonstration, Prompt

ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
UNRATED = "a completion without a rating"


@dataclass(kw_only=True)
class UltraFeedback(Adapter):
    """Comparisons of K = 4, equal scores tie; demonstrations are the best completions.

    score: overall_score, mean_rating (of the four aspects) or one of the aspects.
    """

    score: str = "overall_score"

    def __post_init__(self) -> None:
        choices = ("overall_score", "mean_rating", *ASPECTS)
        if self.score not in choices:
            raise UserError("score is unknown", got=self.score, do=f"one of {', '.join(choices)}")

    def comparisons(self, rows: Rows) -> Iterator[Comparison]:
        """All rated completions of a prompt."""
        return rows.each(self._comparison)

    def demonstrations(self, rows: Rows) -> Iterator[Demonstration]:
        """The completion with the highest score, the first of equals."""
        return rows.each(self._demonstration)

    def prompts(self, rows: Rows) -> Iterator[Prompt]:
        """The instructions."""
        return rows.each(lambda row: Prompt(prompt=row.prompt("instruction")))

    def _comparison(self, row: Fields) -> Comparison:
        rated = self._rated(row)
        scores = [score for _, _, score in rated]
        places = ranks_of_scores(scores)
        return ranked(
            row,
            row.prompt("instruction"),
            [(text, model, place) for (text, model, _), place in zip(rated, places, strict=True)],
            scores=scores,
            labeler="gpt-4",
        )

    def _demonstration(self, row: Fields) -> Demonstration:
        spoken = [one for one in self._rated(row) if one[0].strip()]
        if not spoken:
            raise SkipRow(EMPTY)
        text, _, _ = max(spoken, key=lambda one: one[2])
        return Demonstration(prompt=row.prompt("instruction"), response=text)

    def _rated(self, row: Fields) -> list[tuple[str, str, float]]:
        """(text, model, score) of each completion that has a score."""
        rated = []
        for completion in row.each("completions"):
            score = self._score(completion)
            if score is None:
                row.leave_out(UNRATED)
            else:
                rated.append((completion.text("response"), completion.text("model"), score))
        if not rated:
            raise SkipRow("no completion with a rating")
        return rated

    def _score(self, completion: Fields) -> float | None:
        if self.score == "overall_score":
            return completion.number("overall_score") if completion.given("overall_score") else None
        aspects = ASPECTS if self.score == "mean_rating" else (self.score,)
        annotations = completion.inner("annotations")
        fields = [f"{aspect}.Rating" for aspect in aspects if annotations.given(aspect)]
        ratings = [annotations.number(name) for name in fields if _is_rated(annotations, name)]
        return sum(ratings) / len(ratings) if ratings else None


def _is_rated(annotations: Fields, name: str) -> bool:
    return annotations.given(name) and annotations.value(name) != "N/A"
