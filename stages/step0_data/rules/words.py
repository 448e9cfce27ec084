"""How long a text is: a function from text to a number; words, where no tokenizer is known."""

from collections.abc import Callable

Length = Callable[[str], int]


def words(text: str) -> int:
    """What stands between white space."""
    return len(text.split())
