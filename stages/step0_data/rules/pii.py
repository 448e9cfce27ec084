"""Personal data in a text, by presidio's pattern recognisers: no language model, no network.

Found: e-mail addresses, telephone numbers, credit cards, IBANs, IP addresses and US social security
numbers, with checksums where there are any. Not found: names, postal addresses, dates of birth,
and anything that only context gives away.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from stages.step0_data.rules.extras import needs_extra

Span = tuple[int, int, str]  # start, end, entity


def find_pii(text: str, entities: Sequence[str]) -> list[Span]:
    """Non-overlapping spans of personal data, in order; of two that overlap the surer one."""
    found = [
        result
        for recognizer in _recognizers(tuple(entities))
        for result in recognizer.analyze(text, recognizer.supported_entities, None)
    ]
    chosen: list[Any] = []
    for result in sorted(found, key=lambda r: (-r.score, r.start, -r.end, r.entity_type)):
        if all(result.end <= other.start or result.start >= other.end for other in chosen):
            chosen.append(result)
    return sorted((r.start, r.end, r.entity_type) for r in chosen)


def mask_pii(text: str, entities: Sequence[str]) -> str:
    """The text with `<ENTITY>` where personal data was."""
    for start, end, entity in reversed(find_pii(text, entities)):
        text = f"{text[:start]}<{entity}>{text[end:]}"
    return text


@lru_cache(maxsize=4)
def _recognizers(entities: tuple[str, ...]) -> list[Any]:
    with needs_extra("pii", "presidio-analyzer"):
        from presidio_analyzer import predefined_recognizers as presidio
    kinds: dict[str, Callable[[], Any]] = {
        "PHONE_NUMBER": presidio.PhoneRecognizer,
        "CREDIT_CARD": presidio.CreditCardRecognizer,
        "IBAN_CODE": presidio.IbanRecognizer,
        "IP_ADDRESS": presidio.IpRecognizer,
        "US_SSN": presidio.UsSsnRecognizer,
        "EMAIL_ADDRESS": _offline_email_recognizer,
    }
    return [kinds[entity]() for entity in entities]


def _offline_email_recognizer() -> Any:
    """Presidio's own, with the list of public suffixes that ships with tldextract."""
    from presidio_analyzer.predefined_recognizers import EmailRecognizer
    from tldextract import TLDExtract

    extract = TLDExtract(suffix_list_urls=(), cache_dir=None)

    class OfflineEmailRecognizer(EmailRecognizer):  # type: ignore[misc]  # untyped here
        def validate_result(self, pattern_text: str) -> bool:
            return bool(extract(pattern_text).fqdn)

    return OfflineEmailRecognizer()
