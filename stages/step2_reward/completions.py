"""K responses a prompt, sampled from the SFT policy for labelers to rank (InstructGPT §3.5).

K is drawn for every prompt from k_min..k_max. In rounds of online DPO it is the policy so far that
answers. Left out against the paper: responses of several policies to one prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.contracts import Context, InterruptedRunError, Report
from stages.lm.engines.hf import HFEngine
from stages.lm.loading import load_causal_lm, load_tokenizer, text_contract
from stages.lm.precision import compute_in
from stages.lm.prompts import FittingPrompts, fitting_prompts
from stages.lm.rollout import Rollouts, Sampling, sampling_keys
from stages.lm.sampling import sample_responses
from stages.lm.tokens import decode_response
from stages.records.schemas import Completions, Prompt
from stages.records.tables import write_table
from stages.step2_reward.config import CompletionsConfig

STREAMS = {"train": 0, "validation": 1}  # of noise, one a split
SHOWN_PROMPTS = 8


def run(
    config: CompletionsConfig, *, sft: Path, prompts: Path, out: Path, context: Context
) -> Report:
    """Sample both splits; writes train.parquet and validation.parquet (Completions)."""
    sampler = _Sampler(config, sft / "model")
    wanted = {
        "train": (config.first_prompt, config.train_prompts),
        "validation": (0, config.validation_prompts),
    }
    work = {
        split: sampler.fitting(prompts / f"{split}.parquet", first, limit)
        for split, (first, limit) in wanted.items()
    }
    sizes = {split: draw_sizes(config, split, len(rows.tokens)) for split, rows in work.items()}
    context.journal.start(sum(int(size.sum()) for size in sizes.values()), "responses")
    metrics: dict[str, float] = {}
    done = 0
    for split, rows in work.items():
        rollouts = sampler.sample(rows, sizes[split], split, _progress(context, done))
        done += len(rollouts.tokens)
        records = sampler.records(rows.records, sizes[split], rollouts)
        write_table(out / f"{split}.parquet", records)
        context.journal.table(0, f"{split}_completions", _rows(records))
        metrics |= _figures(split, records, rollouts)
        metrics[f"{split}_prompts_too_long"] = float(rows.too_long)
        metrics[f"{split}_prompts_unanswered"] = float(len(rows.records) - len(records))
    return Report(metrics=metrics, contract=text_contract(sampler.tokenizer, sampler.max_length))


def draw_sizes(config: CompletionsConfig, split: str, num_prompts: int) -> np.ndarray:
    """(P,) int64: K of every prompt, uniform in k_min..k_max."""
    generator = np.random.default_rng([config.seed, STREAMS[split]])
    return generator.integers(config.k_min, config.k_max + 1, size=num_prompts)


@dataclass
class _Sampler:
    """The policy with all it takes to sample K responses a prompt."""

    config: CompletionsConfig
    folder: Path

    def __post_init__(self) -> None:
        self.tokenizer = load_tokenizer(self.folder)
        model = load_causal_lm(self.folder)
        compute_in(model.get_decoder(), self.config.precision)
        self.max_length = int(model.config.max_position_embeddings)
        self.engine = HFEngine(
            model,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )

    def fitting(self, table: Path, first: int, limit: int) -> FittingPrompts:
        """Prompts of a table that are short enough, from the `first` on and round to the start."""
        longest = self.config.max_prompt_tokens
        if first == 0:
            return fitting_prompts(table, self.tokenizer, longest, limit)
        every = fitting_prompts(table, self.tokenizer, longest)
        count = len(every.records)
        rows = [(first + number) % count for number in range(min(limit, count))]
        return FittingPrompts(
            records=[every.records[row] for row in rows],
            tokens=[every.tokens[row] for row in rows],
            too_long=every.too_long,
        )

    def sample(
        self, rows: FittingPrompts, sizes: np.ndarray, split: str, tell: Callable[[int], None]
    ) -> Rollouts:
        """All responses, prompt after prompt."""
        encoded = rows.tokens
        owners = np.repeat(np.arange(len(encoded)), sizes)
        samples = np.concatenate([np.arange(size) for size in sizes])
        return sample_responses(
            self.engine,
            [encoded[owner] for owner in owners],
            Sampling(
                max_new_tokens=self.config.max_response_tokens, temperature=self.config.temperature
            ),
            sampling_keys(self.config.seed, STREAMS[split], owners.tolist(), samples.tolist()),
            sequences_per_batch=self.config.sequences_per_batch,
            tell=tell,
        )

    def records(
        self, rows: Sequence[Prompt], sizes: np.ndarray, rollouts: Rollouts
    ) -> list[Completions]:
        """The responses as text; one that neither says anything nor ends is nothing to rank."""
        records, start = [], 0
        for row, size in zip(rows, sizes.tolist(), strict=True):
            span = range(start, start + size)
            start += size
            texts = [decode_response(self.tokenizer, rollouts.tokens[i]) for i in span]
            ends = [rollouts.finished[i] for i in span]
            kept = [k for k in range(size) if texts[k] or ends[k]]
            if len(kept) >= 2:
                kept_texts, kept_ends = [texts[k] for k in kept], [ends[k] for k in kept]
                records.append(_record(row, kept_texts, kept_ends, self.config.source))
        return records


def _record(row: Prompt, texts: list[str], finished: list[bool], source: str) -> Completions:
    return Completions(
        prompt=row.prompt,
        completions=texts,
        source=[source] * len(texts),
        finished=finished,
        user=row.user,
    )


def _progress(context: Context, before: int) -> Callable[[int], None]:
    def tell(done: int) -> None:
        context.journal.advance(before + done)
        if context.should_stop():
            raise InterruptedRunError("stopped while sampling: the next run samples again")

    return tell


def _figures(split: str, records: Sequence[Completions], rollouts: Rollouts) -> dict[str, float]:
    """What was sampled: how many, how long, how many ended, how many of a prompt's K differ."""
    distinct = [len(set(record.completions)) / len(record.completions) for record in records]
    return {
        f"{split}_prompts": float(len(records)),
        f"{split}_completions": float(len(rollouts.tokens)),
        f"{split}_eos_rate": float(np.mean(rollouts.finished)),
        f"{split}_response_tokens": float(np.mean([len(t) for t in rollouts.tokens])),
        f"{split}_distinct_share": float(np.mean(distinct)),
    }


def _rows(records: Sequence[Completions]) -> list[dict[str, str]]:
    return [
        {"prompt": record.prompt[-1]["content"], "completion": text}
        for record in records[:SHOWN_PROMPTS]
        for text in record.completions
    ]
