"""The reward model: one epoch of the K-way loss on the labelers' rankings (§3.5 Eq. 1, App. C.2).

One prompt with all its pairs is one element of a batch, each completion is encoded once. Afterwards
the scores are shifted so that the labelers' demonstrations have mean zero.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from reward.config import Encoding
from reward.encoding import Chosen, choose
from reward.ensemble import Judged
from reward.examination import examine
from reward.model import RewardModel, load_reward_tokenizer
from reward.normalization import normalise
from reward.ranked_prompts import RankedPrompt, beside_records, by_prompt
from reward.scoring import score_responses
from stages.contracts import Context, Report, UserError
from stages.lm.loading import text_contract
from stages.lm.tokens import encode_prompt, encode_response
from stages.lm.training import Trained
from stages.records.schemas import Demonstration
from stages.records.tables import read_table
from stages.step2_reward.config import RewardModelConfig, Start
from stages.step2_reward.learning import make_learner
from stages.step2_reward.reward_trainer import RewardTrainer
from stages.step2_reward.starting import Folders, check_start, read_comparisons, start

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def run(
    config: RewardModelConfig,
    *,
    comparisons: Path,
    demonstrations: Path,
    out: Path,
    context: Context,
    sft: Path | None = None,
    base: Path | None = None,
) -> Report:
    """Train, normalise and save; writes model/, scores.npz, examination.json, calibration.json.

    sft, base: the one that `config.start` names; with `peft=lora` also the base on which SFT's
    adapter lies. Raises InterruptedRunError after a checkpoint when asked to stop, UserError for
    unusable data.
    """
    folders = _folders(config, comparisons, sft, base)
    check_start(config, folders)
    tokenizer = load_reward_tokenizer(folders.start)
    data, started = read_comparisons(config, folders), start(config, folders)
    encoding = _encoding(config, started.model, data.pad_token_id)
    trainer = RewardTrainer(
        model=started.model,
        config=config,
        train=data.train,
        validation=data.validation,
        pad_token_id=data.pad_token_id,
        encoding=encoding,
    )
    learner = make_learner(config, folders, started.model, data, encoding, context.workers)
    trained = trainer.fit(learner, context)
    started.in_float32()
    metrics = data.metrics | _ended(config, trained)
    if data.shown:
        context.journal.table(trained.steps, "too_long", data.shown)
    by_labelers, unfit = _normalise(trainer, tokenizer, demonstrations / "train.parquet")
    metrics["demonstrations_too_long"] = float(unfit)
    of_base = started.publish(tokenizer, out / "model")
    metrics |= _finish(trainer, by_labelers, out)
    contract = text_contract(tokenizer, config.max_length) | of_base
    own = {
        "reward_bias": trainer.model.reward_bias,
        "prompt_encoding": f"{encoding.encoding}: {encoding.why}",
    }
    return Report(metrics=metrics, contract=contract | own)


def _folders(
    config: RewardModelConfig, comparisons: Path, sft: Path | None, base: Path | None
) -> Folders:
    on_base = config.peft.has_adapter
    begins = sft if config.start is Start.sft else base
    assert begins is not None
    assert base is not None or not on_base
    return Folders(
        start=begins / "model",
        comparisons=comparisons,
        base=base / "model" if base and on_base else None,
    )


def _encoding(config: RewardModelConfig, model: RewardModel, pad_token_id: int) -> Chosen:
    if config.gradient_checkpointing:
        why = "activations are computed again, a cache is not"
        return Chosen(encoding=Encoding.separate, why=why)
    if config.placement.splits_weights:
        return Chosen(encoding=Encoding.separate, why=f"{config.placement.kind} splits weights")
    return choose(config.encoding, model, pad_token_id, config.max_length)


def _ended(config: RewardModelConfig, trained: Trained) -> dict[str, float]:
    """When early stopping ended the training, and whose weights it kept."""
    if not config.early_stopping.is_on:
        return {}
    return {"steps": float(trained.steps), "kept_step": float(trained.best.step)}


def _normalise(
    trainer: RewardTrainer, tokenizer: "PreTrainedTokenizerBase", demonstrations: Path
) -> tuple[list[float], int]:
    """Shift, scale by option; the demonstrations' scores afterwards, and how many did not fit."""
    model, unit_variance = trainer.model, trainer.config.unit_variance
    by_labelers, too_long = _demonstration_scores(model, tokenizer, demonstrations, trainer)
    completions = trainer.validation_scores() if unit_variance else None
    return normalise(model, by_labelers, completions).tolist(), too_long


def _finish(trainer: RewardTrainer, demonstrations: list[float], out: Path) -> dict[str, float]:
    """The final figures of the normalised model; its scores and its examination are written."""
    scores, config = trainer.validation_scores() - trainer.model.reward_bias, trainer.config
    judged = Judged.of(demonstrations, scores, config.max_length)
    judged.save(out)
    return {
        **trainer.evaluate(scores),
        **examination(judged, trainer.validation, config.held_out_groups, out),
        "reward_bias": trainer.model.reward_bias,
    }


def examination(
    judged: Judged, validation: Sequence[RankedPrompt], held_out_groups: list[str], out: Path
) -> dict[str, float]:
    """The figures of a model that scored these comparisons so; more is written."""
    scores = judged.completions
    examined = examine(
        beside_records(by_prompt(scores, validation), validation),
        held_out_groups=held_out_groups,
        others={"demonstrations": judged.demonstrations.tolist()},
    )
    content = examined.content()
    (out / "examination.json").write_text(json.dumps(content, indent=2) + "\n")
    (out / "calibration.json").write_text(
        json.dumps(content["calibration"]["bins"], indent=2) + "\n"
    )
    return {
        **{f"validation_{name}": value for name, value in examined.figures().items()},
        "calibration_error": examined.calibration.expected_error,
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
