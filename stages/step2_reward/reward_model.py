"""The reward model: one epoch of the K-way loss on the labelers' rankings (§3.5 Eq. 1, App. C.2).

One prompt with all its pairs is one element of a batch, each completion is encoded once. Afterwards
the scores are shifted so that the labelers' demonstrations have mean zero.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reward.encoding import choose
from reward.examination import examine
from reward.model import (
    RewardModel,
    load_reward_tokenizer,
    new_reward_model,
    save_reward_model,
)
from reward.normalization import normalise
from reward.ranked_prompts import RankedPrompt, beside_records, by_prompt, read_ranked_prompts
from reward.scoring import score_responses
from stages.contracts import Context, Report, UserError
from stages.lm.loading import text_contract
from stages.lm.peft.adapters import adapt_classifier, adapter_of, check_base, publish
from stages.lm.peft.config import PeftKind
from stages.lm.tokens import encode_prompt, encode_response
from stages.lm.training import train_steps
from stages.records.schemas import Demonstration
from stages.records.tables import read_table
from stages.step2_reward.config import Loss, RewardModelConfig
from stages.step2_reward.held_out import without_groups
from stages.step2_reward.reward_trainer import RewardTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def run(
    config: RewardModelConfig,
    *,
    sft: Path,
    comparisons: Path,
    demonstrations: Path,
    out: Path,
    context: Context,
    base: Path | None = None,
) -> Report:
    """Train, normalise and save; writes model/, examination.json and calibration.json.

    base: on which SFT's adapter lies; with `peft=lora` alone. Raises InterruptedRunError after a
    checkpoint when asked to stop, UserError for unusable data.
    """
    tokenizer = load_reward_tokenizer(sft / "model")
    train, too_long = read_ranked_prompts(
        comparisons / "train.parquet", tokenizer, config.max_length
    )
    validation, validation_too_long = read_ranked_prompts(
        comparisons / "validation.parquet", tokenizer, config.max_length
    )
    seen = without_groups(train, validation, config.held_out_groups)
    ranked = [prompt for prompt in seen if prompt.num_pairs]
    _check_untied(seen, "train")
    _check_untied(validation, "validation")
    _check_margins(config, ranked)
    start = _start(config, sft / "model", base)
    pad_token_id = int(tokenizer.pad_token_id)
    encoding = choose(config.encoding, start.model, pad_token_id, config.max_length)
    trainer = RewardTrainer(
        model=start.model,
        config=config,
        train=ranked,
        validation=validation,
        pad_token_id=pad_token_id,
        encoding=encoding,
    )
    train_steps(trainer.model, trainer.plan(), context)
    metrics = {
        "train_prompts_all_tied": float(len(seen) - len(ranked)),
        "train_prompts_held_out": float(len(train) - len(seen)),
        "train_prompts_too_long": float(too_long),
        "validation_prompts_too_long": float(validation_too_long),
    }
    by_labelers, unfit = _normalise(trainer, tokenizer, demonstrations / "train.parquet")
    metrics["demonstrations_too_long"] = float(unfit)
    of_base = start.publish(tokenizer, out / "model")
    metrics |= _finish(trainer, by_labelers, out)
    contract = text_contract(tokenizer, config.max_length) | of_base
    own = {
        "reward_bias": trainer.model.reward_bias,
        "prompt_encoding": f"{encoding.encoding}: {encoding.why}",
    }
    return Report(metrics=metrics, contract=contract | own)


def _check_untied(prompts: list[RankedPrompt], split: str) -> None:
    if not any(prompt.num_pairs for prompt in prompts):
        raise UserError(
            f"no comparison to {'learn from' if split == 'train' else 'judge by'}",
            got=f"{len(prompts)} {split} prompts whose completions all tie",
            do="lower labeler.tie_margin, or raise completions.k_max",
        )


def _check_margins(config: RewardModelConfig, prompts: list[RankedPrompt]) -> None:
    margins = [margin for prompt in prompts for _, _, margin in prompt.pairs or [] if margin]
    if margins and config.loss is not Loss.pairwise:
        raise UserError(
            "only reward_model.loss=pairwise asks for margins",
            got=f"loss={config.loss}, and {len(margins)} pairs with a margin",
            do="set reward_model.loss=pairwise, or give pairs with margin 0",
        )


@dataclass(kw_only=True)
class _Start:
    """A reward model to train; with an adapter on a base, PEFT's model of the same."""

    model: RewardModel
    base: Path | None = None
    adapted: Any = None

    def publish(self, tokenizer: "PreTrainedTokenizerBase", folder: Path) -> dict[str, str]:
        """Write what became of it; what the contract says of the base."""
        if self.base is None:
            save_reward_model(self.model, tokenizer, folder)
            return {}
        return publish(self.adapted, tokenizer, folder, base=self.base, kind=PeftKind.lora)


