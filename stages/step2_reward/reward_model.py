"""The reward model: one epoch of the K-way loss on the labelers' rankings (§3.5 Eq. 1, App. C.2).

One prompt with all its pairs is one element of a batch, each completion is encoded once. Afterwards
the scores are shifted so that the labelers' demonstrations have mean zero.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from reward.agreement import calibration, qualities
from reward.model import (
    RewardModel,
    load_reward_tokenizer,
    new_reward_model,
    save_reward_model,
)
from reward.normalization import normalise
from reward.ranked_prompts import by_prompt, read_ranked_prompts
from reward.scoring import score_responses
from stages.contracts import Context, Report, UserError
from stages.lm.loading import text_contract
from stages.lm.tokens import encode_prompt, encode_response
from stages.lm.training import train_steps
from stages.records.schemas import Demonstration
from stages.records.tables import read_table
from stages.step2_reward.config import RewardModelConfig
from stages.step2_reward.reward_trainer import RewardTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CALIBRATION_BINS = 10


def run(
    config: RewardModelConfig,
    *,
    sft: Path,
    comparisons: Path,
    demonstrations: Path,
    out: Path,
    context: Context,
) -> Report:
    """Train, normalise and save; writes model/ and calibration.json.

    Raises InterruptedRunError after a checkpoint when asked to stop, UserError for unusable data.
    """
    tokenizer = load_reward_tokenizer(sft / "model")
    train = read_ranked_prompts(comparisons / "train.parquet", tokenizer, config.max_length)
    ranked = [prompt for prompt in train if prompt.num_pairs]
    if not ranked:
        raise UserError(
            "no comparison to learn from",
            got=f"{len(train)} prompts whose completions all tie",
            do="lower labeler.tie_margin, or raise completions.k_max",
        )
    trainer = RewardTrainer(
        model=new_reward_model(sft / "model", config.seed),
        config=config,
        train=ranked,
        validation=read_ranked_prompts(
            comparisons / "validation.parquet", tokenizer, config.max_length
        ),
        pad_token_id=int(tokenizer.pad_token_id),
    )
    train_steps(trainer.model, trainer.plan(), context)
    metrics = {"train_prompts_all_tied": float(len(train) - len(ranked))}
    metrics |= _finish(trainer, tokenizer, demonstrations / "train.parquet", out)
    contract = text_contract(tokenizer, config.max_length)
    return Report(metrics=metrics, contract=contract | {"reward_bias": trainer.model.reward_bias})


def _finish(
    trainer: RewardTrainer, tokenizer: "PreTrainedTokenizerBase", demonstrations: Path, out: Path
) -> dict[str, float]:
    """Normalise the trained model, save it with its calibration; the final figures."""
    model, unit_variance = trainer.model, trainer.config.unit_variance
    by_labelers = _demonstration_scores(model, tokenizer, demonstrations, trainer)
    normalise(model, by_labelers, trainer.validation_scores() if unit_variance else None)
    save_reward_model(model, tokenizer, out / "model")
    scores = trainer.validation_scores() - model.reward_bias
    labels = qualities([prompt.ranks for prompt in trainer.validation])
    measured = calibration(by_prompt(scores, trainer.validation), labels, CALIBRATION_BINS)
    (out / "calibration.json").write_text(json.dumps(measured.bins, indent=2) + "\n")
    return {
        **trainer.evaluate(scores),
        "calibration_error": measured.expected_error,
        "reward_bias": model.reward_bias,
        "completion_score_mean": float(scores.mean()),
        "completion_score_std": float(scores.std(unbiased=False)),
    }


def _demonstration_scores(
    model: RewardModel,
    tokenizer: "PreTrainedTokenizerBase",
    path: Path,
    trainer: RewardTrainer,
) -> torch.Tensor:
    """(N,) raw scores of the labelers' demonstrations, as far as they fit max_length."""
    pairs = [
        (
            encode_prompt(tokenizer, row.prompt),
            encode_response(tokenizer, row.response, finished=True),
        )
        for row in read_table(path, Demonstration)
    ]
    fitting = [(p, r) for p, r in pairs if len(p) + len(r) <= trainer.config.max_length]
    return score_responses(
        model.raw_scores,
        [prompt for prompt, _ in fitting],
        [response for _, response in fitting],
        trainer.pad_token_id,
    )
