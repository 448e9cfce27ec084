"""What the rules look at in a record, whichever table it belongs to."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import blake2b

from stages.records.schemas import (
    Comparison,
    Completions,
    Demonstration,
    Message,
    Prompt,
    Record,
    Text,
)


def prompt_text(record: Record) -> str:
    """The prompt's messages without the system's, or a document: what makes two rows alike."""
    if isinstance(record, Text):
        return record.text
    return "\n".join(message["content"] for message in record.prompt if message["role"] != "system")


def responses(record: Record) -> list[str]:
    """The texts that answer the prompt."""
    if isinstance(record, Demonstration):
        return [record.response]
    if isinstance(record, Completions | Comparison):
        return record.completions
    return []


def user_of(record: Record) -> str | None:
    """Who sent the prompt, where that is known."""
    return None if isinstance(record, Text) else record.user


def texts_of(record: Record) -> Iterator[str]:
    """Every text a person wrote or reads in the record."""
    if isinstance(record, Text):
        yield record.text
        return
    yield from (message["content"] for message in record.prompt)
    yield from responses(record)


def with_texts(record: Record, change: Callable[[str], str]) -> Record:
    """The record with `change` made to every text of it."""
    if isinstance(record, Text):
        return replace(record, text=change(record.text))
    prompt = [_with_content(message, change(message["content"])) for message in record.prompt]
    if isinstance(record, Demonstration):
        return replace(record, prompt=prompt, response=change(record.response))
    if isinstance(record, Prompt):
        return replace(record, prompt=prompt)
    return replace(record, prompt=prompt, completions=[change(c) for c in record.completions])


def with_last_text(record: Record, text: str) -> Record:
    """The record with another text in the last message of its prompt, or as its document."""
    if isinstance(record, Text):
        return replace(record, text=text)
    prompt = [*record.prompt[:-1], _with_content(record.prompt[-1], text)]
    return replace(record, prompt=prompt)


def last_text(record: Record) -> str:
    """The last message of the prompt, or the document."""
    return record.text if isinstance(record, Text) else record.prompt[-1]["content"]


def digest(*parts: object) -> int:
    """64 bits of a hash; among a million rows two differ and collide once in thirty million."""
    return int.from_bytes(
        blake2b(repr(parts).encode(errors="surrogatepass"), digest_size=8).digest(), "little"
    )


def _with_content(message: Message, content: str) -> Message:
    return {**message, "content": content}
