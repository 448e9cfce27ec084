"""The rules of one row, on cases made by hand."""

import pytest

from stages.contracts import UserError
from stages.records.schemas import Text
from stages.step0_data.rules.config import LengthConfig, PiiAction, RulesConfig, TooLong
from stages.step0_data.rules.lengths import truncate_at_paragraph
from stages.step0_data.rules.row_rules import DroppedRow, RowRules
from tests.stages.step0_data.rules.examples import comparison, demonstration, prompt, rules, says


def words(text: str) -> int:
    return len(text.split())


def reason(record, config) -> str:
    with pytest.raises(DroppedRow) as dropped:
        RowRules(config).apply(record)
    return dropped.value.reason


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (2, ""),  # the first paragraph has three words
        (3, "one two three"),
        (6, "one two three"),  # not inside the second paragraph
        (7, "one two three\n\nfour five six seven"),
        (8, "one two three\n\nfour five six seven\neight"),
        (9, "one two three\n\nfour five six seven\neight"),  # the end is no boundary: it was over
    ],
)
def test_a_text_is_cut_after_the_last_paragraph_that_fits(limit, expected):
    text = "one two three\n\nfour five six seven\neight\nnine ten"
    assert truncate_at_paragraph(text, limit, words) == expected


def test_a_prompt_over_the_limit_is_dropped_or_cut_in_its_last_message():
    record = demonstration("keep this\nand not this", "fine")
    record.prompt = [{"role": "system", "content": "be nice"}, *record.prompt]
    assert RowRules(rules(length=LengthConfig(max_prompt=7))).apply(record) == record
    assert reason(record, rules(length=LengthConfig(max_prompt=6))) == "prompt_too_long"
    cutting = RowRules(rules(length=LengthConfig(max_prompt=6, too_long=TooLong.truncate)))
    assert cutting.apply(record).prompt == [record.prompt[0], *says("keep this")]
    assert cutting.changed == {"truncated": 1}
    one_line = rules(length=LengthConfig(max_prompt=3, too_long=TooLong.truncate))
    assert reason(prompt("a b c d"), one_line) == "prompt_too_long"


def test_a_document_over_the_limit_has_a_reason_of_its_own():
    assert reason(Text(text="a b c"), rules(length=LengthConfig(max_document=2))) == "too_long"
    assert RowRules(rules(length=LengthConfig(max_prompt=2))).apply(Text(text="a b c"))


def test_a_response_over_the_limit_is_dropped_never_cut():
    limits = LengthConfig(max_response=2, too_long=TooLong.truncate)
    assert reason(demonstration("x", "a\nb\nc"), rules(length=limits)) == "response_too_long"
    assert reason(comparison("x", ["a b", "a b c"]), rules(length=limits)) == "response_too_long"
    fits = comparison("x", ["a b", "a"])
    assert RowRules(rules(length=limits)).apply(fits) == fits


def test_languages_keep_the_prompts_in_them():
    pytest.importorskip("py3langid")
    english = rules(languages=["en"])
    record = prompt("Please write a short story about an old man and the sea.")
    assert RowRules(english).apply(record) == record
    german = prompt("Bitte schreibe eine kurze Geschichte über einen alten Mann und das Meer.")
    assert reason(german, english) == "language"
    assert RowRules(rules(languages=["en", "de"])).apply(german) == german
    with pytest.raises(UserError, match="langid does not know"):
        RowRules(rules(languages=["english"]))


PERSONAL = [
    ("write to jane.doe@example.com today", "write to <EMAIL_ADDRESS> today"),
    ("call 415-555-2671 now", "call <PHONE_NUMBER> now"),
    ("the card 4111 1111 1111 1111 is mine", "the card <CREDIT_CARD> is mine"),
    ("pay to DE89370400440532013000", "pay to <IBAN_CODE>"),
    ("the host 192.168.1.10 is down", "the host <IP_ADDRESS> is down"),
    ("my number is 536-90-4399", "my number is <US_SSN>"),
]
HARMLESS = ["version 1.2 of 2024-01-03", "a card 1234 5678 9012 3456", "I am Jane of 5 Oak Street"]


def test_personal_data_is_masked_in_every_text_of_a_row():
    pytest.importorskip("presidio_analyzer")
    masking = RowRules(rules(pii=PiiAction.mask))
    for text, masked in PERSONAL:
        assert masking.apply(demonstration(text, f"No: {text}")) == demonstration(
            masked, f"No: {masked}"
        )
    assert masking.changed == {"masked": len(PERSONAL)}
    for text in HARMLESS:  # the last names a person: no pattern finds that
        assert masking.apply(prompt(text)) == prompt(text)


def test_personal_data_anywhere_drops_the_row():
    pytest.importorskip("presidio_analyzer")
    dropping = rules(pii=PiiAction.drop, pii_entities=["EMAIL_ADDRESS"])
    assert reason(comparison("mail?", ["no", "to a@b.org"]), dropping) == "pii"
    number = prompt("call 415-555-2671 now")  # not asked for
    assert RowRules(dropping).apply(number) == number
    with pytest.raises(UserError, match="no pattern finds"):
        RulesConfig(pii_entities=["PERSON"])
