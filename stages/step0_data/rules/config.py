"""The paper's rules for data (Ouyang et al. 2022, §3.2, App. A.2) as settings. No torch here.

The paper prints the limit a user and the split by user, not the length of a common prefix and not
the order of its rules. Ours, each with its count: language, personal data, length (of one row
alone); identical rows, long common prefix, near duplicates, rows a user, split, contamination.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from stages.contracts import (
    UserError,
    check_not_negative,
    check_positive,
    check_share,
    external_input,
)

# What presidio's pattern recognisers find without a language model. Names of people and postal
# addresses are not among it.
PII_ENTITIES = (
    "EMAIL_ADDRESS",
    "PHONE_NUMBER",
    "CREDIT_CARD",
    "IBAN_CODE",
    "IP_ADDRESS",
    "US_SSN",
)


class PiiAction(StrEnum):
    """What becomes of a row with personal data: left alone, left out, or `<EMAIL_ADDRESS>`."""

    keep = "keep"
    drop = "drop"
    mask = "mask"


class TooLong(StrEnum):
    """What becomes of a prompt or document over its limit: left out, or cut after a paragraph."""

    drop = "drop"
    truncate = "truncate"


@dataclass(kw_only=True)
class LengthConfig:
    """Limits of length; 0: none. Lengths are words unless `tokenizer` names a model's folder.

    max_prompt: all messages together. max_response: of a demonstration or of any completion; what
    is over it is left out, never cut. max_document: of pretraining text. too_long: what becomes
    of prompts and documents. The data is made before the base model: for lengths in the model's
    own tokens, `tokenizer` names its folder; the chat template's tokens are not counted.
    """

    max_prompt: int = 0
    max_response: int = 0
    max_document: int = 0
    too_long: TooLong = TooLong.drop
    tokenizer: str | None = external_input(None)

    def __post_init__(self) -> None:
        check_not_negative(self, "max_prompt", "max_response", "max_document")


@dataclass(kw_only=True)
class SplitConfig:
    """How much is held out: below 1 a share of the rows, from 1 a number of rows; 0: none.

    A user's rows, and all rows of one prompt, stand in one split. Who stands where follows from
    the seed and the users (or prompts), not from the order of the rows.
    """

    validation: float = 0.05
    test: float = 0.0

    def __post_init__(self) -> None:
        check_not_negative(self, "validation", "test")


@dataclass(kw_only=True)
class ContaminationConfig:
    """Prompts of train that are in validation or test as well; always counted.

    ngram: words of a run that two prompts share. overlap: share of the held-out prompt's runs that
    one prompt of train must hold to count; 0 looks for equal prompts only. drop: leave those out of
    train. against: a table of records (Parquet) of another asset to hold out as well.
    """

    ngram: int = 8
    overlap: float = 0.5
    drop: bool = True
    against: str | None = external_input(None)

    def __post_init__(self) -> None:
        check_positive(self, "ngram")
        check_share(self, "overlap")


@dataclass(kw_only=True)
class RulesConfig:
    """Which rows are left out, and why.

    identical: one of several equal rows stays. prefix_characters: of prompts that share their first
    N characters one stays; 0: off. near_duplicates: the same for prompts whose sets of three words
    in a row have this Jaccard similarity or more, estimated by MinHash; 0: off.
    max_prompts_per_user: 0: no limit. languages: of the prompt (ISO 639-1); none: all are kept.
    pii: what becomes of rows with any of `pii_entities`.
    """

    languages: list[str] = field(default_factory=list)
    pii: PiiAction = PiiAction.keep
    pii_entities: list[str] = field(default_factory=lambda: list(PII_ENTITIES))
    length: LengthConfig = field(default_factory=LengthConfig)
    identical: bool = True
    prefix_characters: int = 0
    near_duplicates: float = 0.0
    max_prompts_per_user: int = 200
    split: SplitConfig = field(default_factory=SplitConfig)
    contamination: ContaminationConfig = field(default_factory=ContaminationConfig)

    def __post_init__(self) -> None:
        check_not_negative(self, "prefix_characters", "max_prompts_per_user")
        check_share(self, "near_duplicates")
        for entity in self.pii_entities:
            if entity not in PII_ENTITIES:
                raise UserError(
                    "pii_entities has a kind that no pattern finds",
                    got=entity,
                    do=f"choose among {', '.join(PII_ENTITIES)}",
                )
