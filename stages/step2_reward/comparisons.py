"""Labelers rank the completions of every prompt (InstructGPT §3.4, §3.5): one person a prompt.

How far people agree is measured beside it, on training prompts that pairs of labelers rank again;
those judgements are never trained on.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from reward.agreement import Share, accuracy, agreement, differences, qualities, tie_share
from reward.labelers import Labeler
from stages.contracts import Context, Report
from stages.records.schemas import Comparison, Completions
from stages.records.tables import read_table, write_table
from stages.step2_reward.config import ComparisonsConfig
from stages.world.gold import gold_reward
from stages.world.labelers import make_labelers

STREAMS = {"train": 0, "validation": 1, "agreement": 2}  # of noise and of who labels what
RELATIONS: dict[str, Callable[[Labeler, Labeler], bool]] = {
    "of_any_two": lambda one, other: one.name != other.name,
    "within_group": lambda one, other: one.name != other.name and one.group == other.group,
    "across_groups": lambda one, other: one.group != other.group,
}


def run(config: ComparisonsConfig, *, completions: Path, out: Path, context: Context) -> Report:
    """Rank both splits; writes train.parquet and validation.parquet (Comparison)."""
    pool = make_labelers(config.labeler, config.seed)
    records = {
        split: read_table(completions / f"{split}.parquet", Completions)
        for split in ("train", "validation")
    }
    metrics = {"labeler_noise": config.labeler.noise}
    context.journal.start(len(records), "splits")
    for done, (split, rows) in enumerate(records.items(), start=1):
        comparisons = compare(rows, pool, config.seed, split)
        write_table(out / f"{split}.parquet", comparisons)
        metrics |= {f"{split}_{name}": value for name, value in describe(comparisons).items()}
        context.journal.advance(done)
    audited = records["train"][: config.agreement_prompts]
    return Report(metrics=metrics | measure_agreement(audited, pool, config.seed))


def compare(
    records: Sequence[Completions], pool: Sequence[Labeler], seed: int, split: str
) -> list[Comparison]:
    """One ranking a prompt, each by a labeler drawn from the whole pool."""
    drawn = np.random.default_rng([seed, STREAMS[split]]).integers(len(pool), size=len(records))
    return [
        _comparison(record, pool[chosen], seed=_judgement(seed, split, number))
        for number, (record, chosen) in enumerate(zip(records, drawn.tolist(), strict=True))
    ]


def describe(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """How many prompts and untied pairs, ties, and how often labels follow gold; prompts by K."""
    labels, gold = qualities([c.ranks for c in comparisons]), [c.scores or [] for c in comparisons]
    ceiling = accuracy(gold, labels)
    sizes = Counter(len(comparison.completions) for comparison in comparisons)
    return {
        "prompts": float(len(comparisons)),
        "pairs": float(ceiling.count),
        "prompts_all_tied": float(sum(not differences([row]).any() for row in labels)),
        "tie_share": tie_share(labels).value,
        "label_ceiling": ceiling.value,
        **{f"prompts_k_{k}": float(number) for k, number in sorted(sizes.items())},
    }


def measure_agreement(
    records: Sequence[Completions], pool: Sequence[Labeler], seed: int
) -> dict[str, float]:
    """Agreement of two labelers on the pairs that neither ties, by how the two are related.

    A relation that the pool does not have (across groups, of one group) gives no figure.
    """
    shares = {name: _agreement(records, pool, seed, name) for name in RELATIONS}
    return {f"agreement_{name}": share.value for name, share in shares.items() if share.count}


def _agreement(
    records: Sequence[Completions], pool: Sequence[Labeler], seed: int, relation: str
) -> Share:
    generator = np.random.default_rng([seed, STREAMS["agreement"], list(RELATIONS).index(relation)])
    firsts, seconds = [], []
    for number, record in enumerate(records):
        one = pool[int(generator.integers(len(pool)))]
        others = [labeler for labeler in pool if RELATIONS[relation](one, labeler)]
        if others:
            other = others[int(generator.integers(len(others)))]
            judgement = _judgement(seed, "agreement", number)
            firsts.append(_rank(record, one, judgement))
            seconds.append(_rank(record, other, judgement + 1))
    return agreement(qualities(firsts), qualities(seconds))


def _comparison(record: Completions, labeler: Labeler, seed: int) -> Comparison:
    return Comparison(
        prompt=record.prompt,
        completions=record.completions,
        source=record.source,
        finished=record.finished,
        ranks=_rank(record, labeler, seed),
        scores=[
            gold_reward(record.prompt, text, ended)
            for text, ended in zip(record.completions, record.finished, strict=True)
        ],
        user=record.user,
        labeler=labeler.name,
        labeler_group=labeler.group,
    )


def _rank(record: Completions, labeler: Labeler, seed: int) -> list[int]:
    return labeler.rank(record.prompt, record.completions, record.finished, seed)


def _judgement(seed: int, split: str, number: int) -> int:
    """The seed of one judgement's noise: another one for every prompt, split and run seed."""
    return int(np.random.SeedSequence([seed, STREAMS[split], number]).generate_state(1)[0])
