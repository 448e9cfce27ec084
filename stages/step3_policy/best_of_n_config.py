"""Settings of what samples many responses and keeps the best by the reward model. No torch here."""

from dataclasses import dataclass

from stages.contracts import (
    GoldKind,
    StageConfig,
    UserError,
    check_positive,
    no_effect,
)


@dataclass(kw_only=True)
class SamplesConfig(StageConfig):
    """How the SFT policy is sampled, n responses a prompt.

    gold: what is measured beside the proxy. max_prompt_tokens: longer ones are left out.
    max_response_tokens: where a response is cut. sequences_per_batch: responses sampled at once.
    """

    n: int = 16
    temperature: float = 1.0
    max_prompt_tokens: int = 1024
    max_response_tokens: int = 1024
    gold: GoldKind = GoldKind.world
    sequences_per_batch: int = no_effect(256)

    def __post_init__(self) -> None:
        check_positive(
            self,
            "n",
            "temperature",
            "max_prompt_tokens",
            "max_response_tokens",
            "sequences_per_batch",
        )


@dataclass(kw_only=True)
class BestOfNConfig(SamplesConfig):
    """Best-of-n: sample n responses, keep the one the reward model scores highest.

    n: what the policy asset stands for. curve_prompts, curve_samples: validation prompts, and
    responses a prompt, from which the curve of reward along n is estimated (curve_samples >= n).
    """

    curve_prompts: int = 128
    curve_samples: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "curve_prompts")
        if self.curve_samples < self.n:
            raise UserError(
                "curve_samples must be at least n",
                got=f"{self.curve_samples} < {self.n}",
                do="the estimate at n needs n or more samples a prompt",
            )


@dataclass(kw_only=True)
class WinnersConfig(SamplesConfig):
    """Rejection sampling: the best of n responses become demonstrations.

    train_prompts, validation_prompts: how many prompts of each split.
    """

    train_prompts: int = 10_000
    validation_prompts: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "train_prompts", "validation_prompts")
