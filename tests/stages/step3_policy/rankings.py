"""Comparisons that a tiny model can learn, and what a stage wrote while it did."""

import json

from stages.records.schemas import Comparison

TEXTS = ["the cat is red .", "the dog", "red red red", "the ball is blue ."]


def make_comparison(number, finished=True):
    """The texts from the `number`-th on; the last two of the list above tie."""
    order = [(number + k) % 4 for k in range(4)]
    return Comparison(
        prompt=[{"role": "user", "content": f"write about the {['cat', 'dog'][number % 2]}"}],
        completions=[TEXTS[k] for k in order],
        source=["sft"] * 4,
        finished=[finished] * 4,
        ranks=[min(k + 1, 3) for k in order],
    )


def curves(folder):
    """Every logged step, without its times."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        del record["time"], record["values"]["time/step_s"]
    return records
