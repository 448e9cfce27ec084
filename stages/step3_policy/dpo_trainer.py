"""TRL's DPOTrainer as the DPO stage uses it: rows of token ids, the loss, the order of pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import Tensor
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from stages.lm.data_order import data_order, data_order_by_length
from stages.lm.trl_runs import StageTrainer, common_arguments
from stages.step3_policy.config import DpoConfig, Optimizer, PairLoss, PreferenceConfig
from stages.step3_policy.losses import Sums, implicit_reward, pair_losses
from stages.step3_policy.preference_data import EncodedComparison

OPTIMIZERS = {
    Optimizer.rmsprop: "rmsprop",
    Optimizer.adamw: "adamw_torch",
    Optimizer.adamw_8bit: "adamw_8bit",
}


FIGURES = "rewards/"  # what TRL's names of figures begin with


class PairTrainer(StageTrainer, DPOTrainer):  # type: ignore[misc]  # TRL is untyped here
    """TRL's losses on token ids and reference log-probs that are computed before.

    TRL itself would tokenise texts again, gluing words together, and append EOS to truncated
    completions too; and it would encode a completion once for every pair it stands in.
    """

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset


class FormulaTrainer(PairTrainer):
    """The losses that TRL computes otherwise: IPO on summed log-ratios, SimPO, ORPO.

    Its IPO averages log-ratios over tokens. Its SimPO and ORPO trainers take texts alone, and what
    ORPO adds for the better completion is there a mean over all tokens of a micro-batch, those of
    the prompts included: neither the paper's, nor the same whatever the micro-batch.
    """

    config: DpoConfig

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor], _return_outputs: bool) -> Tensor:
        better, worse = _sums(model, inputs)
        self._watch(implicit_reward(better, self.config), implicit_reward(worse, self.config))
        return pair_losses(better, worse, self.config).mean()

    def _watch(self, better: Tensor, worse: Tensor) -> None:
        """Figures under TRL's names; it averages and logs them."""
        beta = self.config.beta
        figures = {
            "chosen": beta * better,
            "rejected": beta * worse,
            "margins": beta * (better - worse),
            "accuracies": (better > worse).float(),
        }
        for name, values in figures.items():
            self._metrics["train"][f"{FIGURES}{name}"].append(values.detach().mean().item())


def _sums(model: Any, inputs: dict[str, Tensor]) -> tuple[Sums, Sums]:
    """Of the better and of the worse completions of a batch as TRL collates it: one after another.

    TRL has put a head on the model that computes log-probs in chunks. The last positions are those
    of tokens, whatever virtual tokens an adapter puts before them.
    """
    tokens, mask = inputs["input_ids"], inputs["completion_mask"]
    output = model(
        input_ids=tokens,
        attention_mask=inputs["attention_mask"],
        labels=tokens.masked_fill(mask == 0, -100),
        use_cache=False,
        fused_lm_head=True,
    )
    policy = output.log_probs[:, 1 - tokens.shape[1] :].sum(1).chunk(2)
    references = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
    lengths = mask.sum(1).chunk(2)
    better, worse = (
        Sums(policy=logprob, reference=reference, tokens=length)
        for logprob, reference, length in zip(policy, references, lengths, strict=True)
    )
    return better, worse


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
    loss = trl_loss(config)
    trainer = (PairTrainer if loss else FormulaTrainer)(
        model=model,
        args=DPOConfig(
            **trainer_arguments(config, folder),
            **(loss or {}),
            beta=config.beta,
            max_length=None,  # lengths are settled before
            precompute_ref_log_probs=True,
        ),
        train_dataset=rows.select(_order(rows, config)),
        processing_class=tokenizer,
    )
    trainer.config = config
    return trainer


def _order(rows: Dataset, config: DpoConfig) -> list[int]:
    lengths = [
        len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        for row in rows
    ]
    return training_order(lengths, config)


def training_order(lengths: Sequence[int], config: PreferenceConfig) -> list[int]:
    """Rows of all epochs, one after another."""
    if not config.group_by_length:
        return data_order(len(lengths), config.epochs, config.seed)
    return data_order_by_length(lengths, config.batch_size, config.epochs, config.seed)


def trainer_arguments(config: PreferenceConfig, folder: Path) -> dict[str, Any]:
    """TrainingArguments of every kind of training on comparisons."""
    common = common_arguments(
        folder,
        batch_size=config.batch_size,
        microbatch_size=config.microbatch_size,
        seed=config.seed,
        precision=config.precision,
    )
    return {
        **common,
        "learning_rate": config.lr,
        "optim": OPTIMIZERS[config.optimizer],
        "max_grad_norm": config.max_grad_norm,
    }


def trl_loss(config: DpoConfig) -> dict[str, Any] | None:
    """TRL's name for the loss; None where `FormulaTrainer` computes it.

    TRL ignores `label_smoothing` for the plain loss. Its "robust" loss has a minus where
    conservative DPO has a plus, and divides by 1-2e: so ours is 2(1-e) times the plain loss minus
    (1-2e) times that one.
    """
    smoothing = config.label_smoothing
    match config.loss, config.per_token:
        case (PairLoss.sigmoid, False) if smoothing:
            return {
                "loss_type": ["sigmoid", "robust"],
                "loss_weights": [2 * (1 - smoothing), -(1 - 2 * smoothing)],
                "label_smoothing": smoothing,
            }
        case (PairLoss.sigmoid, per_token):
            return {"loss_type": ["sigmoid_norm" if per_token else "sigmoid"]}
        case (PairLoss.robust, _):
            return {"loss_type": ["robust"], "label_smoothing": smoothing}
        case (PairLoss.hinge, _):
            return {"loss_type": ["hinge"]}
        case (PairLoss.ipo, True):
            return {"loss_type": ["ipo"]}
        case _:
            return None
