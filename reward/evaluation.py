"""A reward model on comparisons from anywhere: scored, then examined.

Not InstructGPT's: its reward models were only compared on held-out labels of their own kind.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reward.ensemble import first_member, load_scorer, single_models
from reward.examination import Examination, examine
from reward.model import load_reward_tokenizer
from reward.ranked_prompts import beside_records, by_prompt, rank_prompts, score_ranked
from reward.reward_bench import overall, sections
from stages.contracts import UserError
from stages.lm.chat import settle_template
from stages.records.schemas import Comparison


@dataclass(kw_only=True)
class Evaluation:
    """too_long: comparisons left out because a sequence of theirs is above `max_length`."""

    examination: Examination
    max_length: int
    too_long: int

    def content(self) -> dict[str, Any]:
        """What is written to disk as JSON; reward_bench only of files with its subsets."""
        content = self.examination.content()
        parts = sections(self.examination.by_subset)
        bench = {
            "sections": [asdict(part) for part in parts],
            "score": overall(parts),
        }
        limits = {"max_length": self.max_length, "too_long": self.too_long}
        return content | limits | ({"reward_bench": bench} if parts else {})


def evaluate(
    model: Path,
    comparisons: Sequence[Comparison],
    *,
    name: str,
    max_length: int | None = None,
    held_out_groups: Sequence[str] = (),
) -> Evaluation:
    """Score and examine the comparisons, which errors call `name`.

    model: a folder of a reward model, of an ensemble, or of a classifier with one label.
    max_length: at most the model's own, which is the default. Raises UserError for a folder without
    reward model, and for comparisons that it cannot read or that say nothing.
    """
    tokenizer = load_reward_tokenizer(first_member(model))
    settle_template(tokenizer)
    scorer = load_scorer(model, foreign=True)
    limit = _max_length(single_models(scorer)[0].network.config.to_dict(), max_length)
    pad_token_id = int(tokenizer.pad_token_id)
    prompts, too_long = rank_prompts(comparisons, tokenizer, limit, name)
    flat = score_ranked(scorer.scores, prompts, pad_token_id)
    examined = examine(
        beside_records(by_prompt(flat, prompts), prompts), held_out_groups=held_out_groups
    )
    return Evaluation(examination=examined, max_length=limit, too_long=len(too_long))


def _max_length(config: dict[str, Any], wanted: int | None) -> int:
    own = config.get("max_position_embeddings") or config.get("n_positions")
    known = [length for length in (own, wanted) if length]
    if not known:
        raise UserError(
            "the model does not say how many tokens it takes",
            got="a config.json without max_position_embeddings",
            do="give --max-length",
        )
    return int(min(known))
