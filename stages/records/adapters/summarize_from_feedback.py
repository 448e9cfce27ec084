"""openai/summarize_from_feedback (Stiennon et al. 2020): two summaries and a choice, or ratings.

`comparisons`: `summaries` and the index of the better one. `axis`: one rated summary a row; those
that one worker rated for one post become a comparison. Reddit posts and news articles.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from stages.records.adapter import Adapter, Part, Rows
from stages.records.comparing import ranked, ranks_of_scores
from stages.records.fields import Fields
from stages.records.rows import SkipRow
from stages.records.schemas import Comparison, Message

POST = "SUBREDDIT: r/{subreddit}\nTITLE: {title}\nPOST: {post}\n\nTL;DR:"  # as in the paper
ARTICLE = "Article:\n\n{article}\n\nTL;DR:"


@dataclass(kw_only=True)
class SummarizeFromFeedback(Adapter):
    """Comparisons of two; `worker` is the labeler."""

    def comparisons(self, rows: Rows) -> Iterator[Comparison]:
        """One a row."""
        return rows.each(self._comparison)

    def _comparison(self, row: Fields) -> Comparison:
        summaries = row.each("summaries")
        choice = row.integer("choice")
        if not 0 <= choice < len(summaries):
            raise row.error(
                "choice", str(choice), f"the index of one of {len(summaries)} summaries"
            )
        texts = [
            (summary.text("text").strip(), summary.text("policy"), 1 if k == choice else 2)
            for k, summary in enumerate(summaries)
        ]
        return ranked(row, _prompt(row.inner("info")), texts, labeler=row.text_or_none("worker"))


@dataclass(kw_only=True)
class SummarizeAxis(Adapter):
    """Comparisons of the summaries that one worker rated for one post.

    axis: overall, accuracy, coverage or coherence.
    """

    axis: str = "overall"

    def comparisons(self, rows: Rows) -> Iterator[Comparison]:
        """One a post and worker; this holds all rows until the last is read."""
        return rows.grouped(self._rated, self._comparison)

    def _rated(self, row: Fields) -> tuple[tuple[str, str], float]:
        axis = f"summary.axes.{self.axis}"
        if not row.given(axis):
            raise SkipRow(f"no rating of {self.axis}")
        return (row.text("info.id"), row.text("worker")), row.number(axis)

    def _comparison(self, parts: list[Part[float]]) -> Comparison:
        row, scores = parts[0].row, [part.item for part in parts]
        summaries = [part.row.inner("summary") for part in parts]
        texts = [
            (summary.text("text").strip(), summary.text("policy"), rank)
            for summary, rank in zip(summaries, ranks_of_scores(scores), strict=True)
        ]
        prompt = _prompt(row.inner("info"))
        return ranked(row, prompt, texts, scores=scores, labeler=row.text("worker"))


def _prompt(info: Fields) -> list[Message]:
    if info.given("article"):
        text = ARTICLE.format(article=info.said("article").strip())
    else:
        names = ("subreddit", "title", "post")
        text = POST.format(
            **{name: (info.text_or_none(name) or "").strip() for name in names[:2]},
            post=info.said("post").strip(),
        )
    return [{"role": "user", "content": text}]
