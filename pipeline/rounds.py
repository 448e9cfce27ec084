"""Rounds of online DPO: the policy so far answers, that is ranked, and a policy learns from it.

Every round makes assets of its own, each kept and reused like any other; the graph is unrolled, so
a fourth round leaves the first three as they are. Labels follow the policy: what it has learnt to
say is what is ranked (Guo et al. 2024, in rounds as Xu et al. 2023 and Dong et al. 2024 do it).
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from pipeline.workflow import round_assets
from stages.contracts import StageConfig, check_positive
from stages.step2_reward.config import ComparisonsConfig, CompletionsConfig, RankingConfig
from stages.step3_policy.config import PreferenceConfig

SEED_STEP = 1000  # between rounds, so that runs with neighbouring seeds share none


class RankedBy(StrEnum):
    """Who ranks in the rounds: those of the group `labeler`, or the reward model."""

    labelers = "labelers"
    reward_model = "reward_model"


@dataclass(kw_only=True)
class DefaultWorkflowConfig:
    """`workflow=default`: every asset once."""


@dataclass(kw_only=True)
class OnlineDpoConfig:
    """`workflow=online_dpo`: how often, on how many prompts of each split, ranked by whom.

    A round takes the training prompts after those of the round before, and begins again where there
    are no more. How many completions a prompt gets is told by the group `completions`.
    """

    rounds: int = 3
    ranked_by: RankedBy = RankedBy.labelers
    train_prompts: int = 3000
    validation_prompts: int = 400

    def __post_init__(self) -> None:
        check_positive(self, "rounds", "train_prompts", "validation_prompts")


def round_configs(
    online: OnlineDpoConfig,
    completions: CompletionsConfig,
    comparisons: ComparisonsConfig,
    policy: PreferenceConfig,
) -> dict[str, StageConfig]:
    """Asset -> config of its stage, for all rounds."""
    configs: dict[str, StageConfig] = {}
    before = "sft"
    for number in range(1, online.rounds + 1):
        sampled, ranked, learnt = round_assets(number, online.rounds)
        configs[sampled] = replace(
            completions,
            seed=completions.seed + SEED_STEP * number,
            first_prompt=online.train_prompts * (number - 1),
            train_prompts=online.train_prompts,
            validation_prompts=online.validation_prompts,
            source=before,
        )
        configs[ranked] = (
            RankingConfig(seed=comparisons.seed, threads=comparisons.threads)
            if online.ranked_by is RankedBy.reward_model
            else replace(comparisons, seed=comparisons.seed + SEED_STEP * number)
        )
        configs[learnt] = policy
        before = learnt
    return configs
