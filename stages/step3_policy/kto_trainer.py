"""TRL's KTOTrainer as the KTO stage uses it: rows of token ids, mismatched completions beside them.

For z0 every prompt of a micro-batch is put before the completion of the row before it, the first
before that of the last: TRL's way, and the paper's. The rows are in training order when that is
done, so that a resumed run sees the same.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer

from stages.lm.trl_runs import StageTrainer
from stages.step3_policy.config import KtoConfig
from stages.step3_policy.dpo_trainer import trainer_arguments, training_order
from stages.step3_policy.preference_data import EncodedComparison, completion_logprobs


class ExampleTrainer(StageTrainer, KTOTrainer):  # type: ignore[misc]  # TRL is untyped here
    """TRL's KTO loss on token ids and reference log-probs that are computed before."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset


class Example(NamedTuple):
    """One completion, desirable or not, and log pi_ref of it."""

    prompt: list[int]
    completion: list[int]
    desirable: bool
    reference: float


def examples(
    comparisons: Sequence[EncodedComparison], reference: Sequence[Sequence[float]]
) -> list[Example]:
    """Two of each pair: the better completion is desirable, the worse is not."""
    return [
        Example(comparison.prompt, comparison.completions[k], k == better, logprobs[k])
        for comparison, logprobs in zip(comparisons, reference, strict=True)
        for better, worse in comparison.pairs
        for k in (better, worse)
    ]


def mismatched(prompt: list[int], completion: list[int], max_length: int) -> EncodedComparison:
    """A completion of another prompt, cut where the two are too long together."""
    cut = completion[: max_length - len(prompt)]
    return EncodedComparison(prompt=prompt, completions=[cut], pairs=[])


def in_training_order(rows: Sequence[Example], config: KtoConfig) -> list[Example]:
    """The examples of all epochs, one after another."""
    lengths = [len(row.prompt) + len(row.completion) for row in rows]
    return [rows[i] for i in training_order(lengths, config)]


def with_mismatched(ordered: Sequence[Example], config: KtoConfig) -> list[EncodedComparison]:
    """For each row in training order its prompt before the completion of its micro-batch's last."""
    size, found = config.microbatch_size, []
    for start in range(0, len(ordered), size):
        batch = ordered[start : start + size]
        found += [
            mismatched(row.prompt, batch[number - 1].completion, config.max_length)
            for number, row in enumerate(batch)
        ]
    return found


def mismatched_rows(
    reference: Any, ordered: Sequence[Example], config: KtoConfig, pad_token_id: int
) -> list[Example]:
    """For each row its mismatched completion, and log pi_ref of that."""
    others = with_mismatched(ordered, config)
    logprobs = completion_logprobs(reference, others, pad_token_id)
    return [
        Example(other.prompt, other.completions[0], False, logprob)
        for other, (logprob,) in zip(others, logprobs, strict=True)
    ]


def make_trainer(
    model: Any,
    tokenizer: Any,
    ordered: Sequence[Example],
    others: Sequence[Example],
    config: KtoConfig,
    folder: Path,
) -> ExampleTrainer:
    """TRL's trainer over rows in training order, with the mismatched completion of each."""
    rows = [
        {
            "prompt_ids": row.prompt,
            "completion_ids": row.completion,
            "label": row.desirable,
            "ref_logps": row.reference,
            "KL_completion_ids": other.completion,
            "ref_KL_logps": other.reference,
        }
        for row, other in zip(ordered, others, strict=True)
    ]
    return ExampleTrainer(
        model=model,
        args=KTOConfig(
            **trainer_arguments(config, folder),
            beta=config.beta,
            desirable_weight=config.desirable_weight,
            undesirable_weight=config.undesirable_weight,
            max_length=None,  # lengths are settled before
            precompute_ref_log_probs=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
