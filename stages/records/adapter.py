"""What a format is: a class with a method for each table it can make of a file's rows.

    @dataclass(kw_only=True)
    class Support(Adapter):
        min_stars: int = 1                      # an option: data.demonstrations.options.min_stars=3

        def demonstrations(self, rows):
            return rows.each(self._demonstration)

        def _demonstration(self, row: Fields) -> Demonstration:
            if row.integer("stars") < self.min_stars:
                raise SkipRow("few stars")      # known and meant: counted, never an error
            return Demonstration(prompt=row.prompt("question"), response=row.said("answer"))

The file and the row of an error come from `rows`; the format names the field at most.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Generic, TypeVar

from stages.records.account import Account
from stages.records.fields import Fields
from stages.records.rows import Located, SkipRow
from stages.records.schemas import Comparison, Demonstration, Prompt, Record, RecordError, Text

A = TypeVar("A")
T = TypeVar("T")
R = TypeVar("R", bound=Record)


@dataclass(frozen=True, kw_only=True)
class Part(Generic[T]):
    """What one row of a group says, and the row itself."""

    item: T
    row: Fields


class Rows:
    """The rows of a source. Each method turns all of them into records, or counts them."""

    def __init__(self, located: Iterable[Located], account: Account) -> None:
        self._located, self._account = located, account

    def each(self, make: Callable[[Fields], R | list[R]]) -> Iterator[R]:
        """A row at a time, in constant memory."""
        for row, fields in self._read():
            yield from self._used(
                [row], self._try([row], lambda fields: _listed(make(fields)), fields)
            )

    def grouped(
        self,
        parse: Callable[[Fields], tuple[Hashable, T]],
        combine: Callable[[list[Part[T]]], R | list[R]],
    ) -> Iterator[R]:
        """Rows of one key together, wherever they stand; all are held until the last is read.

        parse: the key and what the row says. combine: the records of one key's rows, in the order
        of the file; keys come in the order of their first row.
        """
        groups: dict[Hashable, list[tuple[Located, Part[T]]]] = {}
        for key, row, part in self._parsed(parse):
            groups.setdefault(key, []).append((row, part))
        for members in groups.values():
            yield from self._combined(members, combine)

    def runs(
        self,
        parse: Callable[[Fields], tuple[Hashable, T]],
        combine: Callable[[list[Part[T]]], R | list[R]],
    ) -> Iterator[R]:
        """Neighbouring rows of one key together: as `grouped`, holding one group at a time."""
        for _, run in groupby(self._parsed(parse), key=itemgetter(0)):
            yield from self._combined([(row, part) for _, row, part in run], combine)

    def _read(self) -> Iterator[tuple[Located, Fields]]:
        for row in self._located:
            self._account.rows += 1
            if isinstance(row.found, RecordError):
                self._account.bad([row], row.found)
            else:
                yield row, Fields(row.found, parts=self._account.left_out)

    def _parsed(
        self, parse: Callable[[Fields], tuple[Hashable, T]]
    ) -> Iterator[tuple[Hashable, Located, Part[T]]]:
        for row, fields in self._read():
            parsed = self._try([row], parse, fields)
            if parsed is not None:
                yield parsed[0], row, Part(item=parsed[1], row=fields)

    def _combined(
        self,
        members: list[tuple[Located, Part[T]]],
        combine: Callable[[list[Part[T]]], R | list[R]],
    ) -> Iterator[R]:
        rows = [row for row, _ in members]
        parts = [part for _, part in members]
        yield from self._used(rows, self._try(rows, lambda parts: _listed(combine(parts)), parts))

    def _try(self, rows: list[Located], make: Callable[[A], T], argument: A) -> T | None:
        try:
            return make(argument)
        except SkipRow as odd:
            self._account.drop(rows, odd.reason)
        except RecordError as error:
            self._account.bad(rows, error)
        return None

    def _used(self, rows: list[Located], made: list[R] | None) -> Iterator[R]:
        if made is None:
            return
        if not made:
            self._account.drop(rows, "makes no record")
            return
        self._account.used += len(rows)
        self._account.records += len(made)
        yield from made


class Adapter:
    """A format. Subclasses are dataclasses: their fields are the options a user can set."""

    def demonstrations(self, rows: Rows) -> Iterator[Demonstration]:
        """Prompts with the response to imitate."""
        raise NotImplementedError

    def comparisons(self, rows: Rows) -> Iterator[Comparison]:
        """Prompts with ranked completions."""
        raise NotImplementedError

    def prompts(self, rows: Rows) -> Iterator[Prompt]:
        """Prompts alone: the prompt side of the demonstrations, or of the comparisons."""
        sided = self.demonstrations if self.makes(Demonstration) else self.comparisons
        for record in sided(rows):
            yield Prompt(prompt=record.prompt, user=record.user)

    def texts(self, rows: Rows) -> Iterator[Text]:
        """Documents to pretrain on: the turns of the demonstrations, a blank line between them."""
        for record in self.demonstrations(rows):
            yield as_document(record)

    @classmethod
    def makes(cls, kind: type[Record]) -> bool:
        """Whether this format can make that table."""
        demonstrates = cls.demonstrations is not Adapter.demonstrations
        compares = cls.comparisons is not Adapter.comparisons
        made: dict[type[Record], bool] = {
            Demonstration: demonstrates,
            Comparison: compares,
            Prompt: demonstrates or compares or cls.prompts is not Adapter.prompts,
            Text: demonstrates or cls.texts is not Adapter.texts,
        }
        return made[kind]


def _listed(made: R | list[R]) -> list[R]:
    return made if isinstance(made, list) else [made]


def as_document(record: Demonstration) -> Text:
    """The turns of a conversation with a blank line between them."""
    turns = [message["content"] for message in record.prompt]
    return Text(text="\n\n".join([*turns, record.response]))
