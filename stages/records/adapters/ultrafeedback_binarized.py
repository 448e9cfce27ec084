"""HuggingFaceH4/ultrafeedback_binarized: the best and another completion, as conversations.

`chosen` and `rejected` hold the user's turn too. Splits: train_prefs, test_prefs for comparisons;
train_sft, test_sft for demonstrations, in `messages`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from stages.records.adapter import Adapter, Rows
from stages.records.comparing import ranked, ranks_of_scores, two_responses
from stages.records.fields import Fields
from stages.records.messages import last_response
from stages.records.rows import SkipRow
from stages.records.schemas import Comparison, Demonstration


@dataclass(kw_only=True)
class UltraFeedbackBinarized(Adapter):
    """Comparisons of two, tied where both scores are equal; demonstrations."""

    def comparisons(self, rows: Rows) -> Iterator[Comparison]:
        """Chosen against rejected."""
        return rows.each(self._comparison)

    def demonstrations(self, rows: Rows) -> Iterator[Demonstration]:
        """The last turn of messages."""
        return rows.each(self._demonstration)

    def _comparison(self, row: Fields) -> Comparison:
        prompt, chosen, rejected = two_responses(row, "chosen", "rejected", "prompt")
        scores = [row.number("score_chosen"), row.number("score_rejected")]
        if scores[0] < scores[1]:
            raise row.error("score_chosen", f"{scores[0]} below {scores[1]}", "the higher score")
        first, second = ranks_of_scores(scores) if scores[0] != scores[1] else [1, 1]
        texts = [(chosen, "chosen", first), (rejected, "rejected", second)]
        return ranked(row, prompt, texts, scores=scores, labeler="gpt-4")

    def _demonstration(self, row: Fields) -> Demonstration:
        prompt, response = last_response(row.messages("messages"), "messages")
        if not response.strip():
            raise SkipRow("an empty response")
        return Demonstration(prompt=prompt, response=response)
