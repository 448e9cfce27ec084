"""What the stages that learn from comparisons share: the start, the rows, the run, what is told."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.contracts import Report, UserError
from stages.lm.activations import checkpoint_activations
from stages.lm.loading import load_causal_lm, text_contract
from stages.lm.optimisation import Schedule, ScheduleConfig
from stages.lm.peft.adapters import check_base, load_adapted, network_of, publish
from stages.lm.peft.config import PeftKind
from stages.lm.peft.folders import positions_taken
from stages.lm.peft.methods import train_biases
from stages.lm.precision import compute_in
from stages.lm.trl_runs import AfterStep, Figures, TrlRun
from stages.records.schemas import Comparison
from stages.records.tables import read_table
from stages.step3_policy.config import PreferenceConfig
from stages.step3_policy.losses import Sums
from stages.step3_policy.pairs import check_weights
from stages.step3_policy.preference_data import EncodedComparison, encode_comparisons

Logprobs = Sequence[Sequence[float]]  # of every completion of every comparison


def load_start(config: PreferenceConfig, sft: Path, base: Path | None) -> Any:
    """The policy to train: whole, or its adapter on the base."""
    if config.peft.has_adapter:
        assert base is not None
        check_base(base / "model", {"sft": sft / "model"}, config.peft)
        return load_adapted(base / "model", sft / "model", trainable=True)
    model = load_causal_lm(sft / "model")
    if config.peft is PeftKind.bitfit:
        train_biases(model)
    return model


def compute_as_asked(config: PreferenceConfig, model: Any) -> Callable[[], None]:
    """Activations kept or computed again, in the config's precision; the way back to float32."""
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    return compute_in(model.get_decoder(), config.precision)


def read_comparisons(
    config: PreferenceConfig, tokenizer: Any, table: Path, max_pairs: int | None
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


def check_size(rows: Sequence[Any], unit: str, config: PreferenceConfig) -> None:
    """Raises UserError where one batch cannot be filled."""
    if len(rows) < config.batch_size:
        raise UserError(
            f"fewer {unit} than one batch",
            got=f"{len(rows)} {unit}, batch_size={config.batch_size}",
            do="lower batch_size and microbatch_size, or give more comparisons",
        )


def paired_sums(
    comparisons: Sequence[EncodedComparison], policy: Logprobs, reference: Logprobs
) -> tuple[Sums, Sums]:
    """Of the better, and of the worse completions of all pairs."""
    chosen = [
        (own[k], frozen[k], len(comparison.completions[k]))
        for comparison, own, frozen in zip(comparisons, policy, reference, strict=True)
        for pair in comparison.pairs
        for k in pair
    ]
    return Sums.stack(chosen[::2]), Sums.stack(chosen[1::2])


def share_right(better: Tensor, worse: Tensor) -> float:
    """How often the better completion has the higher implicit reward; a tie is no success."""
    return float((better > worse).to(torch.float64).mean())


def training_run(
    config: PreferenceConfig, figures: Callable[[Figures], Figures], after_step: AfterStep
) -> TrlRun:
    """How the trainer goes: schedule, logs, checkpoints."""
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


def finish(
    config: PreferenceConfig,
    adapted: Any,
    tokenizer: Any,
    sft: Path,
    base: Path | None,
    out: Path,
    metrics: dict[str, float],
) -> Report:
    """Write the last step's weights, which are the policy; the stage's report."""
    model = network_of(adapted)
    positions = model.config.max_position_embeddings - positions_taken(sft / "model")
    contract = text_contract(tokenizer, positions)
    folder, lies_on = out / "model", (base or sft) / "model"
    of_base = publish(adapted, tokenizer, folder, base=lies_on, kind=config.peft)
    return Report(metrics=metrics, contract=contract | of_base)
