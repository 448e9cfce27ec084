"""Answers side by side, for a person to read."""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.records.schemas import Prompt
from stages.step4_evaluation.answers import Answers
from stages.step4_evaluation.config import EvaluationConfig

SIDE_BY_SIDE = ("sft", "policy")


def sample_rows(
    prompts: Sequence[Prompt], answers: Mapping[str, Answers], config: EvaluationConfig
) -> list[dict[str, Any]]:
    """The first prompts with the responses of SFT and policy, their proxy and gold rewards."""
    return [
        {"prompt": prompts[row].prompt[-1]["content"], **_responses(answers, row)}
        for row in range(min(config.num_samples, len(prompts)))
    ]


def _responses(answers: Mapping[str, Answers], row: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in SIDE_BY_SIDE:
        given = answers[name]
        found[name] = given.texts[row]
        found[f"{name}_proxy"] = float(given.proxy[row])
        found[f"{name}_finished"] = given.finished[row]
        if given.gold is not None:
            found[f"{name}_gold"] = float(given.gold[row])
    return found
