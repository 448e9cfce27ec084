"""What the data stages of the embedded world can be told. No torch here.

Sizes default to the paper's (Ouyang et al. 2022, Table 6); `scale=world` sets its own.
"""

from dataclasses import dataclass

from stages.contracts import StageConfig, UserError


@dataclass(kw_only=True)
class DemonstrationsConfig(StageConfig):
    """How many demonstrations are written, and how carefully."""

    num_train: int = 12_725
    num_validation: int = 1_653
    # Share of demonstrations without a flaw. Writers differ: this is the mean over them.
    care: float = 0.35

    def __post_init__(self) -> None:
        _check_counts(num_train=self.num_train, num_validation=self.num_validation)
        _check_share("care", self.care)


@dataclass(kw_only=True)
class PromptsConfig(StageConfig):
    """How many prompts the world's users send, by split; no user stands in two splits."""

    num_train: int = 31_144
    num_validation: int = 16_185
    num_test: int = 3_196

    def __post_init__(self) -> None:
        _check_counts(
            num_train=self.num_train, num_validation=self.num_validation, num_test=self.num_test
        )


@dataclass(kw_only=True)
class TextConfig(StageConfig):
    """How much pretraining text there is; a document of the world has about 22 words."""

    num_train: int = 40_000
    num_validation: int = 1_500
    # Share of documents that are an instruction and somebody's answer to it.
    instruction_share: float = 0.3

    def __post_init__(self) -> None:
        _check_counts(num_train=self.num_train, num_validation=self.num_validation)
        _check_share("instruction_share", self.instruction_share)


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{name} must be at least 1", got=str(count), do="for example 1000")


def _check_share(name: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise UserError(f"{name} is a share between 0 and 1", got=str(share), do="for example 0.3")
