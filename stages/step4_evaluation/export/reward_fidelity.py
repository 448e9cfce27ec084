"""What an exported reward model has kept: its scores of the run's comparisons, Transformers alone.

Transformers gives `score + reward_bias`; the bias lies in the folder's config.json.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reward.model import load_reward_model, load_reward_tokenizer
from reward.scoring import score_responses
from stages.lm.batching import SequenceBatch
from stages.lm.tokens import encode_prompt, encode_response
from stages.records.schemas import Comparison
from stages.records.tables import iterate_table


@dataclass(kw_only=True)
class Scored:
    """Completions of comparisons as token ids, and which of them belong together."""

    prompts: list[list[int]]
    responses: list[list[int]]
    comparison: list[int]


@dataclass(kw_only=True)
class RewardFidelity:
    """How close an exported reward model is.

    largest_difference: of a score. same_order: share of pairs within a comparison that the export
    orders as the original does.
    """

    completions: int
    pairs: int
    largest_difference: float
    same_order: float

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """What it is, of the original, of the export."""
        yield (
            f"largest difference of {self.completions:,} scores",
            "",
            f"{self.largest_difference:.2g}",
        )
        yield f"pairs in the same order, of {self.pairs:,}", "", f"{100 * self.same_order:.2f}%"


def read_comparisons(
    folders: Mapping[str, Path], model: Path, *, rows: int, max_length: int
) -> Scored:
    """The first `rows` validation comparisons; too long completions are left out."""
    tokenizer = load_reward_tokenizer(model)
    found = Scored(prompts=[], responses=[], comparison=[])
    table = iterate_table(folders["comparisons"] / "validation.parquet", Comparison)
    for number, (row, _) in enumerate(zip(table, range(rows), strict=False)):
        prompt = encode_prompt(tokenizer, row.prompt)
        for text, finished in zip(row.completions, row.finished, strict=True):
            response = encode_response(tokenizer, text, finished=finished)
            if len(prompt) + len(response) <= max_length:
                found.prompts.append(prompt)
                found.responses.append(response)
                found.comparison.append(number)
    return found


def original_scores(model: Path, scored: Scored) -> Tensor:
    """(N,) our scores."""
    pad = load_reward_tokenizer(model).pad_token_id
    return score_responses(
        load_reward_model(model).scores, scored.prompts, scored.responses, _known(pad)
    )


def exported_scores(export: Any, reward_bias: float, scored: Scored) -> Tensor:
    """(N,) of what Transformers opened; it finds the last token by its pad id."""

    def score(batch: SequenceBatch) -> Tensor:
        output = export(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        logits: Tensor = output.logits[:, 0].float()
        return logits - reward_bias

    pad = export.config.get_text_config().pad_token_id
    return score_responses(score, scored.prompts, scored.responses, _known(pad))


def compare_scores(original: Tensor, export: Tensor, comparison: list[int]) -> RewardFidelity:
    """Their figures; of two equal scores any order is the same."""
    group = torch.tensor(comparison)
    first, second = torch.triu_indices(len(group), len(group), offset=1)
    together = group[first] == group[second]
    first, second = first[together], second[together]
    ours, theirs = original[first] - original[second], export[first] - export[second]
    same = (ours * theirs > 0) | (ours == 0)
    return RewardFidelity(
        completions=len(original),
        pairs=len(first),
        largest_difference=float((original - export).abs().max()),
        same_order=float(same.double().mean()),
    )


def _known(pad: int | None) -> int:
    assert pad is not None
    return pad
