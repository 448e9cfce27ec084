"""Settings of the evaluation. No torch here."""

from dataclasses import dataclass, field

from reward.config import RewardConfig
from stages.contracts import GoldKind, StageConfig, UserError, check_positive, check_truncation

POSITIVE = (
    "num_prompts",
    "temperature",
    "max_prompt_tokens",
    "max_response_tokens",
    "reward_model_prompts",
    "pretrain_tokens",
    "calibration_bins",
    "num_samples",
    "max_length",
    "sequences_per_batch",
)


@dataclass(kw_only=True)
class EvaluationConfig(StageConfig):
    """Every model answers the same held-out prompts, once each (§3.6).

    num_prompts: test prompts, or all where there are fewer; those above max_prompt_tokens are left
    out. temperature, greedy, top_k, top_p: how
    the models answer; greedy: the likeliest token each time. max_response_tokens: where a response
    is cut. reward_model_prompts, completions_per_prompt: the SFT samples on which the reward
    model's order is compared with gold. pretrain_tokens: at least so many tokens of validation
    text, whole documents, or all there are. confidence: of the win rate's interval over prompts.
    num_samples: rows of samples.json. reward: the proxy where there is no reward model.
    """

    num_prompts: int = 1024
    max_prompt_tokens: int = 1024
    temperature: float = 1.0
    greedy: bool = False
    top_k: int = 0
    top_p: float = 1.0
    max_response_tokens: int = 1024
    gold: GoldKind = GoldKind.world
    reward_model_prompts: int = 512
    completions_per_prompt: int = 4
    pretrain_tokens: int = 20_000
    confidence: float = 0.95
    calibration_bins: int = 10
    num_samples: int = 64
    max_length: int = 2048
    sequences_per_batch: int = 256
    reward: RewardConfig = field(default_factory=RewardConfig)

    def __post_init__(self) -> None:
        check_positive(self, *POSITIVE)
        check_truncation(self.top_k, self.top_p)
        if self.completions_per_prompt < 2:
            raise UserError(
                "completions_per_prompt must be at least 2",
                got=str(self.completions_per_prompt),
                do="pairs need two completions of one prompt",
            )
        if not 0 < self.confidence < 1:
            raise UserError(
                "confidence must lie between 0 and 1",
                got=str(self.confidence),
                do="for example 0.95",
            )
