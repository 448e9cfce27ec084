"""Is the reward model right: against labels it never saw, and against gold where that is known."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reward.agreement import Calibration, accuracy, calibration
from reward.ranked_prompts import beside_labels, by_prompt, read_ranked_prompts, score_ranked
from stages.lm.rollout import Sampling
from stages.step4_evaluation.answers import Exam
from stages.step4_evaluation.config import EvaluationConfig


@dataclass(kw_only=True)
class LabelCheck:
    """Figures on the validation comparisons, and the calibration on their untied pairs."""

    figures: dict[str, float]
    calibration: Calibration


def check_labels(exam: Exam, comparisons: Path, config: EvaluationConfig) -> LabelCheck:
    """Accuracy against labels; beside it the label ceiling, the accuracy gold itself would have."""
    prompts, _ = read_ranked_prompts(comparisons, exam.tokenizer, config.max_length)
    flat = score_ranked(exam.reward_model.scores, prompts, exam.pad_token_id)
    scores, labels = beside_labels(by_prompt(flat, prompts), prompts)
    measured = calibration(scores, labels, config.calibration_bins)
    figures = {
        "accuracy_labels": accuracy(scores, labels).value,
        "calibration_error": measured.expected_error,
    }
    gold = [prompt.gold for prompt in prompts if prompt.gold is not None]
    if len(gold) == len(prompts):
        figures["label_ceiling"] = accuracy(*beside_labels(gold, prompts)).value
    return LabelCheck(figures=figures, calibration=measured)


def check_gold(exam: Exam, sft: Any, config: EvaluationConfig) -> dict[str, float]:
    """Accuracy against gold over all pairs of fresh SFT completions with unequal gold.

    However the models answer in the evaluation: these are sampled plainly, as for the labelers.
    """
    num_prompts = min(config.reward_model_prompts, len(exam.prompts))
    per_prompt = config.completions_per_prompt
    rows = np.repeat(np.arange(num_prompts), per_prompt).tolist()
    numbers = np.tile(np.arange(per_prompt), num_prompts).tolist()
    plain = Sampling(max_new_tokens=config.max_response_tokens, temperature=config.temperature)
    answers = exam.sample(sft, "reward_model", rows, numbers, exam.reward_model, plain)
    if answers.gold is None:
        return {}
    shape = (num_prompts, per_prompt)
    share = accuracy(answers.proxy.reshape(shape).tolist(), answers.gold.reshape(shape).tolist())
    return {"accuracy_gold": share.value, "accuracy_gold_pairs": float(share.count)}
