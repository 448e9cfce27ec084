"""What a reward model can be told of how it encodes. No torch here."""

from enum import StrEnum


class Encoding(StrEnum):
    """Prompts once for all responses (`shared`), or a copy for each; `auto`: shared if exact."""

    auto = "auto"
    shared = "shared"
    separate = "separate"
