"""Lengths in words or in a model's tokens, and cutting a text after a paragraph."""

import re

from stages.contracts import UserError
from stages.step0_data.rules.config import LengthConfig
from stages.step0_data.rules.words import Length, words

BOUNDARY = re.compile(r"\n+")


def length_in(config: LengthConfig) -> Length:
    """Counts words, or the tokens of the tokenizer that the config names."""
    if config.tokenizer is None:
        return words
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(config.tokenizer)
    except (OSError, ValueError) as error:
        raise UserError(
            "length.tokenizer names no tokenizer",
            got=f"{config.tokenizer}: {str(error).splitlines()[0]}",
            do="give the folder of a Hugging Face model or tokenizer",
        ) from None
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def truncate_at_paragraph(text: str, limit: int, length: Length) -> str:
    """The longest start of the text that ends before a line break and fits; empty if none does.

    Never inside a line, as in Stiennon et al. 2020.
    """
    ends = [match.start() for match in BOUNDARY.finditer(text)]
    low, high = 0, len(ends)  # ends[:low] fit, ends[high:] do not: longer starts are longer
    while low < high:
        middle = (low + high) // 2
        if length(text[: ends[middle]]) <= limit:
            low = middle + 1
        else:
            high = middle
    return text[: ends[low - 1]] if low else ""
