"""Several reward models become one: how their scores combine, and where its zero is (App. C.2).

    reward_member_1 .. M, comparisons -> model/ensemble.json, model/member_1 .. M

Dimension letters: M members, N responses.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from reward.agreement import accuracy
from reward.ensemble import Judged, Rule, disagreement, save_ensemble
from reward.model import load_reward_tokenizer
from reward.ranked_prompts import (
    RankedPrompt,
    beside_labels,
    by_prompt,
    read_ranked_prompts,
)
from stages.contracts import Context, Report
from stages.lm.loading import text_contract
from stages.step2_reward.ensemble_config import EnsembleConfig
from stages.step2_reward.reward_model import examination


def run(
    config: EnsembleConfig,
    *,
    comparisons: Path,
    out: Path,
    context: Context,
    **members: Path,
) -> Report:
    """Combine, set the zero, measure; writes model/, examination.json and calibration.json.

    members: the artifacts of the reward models, `reward_member_1` and so on, which have scored
    demonstrations and comparisons themselves.
    """
    del context  # nothing here takes long
    folders = [members[name] for name in sorted(members, key=_number)]
    tokenizer = load_reward_tokenizer(folders[0] / "model")
    judged = [Judged.load(folder) for folder in folders]
    max_length = judged[0].max_length
    validation, _ = read_ranked_prompts(comparisons / "validation.parquet", tokenizer, max_length)

    rule = Rule(combine=config.combine, uncertainty_coef=config.uncertainty_coef)
    by_labelers = torch.stack([member.demonstrations for member in judged])
    completions = torch.stack([member.completions for member in judged])
    reward_bias = float(rule(by_labelers).double().mean())
    save_ensemble([folder / "model" for folder in folders], rule, reward_bias, out / "model")
    combined = Judged(
        demonstrations=rule(by_labelers) - reward_bias,
        completions=rule(completions) - reward_bias,
        max_length=max_length,
    )
    return Report(
        metrics={
            "reward_bias": reward_bias,
            **_accuracies(combined.completions, validation),
            **examination(combined, validation, config.held_out_groups, out),
            **_members(completions, validation),
        },
        contract={
            **text_contract(tokenizer, max_length),
            "reward_bias": reward_bias,
            "members": len(folders),
        },
    )


def _accuracies(scores: Tensor, validation: Sequence[RankedPrompt]) -> dict[str, float]:
    """By labels and by gold, of the combined scores (N,)."""
    rows = by_prompt(scores, validation)
    figures = {"validation_accuracy_labels": accuracy(*beside_labels(rows, validation)).value}
    gold = [prompt.gold for prompt in validation if prompt.gold is not None]
    if len(gold) == len(rows):
        figures["validation_accuracy_gold"] = accuracy(rows, gold).value
    return figures


def _members(scores: Tensor, validation: Sequence[RankedPrompt]) -> dict[str, float]:
    """How right the members are alone, and how far apart, from their scores (M, N)."""
    alone = [
        accuracy(*beside_labels(by_prompt(member, validation), validation)).value
        for member in scores
    ]
    return {
        "members": float(len(alone)),
        "member_accuracy_labels_mean": sum(alone) / len(alone),
        "member_accuracy_labels_min": min(alone),
        "member_accuracy_labels_max": max(alone),
        "completion_disagreement": float(disagreement(scores).mean()),
    }


def _number(keyword: str) -> int:
    return int(keyword.rpartition("_")[2])
