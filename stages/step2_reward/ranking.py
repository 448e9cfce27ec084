"""A reward model ranks the completions of every prompt: labels that cost nothing, and no gold.

Made for rounds of online DPO, where people would have to wait for each round. Labels are as good
as the reward model: on what it was not trained on, its mistakes are learnt.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reward.text_model import TextRewardModel
from reward.text_rewards import TextReward
from stages.contracts import Context, InterruptedRunError, Report
from stages.records.schemas import Comparison, Completions
from stages.records.tables import read_table, write_table
from stages.step2_reward.config import RankingConfig

SPLITS = ("train", "validation")
PROMPTS_AT_ONCE = 256


def run(
    config: RankingConfig, *, completions: Path, reward_model: Path, out: Path, context: Context
) -> Report:
    """Rank both splits; writes train.parquet and validation.parquet (Comparison).

    Raises InterruptedRunError when asked to stop: the next run ranks again.
    """
    del config  # nothing is random, nothing to set
    judge = TextRewardModel(reward_model / "model")
    records = {split: read_table(completions / f"{split}.parquet", Completions) for split in SPLITS}
    context.journal.start(sum(map(len, records.values())), "prompts")
    metrics: dict[str, float] = {}
    done = 0
    for split, rows in records.items():
        ranked: list[Comparison] = []
        for start in range(0, len(rows), PROMPTS_AT_ONCE):
            ranked += rank(rows[start : start + PROMPTS_AT_ONCE], judge)
            context.journal.advance(done + len(ranked))
            if context.should_stop():
                raise InterruptedRunError("stopped while ranking: the next run ranks again")
        done += len(ranked)
        write_table(out / f"{split}.parquet", ranked)
        metrics[f"{split}_prompts"] = float(len(ranked))
        metrics[f"{split}_prompts_all_tied"] = float(sum(row.all_tied for row in ranked))
    return Report(metrics=metrics)


def rank(records: Sequence[Completions], judge: TextReward) -> list[Comparison]:
    """Every prompt's completions ranked by score; the same completion is scored once."""
    answers = [list(dict.fromkeys(_answers(record))) for record in records]
    scores = iter(
        judge(
            [r.prompt for r, few in zip(records, answers, strict=True) for _ in few],
            [text for few in answers for text, _ in few],
            [finished for few in answers for _, finished in few],
        )
    )
    tables = [dict(zip(few, scores, strict=False)) for few in answers]
    return [
        Comparison(
            prompt=record.prompt,
            completions=record.completions,
            source=record.source,
            finished=record.finished,
            ranks=ranks_of([table[one] for one in _answers(record)]),
            user=record.user,
            labeler="reward_model",
        )
        for record, table in zip(records, tables, strict=True)
    ]


def _answers(record: Completions) -> list[tuple[str, bool]]:
    return list(zip(record.completions, record.finished, strict=True))


def ranks_of(scores: Sequence[float]) -> list[int]:
    """Ranks of K scores: 1 is the highest, equal ones share a rank."""
    ordered = np.unique(-np.asarray(scores), return_inverse=True)[1]
    ranks: list[int] = (ordered + 1).tolist()
    return ranks
