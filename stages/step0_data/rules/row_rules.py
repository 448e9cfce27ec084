"""The rules that look at one row alone: language, personal data, length. In this order."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from stages.contracts import UserError
from stages.records.schemas import Record, Text
from stages.step0_data.rules.config import PiiAction, RulesConfig, TooLong
from stages.step0_data.rules.languages import known_languages, language_of
from stages.step0_data.rules.lengths import length_in, truncate_at_paragraph
from stages.step0_data.rules.pii import find_pii, mask_pii
from stages.step0_data.rules.views import (
    last_text,
    prompt_text,
    responses,
    texts_of,
    with_last_text,
    with_texts,
)
from stages.step0_data.rules.words import Length


class DroppedRow(Exception):
    """A rule leaves the row out, for a reason that is counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class RowRules:
    """Applies the rules to one record after another. changed: rows that a rule rewrote, by how."""

    config: RulesConfig
    changed: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._length: Length = length_in(self.config.length)
        self._rules: list[Callable[[Record], Record]] = [self._lengths]
        if self.config.pii is not PiiAction.keep:
            self._rules.insert(0, self._pii)
        if self.config.languages:
            check_languages(self.config.languages)
            self._rules.insert(0, self._language)

    def apply(self, record: Record) -> Record:
        """The record as the rules leave it.

        Raises:
            DroppedRow: one leaves it out.
        """
        for rule in self._rules:
            record = rule(record)
        return record

    def _language(self, record: Record) -> Record:
        if language_of(prompt_text(record)) not in self.config.languages:
            raise DroppedRow("language")
        return record

    def _pii(self, record: Record) -> Record:
        entities = self.config.pii_entities
        if not any(find_pii(text, entities) for text in texts_of(record)):
            return record
        if self.config.pii is PiiAction.drop:
            raise DroppedRow("pii")
        self.changed["masked"] += 1
        return with_texts(record, lambda text: mask_pii(text, entities))

    def _lengths(self, record: Record) -> Record:
        limits = self.config.length
        limit = limits.max_document if isinstance(record, Text) else limits.max_prompt
        if limits.max_response and any(
            self._length(text) > limits.max_response for text in responses(record)
        ):
            raise DroppedRow("response_too_long")
        return self._shorten(record, limit) if limit else record

    def _shorten(self, record: Record, limit: int) -> Record:
        """The record if its prompt or document fits, else its last text cut after a paragraph."""
        over = self._prompt_length(record) - limit
        if over <= 0:
            return record
        if self.config.length.too_long is TooLong.truncate:
            text = last_text(record)
            cut = truncate_at_paragraph(text, self._length(text) - over, self._length)
            if cut.strip():
                self.changed["truncated"] += 1
                return with_last_text(record, cut)
        raise DroppedRow("too_long" if isinstance(record, Text) else "prompt_too_long")

    def _prompt_length(self, record: Record) -> int:
        if isinstance(record, Text):
            return self._length(record.text)
        return sum(self._length(message["content"]) for message in record.prompt)


def check_languages(languages: list[str]) -> None:
    """Refuse a code that the model never answers: no row would pass."""
    known = known_languages()
    for code in languages:
        if code not in known:
            raise UserError(
                "languages has a code that langid does not know",
                got=code,
                do=f"one of {', '.join(known)}",
            )
