"""Typed access to the values of one row: what is missing or of another type names its field.

Dots lead into nested values (`info.post`, `answers.0.text`). In text files (CSV) a nested value may
be written as JSON, and a number as its digits.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from stages.records.messages import to_messages
from stages.records.schemas import Message, RecordError

_SHOWN = 60  # characters of a value in an error
_MISSING = object()


class Fields:
    """The values of one row, or of one object inside it.

    place: dotted path of this object in its row. parts: counts what is left out of rows that stay.
    """

    def __init__(
        self, values: Mapping[str, Any], place: str = "", parts: Counter[str] | None = None
    ) -> None:
        self.values, self.place = values, place
        self._parts: Counter[str] = Counter() if parts is None else parts

    def leave_out(self, what: str) -> None:
        """Count a part of this row that makes no record, such as one of its completions."""
        self._parts[what] += 1

    def given(self, name: str) -> bool:
        """Whether the field is there and is not null."""
        return self._find(name) not in (None, _MISSING)

    def missing(self, name: str) -> bool:
        """Whether the field is not there at all."""
        return self._find(name) is _MISSING

    def value(self, name: str) -> Any:
        """Whatever the field holds, but not null."""
        found = self._find(name)
        if found is _MISSING:
            raise self.error(name, "missing", f"fields here: {', '.join(self.values) or 'none'}")
        if found is None:
            raise self.error(name, "null", "this field needs a value")
        return found

    def text(self, name: str) -> str:
        """A text; it may be empty."""
        return self._text(name, self.value(name))

    def text_or_none(self, name: str) -> str | None:
        """A text, or None where the field is missing or null."""
        return self.text(name) if self.given(name) else None

    def said(self, name: str) -> str:
        """A text with at least one character that is not blank."""
        text = self.text(name)
        if not text.strip():
            raise self.error(name, "an empty text", "this field needs a text")
        return text

    def number(self, name: str) -> float:
        """A finite number, or a text that is one."""
        return self._number(name, self.value(name))

    def integer(self, name: str) -> int:
        """A whole number, or a text that is one."""
        number = self.number(name)
        if number != int(number):
            raise self.error(name, repr(number), "a whole number")
        return int(number)

    def truth(self, name: str) -> bool:
        """True or false, or 1 or 0."""
        value = self.value(name)
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if isinstance(value, bool) or value in (0, 1):
            return bool(value)
        raise self.error(name, _shown(value), "true or false")

    def one_of(self, name: str, *choices: str) -> str:
        """One of these texts."""
        text = self.text(name)
        if text not in choices:
            raise self.error(name, repr(text), f"one of {', '.join(choices)}")
        return text

    def inner(self, name: str) -> "Fields":
        """An object inside this one."""
        return self._object(name, self.value(name))

    def each(self, name: str) -> list["Fields"]:
        """A list of objects; a table's columns (an object of lists) are turned into one."""
        value = _from_text(self.value(name))
        if isinstance(value, Mapping) and all(isinstance(v, list) for v in value.values()):
            lengths = {len(column) for column in value.values()}
            if len(lengths) > 1:
                raise self.error(name, f"columns of lengths {sorted(lengths)}", "of one length")
            rows = zip(*value.values(), strict=True)
            value = [dict(zip(value, row, strict=True)) for row in rows]
        items = self._list(name, value)
        return [self._object(f"{name}.{index}", item) for index, item in enumerate(items)]

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        items = self._list(name, _from_text(self.value(name)))
        return [self._text(f"{name}.{index}", item) for index, item in enumerate(items)]

    def numbers(self, name: str) -> list[float]:
        """A list of finite numbers."""
        items = self._list(name, _from_text(self.value(name)))
        return [self._number(f"{name}.{index}", item) for index, item in enumerate(items)]

    def integers(self, name: str) -> list[int]:
        """A list of whole numbers."""
        return [
            self.integer(f"{name}.{index}")
            for index, _ in enumerate(self._list(name, _from_text(self.value(name))))
        ]

    def messages(self, name: str) -> list[Message]:
        """A conversation: a list of {role, content} or {from, value}, roles as this project's."""
        return [to_messages(turn) for turn in self.each(name)]

    def prompt(self, name: str) -> list[Message]:
        """A conversation, or the text of a single user's turn."""
        if self.is_conversation(name):
            return self.messages(name)
        return [{"role": "user", "content": self.said(name)}]

    def is_conversation(self, name: str) -> bool:
        """Whether the field is no text, or a text that is a list of turns written as JSON.

        A text that happens to be other JSON, such as an answer "[1, 2]", is a text.
        """
        given = self.value(name)
        value = _from_text(given)
        if not isinstance(given, str) or value is given:
            return isinstance(value, list | Mapping)
        return isinstance(value, list) and bool(value) and all(map(_is_turn, value))

    def error(self, name: str, got: str, hint: str) -> RecordError:
        """An error that names this field by its full path."""
        return RecordError(f"{self.place}{name}", got, hint)

    def _find(self, name: str) -> Any:
        if name in self.values:
            return self.values[name]
        if "." not in name:
            return _MISSING
        found: Any = self.values
        for part in name.split("."):
            found = _from_text(found)
            if isinstance(found, list) and part.isdigit() and int(part) < len(found):
                found = found[int(part)]
            elif isinstance(found, Mapping) and part in found:
                found = found[part]
            else:
                return _MISSING
        return found

    def _object(self, name: str, value: Any) -> "Fields":
        value = _from_text(value)
        if not isinstance(value, Mapping):
            raise self.error(name, _shown(value), "an object with named fields")
        return Fields(value, f"{self.place}{name}.", self._parts)

    def _list(self, name: str, value: Any) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise self.error(name, _shown(value), "a list")
        return list(value)

    def _text(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self.error(name, _shown(value), "a text")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            got = f"character {error.start} is half of a surrogate pair"
            raise self.error(name, got, "a text that UTF-8 can hold") from None
        return value

    def _number(self, name: str, value: Any) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise self.error(name, _shown(value), "a finite number")
        return number


def _from_text(value: Any) -> Any:
    """A nested value that a text file wrote as JSON; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _is_turn(value: Any) -> bool:
    return isinstance(value, Mapping) and (
        {"role", "content"} <= value.keys() or {"from", "value"} <= value.keys()
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= _SHOWN else text[:_SHOWN] + '...'}"
