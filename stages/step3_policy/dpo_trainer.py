"""TRL's DPOTrainer as the DPO stage uses it: rows of token ids, the loss, the order of pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from stages.lm.data_order import data_order, data_order_by_length
from stages.lm.trl_runs import StageTrainer, common_arguments
from stages.step3_policy.config import DpoConfig, Optimizer
from stages.step3_policy.preference_data import EncodedComparison

OPTIMIZERS = {
    Optimizer.rmsprop: "rmsprop",
    Optimizer.adamw: "adamw_torch",
    Optimizer.adamw_8bit: "adamw_8bit",
}


class PairTrainer(StageTrainer, DPOTrainer):  # type: ignore[misc]  # TRL is untyped here
    """TRL's DPO loss on token ids and reference log-probs that are computed before.

    TRL itself would tokenise texts again, gluing words together, and append EOS to truncated
    completions too; and it would encode a completion once for every pair it stands in.
    """

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset


def pair_rows(
    comparisons: Sequence[EncodedComparison], reference: Sequence[Sequence[float]]
) -> Dataset:
    """One row a pair, in TRL's columns; reference[row][k] is log pi_ref of a completion."""
    chosen_and_rejected = [
        (comparison, logprobs, better, worse)
        for comparison, logprobs in zip(comparisons, reference, strict=True)
        for better, worse in comparison.pairs
    ]
    return Dataset.from_list(
        [
            {
                "prompt_ids": comparison.prompt,
                "chosen_ids": comparison.completions[better],
                "rejected_ids": comparison.completions[worse],
                "ref_chosen_logps": logprobs[better],
                "ref_rejected_logps": logprobs[worse],
            }
            for comparison, logprobs, better, worse in chosen_and_rejected
        ]
    )


def make_trainer(
    model: Any, tokenizer: Any, rows: Dataset, config: DpoConfig, folder: Path
) -> PairTrainer:
    """TRL's trainer over all epochs of `rows`, laid out in training order."""
    return PairTrainer(
        model=model,
        args=_arguments(config, folder),
        train_dataset=rows.select(_order(rows, config)),
        processing_class=tokenizer,
    )


def _order(rows: Dataset, config: DpoConfig) -> list[int]:
    if not config.group_by_length:
        return data_order(len(rows), config.epochs, config.seed)
    lengths = [
        len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        for row in rows
    ]
    return data_order_by_length(lengths, config.batch_size, config.epochs, config.seed)


def _arguments(config: DpoConfig, folder: Path) -> DPOConfig:
    common = common_arguments(
        folder,
        batch_size=config.batch_size,
        microbatch_size=config.microbatch_size,
        seed=config.seed,
        precision=config.precision,
    )
    return DPOConfig(
        **common,
        **loss_arguments(config),
        learning_rate=config.lr,
        optim=OPTIMIZERS[config.optimizer],
        max_grad_norm=config.max_grad_norm,
        max_length=None,  # lengths are settled before
        precompute_ref_log_probs=True,
    )


def loss_arguments(config: DpoConfig) -> dict[str, Any]:
    """TRL's names for the loss.

    With smoothing e it is -(1-e) log sigmoid(beta h) - e log sigmoid(-beta h). TRL ignores
    `label_smoothing` for the plain loss; its "robust" loss has a minus where ours has a plus, and
    divides by 1-2e. So ours is 2(1-e) times the plain loss minus (1-2e) times that one.
    """
    smoothing = config.label_smoothing
    if smoothing == 0:
        return {"beta": config.beta, "loss_type": ["sigmoid"]}
    return {
        "beta": config.beta,
        "loss_type": ["sigmoid", "robust"],
        "loss_weights": [2 * (1 - smoothing), -(1 - 2 * smoothing)],
        "label_smoothing": smoothing,
    }
