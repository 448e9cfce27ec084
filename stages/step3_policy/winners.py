"""The best of n responses a prompt, as demonstrations: what rejection sampling fine-tunes on.

    sft, reward_model, prompts -> train.parquet, validation.parquet (Demonstration)

Of n samples of the SFT policy the one that the reward model scores highest is kept (Touvron et al.
2023, Llama 2, §3.2.3). Fine-tuning on them is the SFT stage itself, begun at the SFT policy. A
response that was cut cannot be a demonstration, which ends in EOS; nor can an empty one.
"""

from pathlib import Path

import numpy as np

from stages.contracts import Context, Report, UserError
from stages.lm.prompts import FittingPrompts, fitting_prompts
from stages.records.schemas import Demonstration
from stages.records.tables import write_table
from stages.step3_policy.best_of_n_config import WinnersConfig
from stages.step3_policy.best_samples import Sampler, Samples

STREAMS = {"train": 0, "validation": 1}  # of noise, one a split


def run(
    config: WinnersConfig,
    *,
    sft: Path,
    reward_model: Path,
    prompts: Path,
    out: Path,
    context: Context,
) -> Report:
    """Sample, score and keep the best of both splits.

    Raises InterruptedRunError when asked to stop: the next run samples again; UserError where no
    response of a split can be a demonstration.
    """
    sampler = Sampler(config, sft, reward_model)
    limits = {"train": config.train_prompts, "validation": config.validation_prompts}
    metrics: dict[str, float] = {}
    for split, limit in limits.items():
        table = prompts / f"{split}.parquet"
        rows = fitting_prompts(table, sampler.tokenizer, config.max_prompt_tokens, limit)
        samples = sampler.samples(rows, config.n, context, STREAMS[split])
        best = winners(samples)
        if not (best >= 0).any():
            raise UserError(
                f"no response to {table} can be a demonstration",
                got=f"{config.n} samples each, all empty or cut",
                do="raise align.samples.max_response_tokens, or train SFT longer",
            )
        write_table(out / f"{split}.parquet", demonstrations(rows, samples, best))
        metrics |= {f"{split}_{name}": value for name, value in figures(samples, best).items()}
        metrics[f"{split}_prompts_too_long"] = float(rows.too_long)
    return Report(metrics=metrics, contract=sampler.contract)


def winners(samples: Samples) -> np.ndarray:
    """(P,) int: each prompt's best usable sample, the first of equals; -1 where there is none."""
    says = np.array([[bool(text.strip()) for text in texts] for texts in samples.texts])
    usable = says & samples.finished
    best = np.where(usable, samples.proxy, -np.inf).argmax(1)
    return np.where(usable.any(1), best, -1)


def demonstrations(rows: FittingPrompts, samples: Samples, best: np.ndarray) -> list[Demonstration]:
    """A demonstration of every prompt that has a winner."""
    return [
        Demonstration(prompt=row.prompt, response=texts[k], user=row.user)
        for row, texts, k in zip(rows.records, samples.texts, best.tolist(), strict=True)
        if k >= 0
    ]


def figures(samples: Samples, best: np.ndarray) -> dict[str, float]:
    """How many prompts have a winner, and what winners gain over the mean of all samples."""
    found = np.flatnonzero(best >= 0)
    known = {"proxy": samples.proxy} | ({} if samples.gold is None else {"gold": samples.gold})
    means: dict[str, float] = {
        "prompts": float(len(found)),
        "without_winner": float((best < 0).sum()),
    }
    for name, values in known.items():
        means[f"{name}_mean"] = float(values[found].mean())
        means[f"{name}_winners"] = float(values[found, best[found]].mean())
    return means
