"""berkeley-nest/Nectar: seven answers a prompt, ranked by GPT-4; rank 1 is best."""

from collections.abc import Iterator
from dataclasses import dataclass

from stages.records.adapter import Adapter, Rows
from stages.records.comparing import dense_ranks, ranked
from stages.records.fields import Fields
from stages.records.rows import SkipRow
from stages.records.schemas import Comparison, Demonstration, Message
from stages.records.transcripts import turns

UNRANKED = "an answer without a rank"


@dataclass(kw_only=True)
class Nectar(Adapter):
    """Comparisons of K = 7; demonstrations are the first of the best answers.

    only_good_natured: leave out prompts that were marked as not good-natured.
    """

    only_good_natured: bool = False

    def comparisons(self, rows: Rows) -> Iterator[Comparison]:
        """All answers that have a rank."""
        return rows.each(self._comparison)

    def demonstrations(self, rows: Rows) -> Iterator[Demonstration]:
        """The best answer."""
        return rows.each(self._demonstration)

    def _comparison(self, row: Fields) -> Comparison:
        prompt, answers = self._read(row)
        ranks = dense_ranks([rank for _, _, rank in answers])
        texts = [(text, model, r) for (text, model, _), r in zip(answers, ranks, strict=True)]
        return ranked(row, prompt, texts, labeler="gpt-4")

    def _demonstration(self, row: Fields) -> Demonstration:
        prompt, answers = self._read(row)
        spoken = [answer for answer in answers if answer[0].strip()]
        if not spoken:
            raise SkipRow("no answer with a text")
        return Demonstration(prompt=prompt, response=min(spoken, key=lambda one: one[2])[0])

    def _read(self, row: Fields) -> tuple[list[Message], list[tuple[str, str, float]]]:
        if self.only_good_natured and not row.truth("good_natured"):
            raise SkipRow("not good-natured")
        prompt = turns(row.said("prompt"), "prompt")
        if prompt[-1] == {"role": "assistant", "content": ""}:
            prompt = prompt[:-1]  # the text ends where the answer starts
        answers = []
        for answer in row.each("answers"):
            if answer.given("rank"):
                entry = answer.text("answer"), answer.text("model"), answer.number("rank")
                answers.append(entry)
            else:
                row.leave_out(UNRANKED)
        if not answers:
            raise SkipRow("no answer with a rank")
        return prompt, answers
