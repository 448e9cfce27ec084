"""DPO (Rafailov et al. 2023) through TRL: a policy from comparisons, without a reward model.

    sft, comparisons -> model/

h is the log-ratio log pi(y|x) - log pi_ref(y|x) of the better completion minus that of the worse,
each summed over its tokens, EOS included; the loss is -log sigmoid(beta h) (Eq. 7). The reference
is the SFT policy; its log-probs are computed once, before training. K-way comparisons become pairs
by the rule of `stages.step3_policy.pairs`. Left out: DPO's relatives.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import logsigmoid

from stages.contracts import Context, Report, UserError
from stages.lm.activations import checkpoint_activations
from stages.lm.data_order import epoch_ends
from stages.lm.loading import load_causal_lm, load_tokenizer, text_contract
from stages.lm.optimisation import Schedule, ScheduleConfig
from stages.lm.peft.adapters import check_base, load_adapted, network_of, publish
from stages.lm.peft.config import PeftKind
from stages.lm.peft.folders import positions_taken
from stages.lm.peft.methods import train_biases
from stages.lm.precision import compute_in
from stages.lm.trl_runs import Figures, TrlRun, train
from stages.records.schemas import Comparison
from stages.records.tables import read_table
from stages.step3_policy.config import DpoConfig
from stages.step3_policy.dpo_trainer import make_trainer, pair_rows
from stages.step3_policy.pairs import check_weights
from stages.step3_policy.preference_data import (
    EncodedComparison,
    completion_logprobs,
    encode_comparisons,
)


def run(
    config: DpoConfig,
    *,
    sft: Path,
    comparisons: Path,
    out: Path,
    context: Context,
    base: Path | None = None,
) -> Report:
    """Train the SFT policy on the pairs; the last step's weights are the policy.

    base: on which SFT's adapter lies; with `peft=lora` alone. Raises InterruptedRunError after a
    checkpoint when asked to stop, UserError for unusable data.
    """
    adapted, tokenizer = _start(config, sft / "model", base), load_tokenizer(sft / "model")
    model = network_of(adapted)  # PEFT's own around it, TRL would add a reference that we have
    training, no_pair = _read(config, tokenizer, comparisons / "train.parquet", config.max_pairs)
    heldout, no_heldout_pair = _read(config, tokenizer, comparisons / "validation.parquet", None)
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    in_float32 = compute_in(model.get_decoder(), config.precision)
    reference = completion_logprobs(model, heldout, tokenizer.pad_token_id)
    rows = pair_rows(training, completion_logprobs(model, training, tokenizer.pad_token_id))
    _check_size(rows, config)
    trainer = make_trainer(model, tokenizer, rows, config, context.checkpoints / "trainer")
    ends = epoch_ends(len(rows), config.batch_size, config.epochs)

    def validate() -> dict[str, float]:
        logprobs = completion_logprobs(model, heldout, tokenizer.pad_token_id)
        return validation_figures(heldout, logprobs, reference, config)

    plan = _plan(config, lambda step, _: validate() if step in ends else {})
    train(trainer, plan, context)
    figures = validate()
    in_float32()
    of_base = publish(
        adapted, tokenizer, out / "model", base=(base or sft) / "model", kind=config.peft
    )
    metrics = {
        "validation_loss": figures["loss/validation"],
        "validation_accuracy": figures["dpo/accuracy_validation"],
        "pairs": float(len(rows)),
        "train_comparisons_without_pair": float(no_pair),
        "validation_comparisons_without_pair": float(no_heldout_pair),
    }
    positions = model.config.max_position_embeddings - positions_taken(sft / "model")
    contract = text_contract(tokenizer, positions)
    return Report(metrics=metrics, contract=contract | of_base)


def _start(config: DpoConfig, sft: Path, base: Path | None) -> Any:
    """The SFT policy: whole, or its adapter on the base."""
    if config.peft.has_adapter:
        assert base is not None
        check_base(base / "model", {"sft": sft}, config.peft)
        return load_adapted(base / "model", sft, trainable=True)
    model = load_causal_lm(sft)
    if config.peft is PeftKind.bitfit:
        train_biases(model)
    return model


def _read(
    config: DpoConfig, tokenizer: Any, table: Path, max_pairs: int | None
) -> tuple[list[EncodedComparison], int]:
    """The comparisons of a table that leave a pair, and how many leave none: ties, too long."""
    records = read_table(table, Comparison)
    check_weights(records)
    encoded = encode_comparisons(
        tokenizer,
        records,
        rule=config.pairs,
        max_length=config.max_length,
        max_pairs=max_pairs,
        seed=config.seed,
    )
    if not encoded:
        raise UserError(
            f"{table} has no pair to learn from",
            got=f"{len(records)} comparisons, max_length={config.max_length}",
            do="raise max_length, or give comparisons that do not tie throughout",
        )
    return encoded, len(records) - len(encoded)


def _check_size(rows: Dataset, config: DpoConfig) -> None:
    if len(rows) < config.batch_size:
        raise UserError(
            "fewer pairs than one batch",
            got=f"{len(rows)} pairs, batch_size={config.batch_size}",
            do="lower batch_size and microbatch_size, or give more comparisons",
        )


def _plan(config: DpoConfig, after_step: Any) -> TrlRun:
    def figures(logs: Figures) -> Figures:
        return {
            "dpo/accuracy": logs["rewards/accuracies"],
            "dpo/margin": logs["rewards/margins"],
            "dpo/chosen_logratio": logs["rewards/chosen"] / config.beta,
            "dpo/rejected_logratio": logs["rewards/rejected"] / config.beta,
        }

    return TrlRun(
        schedule=ScheduleConfig(
            kind=Schedule.cosine,
            warmup_steps=config.warmup_steps,
            start=1 / (config.warmup_steps + 1),
            end=config.final_lr_fraction,  # 1: constant
        ),
        log_every=config.log_every,
        checkpoint_every=config.checkpoint_every,
        figures=figures,
        after_step=after_step,
    )


def validation_figures(
    comparisons: Sequence[EncodedComparison],
    logprobs: Sequence[Sequence[float]],
    reference: Sequence[Sequence[float]],
    config: DpoConfig,
) -> dict[str, float]:
    """Mean loss over the pairs, and the share of them with h > 0 (a tie is no success)."""
    h = torch.tensor(
        [
            (policy[better] - ref[better]) - (policy[worse] - ref[worse])
            for comparison, policy, ref in zip(comparisons, logprobs, reference, strict=True)
            for better, worse in comparison.pairs
        ],
        dtype=torch.float64,
    )
    loss = pair_loss(h, config.beta, config.label_smoothing).mean()
    return {
        "loss/validation": float(loss),
        "dpo/accuracy_validation": float((h > 0).double().mean()),
    }


def pair_loss(h: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """(N,) DPO losses of N pairs; with smoothing the conservative DPO loss."""
    kept, flipped = -logsigmoid(beta * h), -logsigmoid(-beta * h)
    return (1 - label_smoothing) * kept + label_smoothing * flipped
