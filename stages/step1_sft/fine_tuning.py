"""Fine-tuning on token sequences through TRL's SFTTrainer: what SFT and the PPO start share."""

from collections.abc import Sequence as Rows
from typing import Any

from datasets import Dataset
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from stages.contracts import Context, UserError
from stages.lm.activations import checkpoint_activations
from stages.lm.adamw import AdamWKind
from stages.lm.data_order import data_order, data_order_by_length, epoch_ends
from stages.lm.dropout import residual_dropout
from stages.lm.liger import check_liger
from stages.lm.optimisation import Schedule, ScheduleConfig
from stages.lm.peft.adapters import adapt
from stages.lm.peft.config import PeftConfig, PeftKind
from stages.lm.peft.rank_allocation import RankAllocation
from stages.lm.precision import computing_in
from stages.lm.trl_runs import AfterStep, StageTrainer, TrlRun, common_arguments, train
from stages.step1_sft.config import FineTuningConfig, Packing
from stages.step1_sft.packing import PackedCollator, check_packing
from stages.step1_sft.sequences import Sequence


class SequenceTrainer(StageTrainer, SFTTrainer):  # type: ignore[misc]  # TRL is untyped here
    """TRL's loss, the token mean over the batch, on sequences tokenised and labelled before."""


def fine_tune(
    model: Any,
    tokenizer: Any,
    sequences: Rows[Sequence],
    config: FineTuningConfig,
    context: Context,
    after_step: AfterStep,
) -> Any:
    """Train `model` in place for `config.epochs` passes over `sequences`, resuming where it can.

    Gives the model as trained: where `config.peft` asks for an adapter, PEFT's model around it.
    Raises UserError when there are fewer sequences than one batch.
    """
    if len(sequences) < config.batch_size:
        raise UserError(
            "fewer demonstrations than one batch",
            got=f"{len(sequences)} sequences, batch_size={config.batch_size}",
            do="lower batch_size and microbatch_size, or give more demonstrations",
        )
    _prepare(model, config)
    _check_positions(model, sequences, config.peft)
    steps = epoch_ends(len(sequences), config.batch_size, config.epochs)[-1]
    trainer = SequenceTrainer(
        model=adapt(model, config.peft, steps),
        args=_arguments(config, context),
        train_dataset=ordered_dataset(sequences, config),
        processing_class=tokenizer,
        data_collator=_collator(tokenizer, config),
        callbacks=[RankAllocation()] if config.peft.kind is PeftKind.adalora else None,
    )
    run = TrlRun(
        schedule=ScheduleConfig(
            kind=Schedule.cosine,
            warmup_steps=config.warmup_steps,
            start=1 / (config.warmup_steps + 1),
            end=config.final_lr_fraction,
        ),
        log_every=config.log_every,
        checkpoint_every=config.checkpoint_every,
        figures=lambda logs: {"accuracy/train": logs["mean_token_accuracy"]},
        after_step=after_step,
    )
    dropping = residual_dropout(model, config.residual_dropout)
    with dropping, computing_in(model.get_decoder(), config.precision):
        train(trainer, run, context)
    return trainer.model


def _prepare(model: Any, config: FineTuningConfig) -> None:
    """Refuse what the model or this machine cannot do; set the model up for the rest."""
    if config.liger:
        check_liger()
    if config.packing is not Packing.none:
        check_packing(model)
    if config.gradient_checkpointing:
        checkpoint_activations(model)


def _collator(tokenizer: Any, config: FineTuningConfig) -> PackedCollator | None:
    """Of packed rows; None for TRL's own."""
    return None if config.packing is Packing.none else PackedCollator(tokenizer.pad_token_id)


def _check_positions(model: Any, sequences: Rows[Sequence], peft: PeftConfig) -> None:
    longest = max(len(sequence.input_ids) for sequence in sequences)
    limit = model.config.max_position_embeddings - peft.positions_taken
    if peft.positions_taken and longest > limit:
        raise UserError(
            "virtual tokens leave too few positions for the text",
            got=f"{longest} tokens, {limit} positions beside num_virtual_tokens="
            f"{peft.num_virtual_tokens}",
            do=f"lower peft.num_virtual_tokens, or set max_length={limit} or less",
        )


def ordered_dataset(sequences: Rows[Sequence], config: FineTuningConfig) -> Dataset:
    """All epochs one after another, in the order in which they are trained on."""
    lengths = [len(sequence.input_ids) for sequence in sequences]
    order = (
        data_order_by_length(lengths, config.batch_size, config.epochs, config.seed)
        if config.group_by_length
        else data_order(len(lengths), config.epochs, config.seed)
    )
    columns = {
        "input_ids": [sequence.input_ids for sequence in sequences],
        "labels": [sequence.labels for sequence in sequences],
    }
    if config.packing is not Packing.none:
        columns["position_ids"] = [sequence.position_ids or [] for sequence in sequences]
    return Dataset.from_dict(columns).select(order)


def _arguments(config: FineTuningConfig, context: Context) -> SFTConfig:
    common = common_arguments(
        context.checkpoints / "trainer",
        batch_size=config.batch_size,
        microbatch_size=config.microbatch_size,
        seed=config.seed,
        precision=config.precision,
    )
    if config.optimizer is AdamWKind.adamw_8bit:
        common["optim"] = config.optimizer.value
    return SFTConfig(
        **common,
        learning_rate=config.lr,
        adam_beta1=config.beta1,
        adam_beta2=config.beta2,
        adam_epsilon=config.eps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        max_length=None,  # lengths are settled before
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,  # there are none, and TRL does not know `position_ids`
        neftune_noise_alpha=config.neftune_alpha or None,
        use_liger_kernel=config.liger,
    )
