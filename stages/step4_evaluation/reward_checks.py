"""Is the reward model right: against labels it never saw, and against gold where that is known."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from reward.agreement import accuracy
from reward.examination import Examination, examine
from reward.ranked_prompts import beside_records, by_prompt, read_ranked_prompts, score_ranked
from reward.score_distributions import distribution
from stages.lm.rollout import Sampling
from stages.step4_evaluation.answers import Answers, Exam
from stages.step4_evaluation.config import EvaluationConfig


def check_labels(exam: Exam, comparisons: Path, config: EvaluationConfig) -> Examination:
    """The reward model on held-out comparisons, the label ceiling beside its accuracy."""
    model, tokenizer = exam.scorer()
    prompts, _ = read_ranked_prompts(comparisons, tokenizer, config.max_length)
    flat = score_ranked(model.scores, prompts, int(tokenizer.pad_token_id))
    rows = beside_records(by_prompt(flat, prompts), prompts)
    return examine(rows, calibration_bins=config.calibration_bins)


def label_figures(examined: Examination) -> dict[str, float]:
    """Accuracy and calibration on labels; what gold itself would reach, where it is known."""
    figures = {
        "accuracy_labels": examined.overall.accuracy,
        "calibration_error": examined.calibration.expected_error,
    }
    if examined.label_ceiling is not None:
        figures["label_ceiling"] = examined.label_ceiling
    return figures


def score_distributions(answers: Mapping[str, Answers]) -> list[dict[str, Any]]:
    """How the reward model scores each model's answers."""
    return [asdict(distribution(name, given.proxy)) for name, given in answers.items()]


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
