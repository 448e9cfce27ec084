"""Which language a text is in, by langid's model (the paper's tool), which ships with py3langid."""

from functools import lru_cache
from typing import Any

from stages.step0_data.rules.extras import needs_extra


def language_of(text: str) -> str:
    """ISO 639-1 code of the likeliest language; short texts are often mistaken."""
    code, _ = _identifier().classify(text)
    return str(code)


@lru_cache(maxsize=1)
def _identifier() -> Any:
    with needs_extra("languages", "py3langid"):
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    return LanguageIdentifier.from_model_file(MODEL_FILE)


def known_languages() -> list[str]:
    """All codes that the model can answer."""
    return sorted(str(code) for code in _identifier().labels)
