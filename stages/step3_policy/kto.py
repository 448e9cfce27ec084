"""KTO (Ethayarajh et al. 2024): a policy from completions that are desirable or are not.

    sft, comparisons -> model/

Of each pair that a comparison gives by the rule of `stages.step3_policy.pairs`, the better is
desirable and the worse undesirable. TRL computes the loss and steps; the reference is the SFT
policy, its log-probs are computed once, before training.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from stages.contracts import Context, Report
from stages.lm.data_order import epoch_ends
from stages.lm.loading import load_causal_lm, load_tokenizer
from stages.lm.peft.adapters import network_of
from stages.lm.trl_runs import Figures, train
from stages.step3_policy.config import KtoConfig
from stages.step3_policy.dpo_trainer import FIGURES
from stages.step3_policy.kto_trainer import (
    examples,
    in_training_order,
    make_trainer,
    mismatched,
    mismatched_rows,
)
from stages.step3_policy.losses import kto_losses, reference_point
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
    config: KtoConfig,
    *,
    sft: Path,
    comparisons: Path,
    out: Path,
    context: Context,
    base: Path | None = None,
    reference: Path | None = None,
) -> Report:
    """Train the policy on the examples; the last step's weights are the result.

    sft, base, reference: as in `stages.step3_policy.dpo`. Raises InterruptedRunError after a
    checkpoint when asked to stop, UserError for unusable data.
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
    validate = Validation(config, frozen, heldout, tokenizer.pad_token_id)
    rows = examples(training, completion_logprobs(frozen, training, tokenizer.pad_token_id))
    check_size(rows, "examples", config)
    ordered = in_training_order(rows, config)
    kl_rows = mismatched_rows(frozen, ordered, config, tokenizer.pad_token_id)
    folder = context.checkpoints / "trainer"
    trainer = make_trainer(model, tokenizer, ordered, kl_rows, config, folder)
    ends = epoch_ends(len(rows), config.batch_size, config.epochs)
    plan = training_run(
        config,
        lambda logs: training_figures(logs, config),
        lambda step, _: validate(model) if step in ends else {},
    )
    train(trainer, plan, context)
    figures = validate(model)
    metrics = {
        "validation_loss": figures["loss/validation"],
        "validation_accuracy": figures["dpo/accuracy_validation"],
        "examples": float(len(rows)),
        "train_comparisons_without_pair": float(no_pair),
        "validation_comparisons_without_pair": float(no_heldout_pair),
    }
    in_float32()
    return finish(config, adapted, tokenizer, sft, base, out, metrics)


def training_figures(logs: Figures, config: KtoConfig) -> Figures:
    """From what TRL logs to what the journal gets; TRL leaves out a kind that no batch had."""
    named = {
        "dpo/margin": (f"{FIGURES}margins", 1.0),
        "dpo/chosen_logratio": (f"{FIGURES}chosen", config.beta),
        "dpo/rejected_logratio": (f"{FIGURES}rejected", config.beta),
        "kto/reference_point": ("kl", 1.0),
    }
    return {ours: logs[theirs] / by for ours, (theirs, by) in named.items() if theirs in logs}


class Validation:
    """The loss on held-out examples, z0 from every prompt with the next one's completions."""

    def __init__(
        self,
        config: KtoConfig,
        reference: Any,
        comparisons: Sequence[EncodedComparison],
        pad_token_id: int,
    ) -> None:
        self._config, self._pad = config, pad_token_id
        self._comparisons, self._others = comparisons, _mismatched(comparisons, config.max_length)
        self._reference, self._others_reference = self._logprobs(reference)

    def __call__(self, model: Any) -> dict[str, float]:
        """Mean loss over the examples, and the share of pairs with r(better) > r(worse)."""
        logprobs, others = self._logprobs(model)
        z0 = reference_point(_flat(others) - _flat(self._others_reference))
        better, worse = paired_sums(self._comparisons, logprobs, self._reference)
        logratios = torch.cat([better.logratio, worse.logratio])
        desirable = torch.arange(len(logratios)) < len(better.logratio)
        return {
            "loss/validation": float(kto_losses(logratios, desirable, z0, self._config).mean()),
            "dpo/accuracy_validation": share_right(better.logratio, worse.logratio),
        }

    def _logprobs(self, model: Any) -> tuple[Logprobs, Logprobs]:
        own = completion_logprobs(model, self._comparisons, self._pad)
        return own, completion_logprobs(model, self._others, self._pad)


def _mismatched(
    comparisons: Sequence[EncodedComparison], max_length: int
) -> list[EncodedComparison]:
    """Each prompt with the paired completions of the comparison before it."""
    return [
        mismatched(comparison.prompt, comparisons[number - 1].completions[k], max_length)
        for number, comparison in enumerate(comparisons)
        for pair in comparisons[number - 1].pairs
        for k in pair
    ]


def _flat(logprobs: Logprobs) -> torch.Tensor:
    return torch.tensor([value for row in logprobs for value in row], dtype=torch.float64)
