"""lmsys/chatbot_arena_conversations: two models answer, a judge picks the winner or ties them.

In longer conversations each model sees its own earlier answers, so only those of one turn share a
prompt: the others are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from stages.records.adapter import Adapter, Rows
from stages.records.comparing import ranked, two_responses
from stages.records.fields import Fields
from stages.records.rows import SkipRow
from stages.records.schemas import Comparison

RANKS = {"model_a": (1, 2), "model_b": (2, 1), "tie": (1, 1), "tie (bothbad)": (1, 1)}


@dataclass(kw_only=True)
class ChatbotArena(Adapter):
    """Comparisons of two; the judge wrote the prompt, so it is labeler and user.

    language: of the conversations to keep, such as English; all of them if empty.
    both_bad: keep ties of two bad answers.
    """

    language: str = ""
    both_bad: bool = True

    def comparisons(self, rows: Rows) -> Iterator[Comparison]:
        """One a row."""
        return rows.each(self._comparison)

    def _comparison(self, row: Fields) -> Comparison:
        winner = row.one_of("winner", *RANKS)
        if self.language and row.text("language") != self.language:
            raise SkipRow("another language")
        if winner == "tie (bothbad)" and not self.both_bad:
            raise SkipRow("both are bad")
        prompt, first, second = two_responses(row, "conversation_a", "conversation_b")
        models = row.text("model_a"), row.text("model_b")
        texts = list(zip((first, second), models, RANKS[winner], strict=True))
        judge = row.text_or_none("judge")
        return ranked(row, prompt, texts, labeler=judge, user=judge)