def _start(config: RewardModelConfig, sft: Path, base: Path | None) -> _Start:
    """The SFT model with a new head: whole, or its adapter on the base."""
    if config.peft is PeftKind.none:
        return _Start(model=new_reward_model(sft, config.seed))
    assert base is not None
    check_base(base / "model", {"sft": sft})
    model = new_reward_model(base / "model", config.seed)
    adapted = adapt_classifier(model.network, adapter_of(sft))
    return _Start(model=model, base=base / "model", adapted=adapted)


def _normalise(
    trainer: RewardTrainer, tokenizer: "PreTrainedTokenizerBase", demonstrations: Path
) -> tuple[list[float], int]:
    """Shift, scale by option; the demonstrations' scores afterwards, and how many did not fit."""
    model, unit_variance = trainer.model, trainer.config.unit_variance
    by_labelers, too_long = _demonstration_scores(model, tokenizer, demonstrations, trainer)
    completions = trainer.validation_scores() if unit_variance else None
    return normalise(model, by_labelers, completions).tolist(), too_long


def _finish(trainer: RewardTrainer, demonstrations: list[float], out: Path) -> dict[str, float]:
    """The final figures of the normalised model; its examination is written."""
    scores = trainer.validation_scores() - trainer.model.reward_bias
    examined = examine(
        beside_records(by_prompt(scores, trainer.validation), trainer.validation),
        held_out_groups=trainer.config.held_out_groups,
        others={"demonstrations": demonstrations},
    )
    content = examined.content()
    (out / "examination.json").write_text(json.dumps(content, indent=2) + "\n")
    (out / "calibration.json").write_text(
        json.dumps(content["calibration"]["bins"], indent=2) + "\n"
    )
    return {
        **trainer.evaluate(scores),
        **{f"validation_{name}": value for name, value in examined.figures().items()},
        "calibration_error": examined.calibration.expected_error,
        "reward_bias": trainer.model.reward_bias,
        "completion_score_mean": float(scores.mean()),
        "completion_score_std": float(scores.std(unbiased=False)),
    }


def _demonstration_scores(
    model: RewardModel,
    tokenizer: "PreTrainedTokenizerBase",
    path: Path,
    trainer: RewardTrainer,
) -> tuple[torch.Tensor, int]:
    """(N,) raw scores of the demonstrations that fit max_length; how many do not."""
    pairs = [
        (
            encode_prompt(tokenizer, row.prompt),
            encode_response(tokenizer, row.response, finished=True),
        )
        for row in read_table(path, Demonstration)
    ]
    fitting = [(p, r) for p, r in pairs if len(p) + len(r) <= trainer.config.max_length]
    if not fitting:
        raise UserError(
            f"no demonstration in {path} fits max_length: there is nothing to normalise on",
            got=f"{trainer.config.max_length} tokens",
            do="raise reward_model.max_length",
        )
    scores = score_responses(
        model.raw_scores,
        [prompt for prompt, _ in fitting],
        [response for _, response in fitting],
        trainer.pad_token_id,
    )
    return scores, len(pairs) - len(fitting)
