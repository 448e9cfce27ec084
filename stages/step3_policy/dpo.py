"""DPO (Rafailov et al. 2023) and its relatives: a policy from pairs, without a reward model.

    sft, comparisons -> model/

`stages.step3_policy.losses` has the losses; TRL computes and steps them. K-way comparisons become
pairs by the rule of `stages.step3_policy.pairs`. The reference is the SFT policy; its log-probs are
computed once, before training. SimPO and ORPO have no reference.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.contracts import Context, Report
from stages.lm.data_order import epoch_ends
from stages.lm.loading import load_causal_lm, load_tokenizer
from stages.lm.peft.adapters import network_of
from stages.lm.trl_runs import Figures, train
from stages.step3_policy.config import DpoConfig
from stages.step3_policy.dpo_trainer import make_trainer, pair_rows
from stages.step3_policy.losses import implicit_reward, pair_losses
from stages.step3_policy.preference_data import EncodedComparison, completion_logprobs
from stages.step3_policy.preference_learning import (
    Logprobs,
    check_size,
    compute_as_asked,
    finish,
    load_start,
    paired_sums,
    read_comparisons,
    share_right,
    training_run,
)


def run(
    config: DpoConfig,
    *,
    sft: Path,
    comparisons: Path,
    out: Path,
    context: Context,
    base: Path | None = None,
    reference: Path | None = None,
) -> Report:
    """Train the policy on the pairs; the last step's weights are the result.

    sft: what training starts from: in later rounds of online DPO the policy of the one before.
    reference: the reference where it is another policy. base: on which SFT's adapter lies; with
    `peft=lora` alone. Raises InterruptedRunError after a checkpoint when asked to stop, UserError
    for unusable data.
    """
    adapted, tokenizer = load_start(config, sft, base), load_tokenizer(sft / "model")
    model = network_of(adapted)  # PEFT's own around it, TRL would add a reference that we have
    training, no_pair = read_comparisons(
        config, tokenizer, comparisons / "train.parquet", config.max_pairs
    )
    heldout, no_heldout_pair = read_comparisons(
        config, tokenizer, comparisons / "validation.parquet", None
    )
    in_float32 = compute_as_asked(config, model)
    frozen = load_causal_lm(reference / "model") if reference else model
    held_to = reference_logprobs(config, frozen, heldout, tokenizer.pad_token_id)
    rows = pair_rows(training, reference_logprobs(config, frozen, training, tokenizer.pad_token_id))
    check_size(rows, "pairs", config)
    trainer = make_trainer(model, tokenizer, rows, config, context.checkpoints / "trainer")
    ends = epoch_ends(len(rows), config.batch_size, config.epochs)

    def validate() -> dict[str, float]:
        logprobs = completion_logprobs(model, heldout, tokenizer.pad_token_id)
        return validation_figures(heldout, logprobs, held_to, config)

    plan = training_run(
        config,
        lambda logs: training_figures(logs, config),
        lambda step, _: validate() if step in ends else {},
    )
    train(trainer, plan, context)
    figures = validate()
    metrics = {
        "validation_loss": figures["loss/validation"],
        "validation_accuracy": figures["dpo/accuracy_validation"],
        "pairs": float(len(rows)),
        "train_comparisons_without_pair": float(no_pair),
        "validation_comparisons_without_pair": float(no_heldout_pair),
    }
    in_float32()
    return finish(config, adapted, tokenizer, sft, base, out, metrics)


def reference_logprobs(
    config: DpoConfig, model: Any, comparisons: Sequence[EncodedComparison], pad_token_id: int
) -> Logprobs:
    """log pi_ref(y|x) of every completion; zeros where the loss has no reference."""
    if not config.loss.has_reference:
        return [[0.0] * len(comparison.completions) for comparison in comparisons]
    return completion_logprobs(model, comparisons, pad_token_id)


def training_figures(logs: Figures, config: DpoConfig) -> Figures:
    """From what TRL logs to what the journal gets."""
    chosen, rejected = (
        ("dpo/chosen_logratio", "dpo/rejected_logratio")
        if config.loss.has_reference
        else ("dpo/chosen_logprob", "dpo/rejected_logprob")
    )
    return {
        "dpo/accuracy": logs["rewards/accuracies"],
        "dpo/margin": logs["rewards/margins"],
        chosen: logs["rewards/chosen"] / config.beta,
        rejected: logs["rewards/rejected"] / config.beta,
    }


def validation_figures(
    comparisons: Sequence[EncodedComparison],
    logprobs: Logprobs,
    reference: Logprobs,
    config: DpoConfig,
) -> dict[str, float]:
    """Mean loss over the pairs, and how many of them the implicit reward orders as labelled."""
    better, worse = paired_sums(comparisons, logprobs, reference)
    rewards = implicit_reward(better, config), implicit_reward(worse, config)
    return {
        "loss/validation": float(pair_losses(better, worse, config).mean()),
        "dpo/accuracy_validation": share_right(*rewards),
    }
