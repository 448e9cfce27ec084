"""Comparisons as token ids, and which of them go through the model together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from reward.agreement import qualities
from reward.examination import Scored
from reward.ranking import RankedScores, ragged_scores
from reward.scoring import score_responses
from stages.contracts import UserError
from stages.lm.batching import SequenceBatch, collate
from stages.lm.tokens import encode_prompt, encode_response
from stages.records.schemas import Comparison
from stages.records.tables import read_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(kw_only=True)
class RankedPrompt:
    """One prompt with its K ranked responses, as token ids."""

    prompt: list[int]
    responses: list[list[int]]
    ranks: list[int]  # 1 is best, equal ranks are ties
    gold: list[float] | None = None  # a known quality of each response, where there is one
    pairs: list[tuple[int, int, float]] | None = None  # (better, worse, margin), instead of ranks
    weight: float = 1.0  # of its loss
    comparison: Comparison | None = None  # the record, where one was read

    @property
    def width(self) -> int:
        """Tokens of the longest response with its prompt."""
        return len(self.prompt) + max(len(response) for response in self.responses)

    @property
    def num_pairs(self) -> int:
        """Pairs that are not tied."""
        if self.pairs is not None:
            return len({(better, worse) for better, worse, _ in self.pairs})
        ranks = self.ranks
        return sum(ranks[i] != ranks[j] for i in range(len(ranks)) for j in range(i))


@dataclass(frozen=True, kw_only=True)
class TooLong:
    """A row of a table of comparisons with a sequence of that many tokens, above the limit."""

    row: int
    tokens: int


def read_ranked_prompts(
    path: Path, tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> tuple[list[RankedPrompt], list[TooLong]]:
    """The comparisons of a table, and what was left out: a sequence is above `max_length`."""
    return rank_prompts(read_table(path, Comparison), tokenizer, max_length, str(path))


def rank_prompts(
    comparisons: Sequence[Comparison],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    name: str,
) -> tuple[list[RankedPrompt], list[TooLong]]:
    """The same of comparisons at hand, which errors call `name`."""
    prompts = [_encode(row, tokenizer, name, number) for number, row in enumerate(comparisons)]
    fitting = [prompt for prompt in prompts if prompt.width <= max_length]
    if not fitting:
        shortest = min((prompt.width for prompt in prompts), default=0)
        raise UserError(
            f"no comparison in {name} fits max_length",
            got=f"{max_length} tokens; the shortest needs {shortest}",
            do="raise max_length: reward_model.max_length of a run, --max-length of a command",
        )
    too_long = [
        TooLong(row=row, tokens=prompt.width)
        for row, prompt in enumerate(prompts)
        if prompt.width > max_length
    ]
    return fitting, too_long


def _encode(
    row: Comparison, tokenizer: "PreTrainedTokenizerBase", name: str, number: int
) -> RankedPrompt:
    responses = [
        encode_response(tokenizer, text, finished=finished)
        for text, finished in zip(row.completions, row.finished, strict=True)
    ]
    if not all(responses):
        raise UserError(
            f"{name}, row {number}: a completion without text that did not end",
            got=repr(row.completions),
            do="leave that completion out, or mark it as finished",
        )
    prompt = encode_prompt(tokenizer, row.prompt)
    return RankedPrompt(
        prompt=prompt,
        responses=responses,
        ranks=row.ranks,
        gold=row.scores,
        pairs=row.pairs,
        weight=row.weight,
        comparison=row,
    )


def collate_ranked(prompts: Sequence[RankedPrompt], pad_token_id: int) -> SequenceBatch:
    """All responses, prompt after prompt: each once, whatever the number of its pairs."""
    return collate(
        [prompt.prompt for prompt in prompts for _ in prompt.responses],
        [response for prompt in prompts for response in prompt.responses],
        pad_token_id,
    )


def score_ranked(
    score: Callable[[SequenceBatch], Tensor], prompts: Sequence[RankedPrompt], pad_token_id: int
) -> Tensor:
    """(N,) float32 scores of all responses, prompt after prompt, without a gradient."""
    return score_responses(
        score,
        [prompt.prompt for prompt in prompts for _ in prompt.responses],
        [response for prompt in prompts for response in prompt.responses],
        pad_token_id,
    )


def by_prompt(scores: Tensor, prompts: Sequence[RankedPrompt]) -> list[list[float]]:
    """Flat scores (N,) as one list a prompt."""
    flat = iter(scores.tolist())
    return [[next(flat) for _ in prompt.responses] for prompt in prompts]


def beside_records(
    rows: Sequence[Sequence[float]], prompts: Sequence[RankedPrompt]
) -> list[Scored]:
    """Scores by prompt beside the records that were read, for an examination."""
    scored = []
    for row, prompt in zip(rows, prompts, strict=True):
        assert prompt.comparison is not None
        lengths = [len(response) for response in prompt.responses]
        scored.append(Scored(comparison=prompt.comparison, scores=row, lengths=lengths))
    return scored


def ranked_scores(scores: Tensor, prompts: Sequence[RankedPrompt]) -> RankedScores:
    """Flat scores (N,) beside what was said of each prompt's responses."""
    return ragged_scores(
        scores,
        [prompt.ranks for prompt in prompts],
        [prompt.pairs for prompt in prompts],
        [prompt.weight for prompt in prompts],
    )


def beside_labels(
    rows: Sequence[Sequence[float]], prompts: Sequence[RankedPrompt]
) -> tuple[list[list[float]], list[list[float]]]:
    """Scores by prompt and the labelers' qualities, to compare; explicit pairs are rows of two."""
    scores: list[list[float]] = []
    labels: list[list[float]] = []
    for row, prompt in zip(rows, prompts, strict=True):
        if prompt.pairs is None:
            scores.append(list(row))
            labels += qualities([prompt.ranks])
        for better, worse, _ in prompt.pairs or []:
            scores.append([row[better], row[worse]])
            labels.append([1.0, 0.0])
    return scores, labels


def group_prompts(
    prompts: Sequence[RankedPrompt],
    max_tokens: int,
    count: Callable[[Sequence[RankedPrompt]], int],
) -> list[list[int]]:
    """Indices of whole prompts, grouped by width, each group at most `max_tokens` by `count`.

    A prompt whose responses exceed the budget is a group of its own.
    """
    order = sorted(range(len(prompts)), key=lambda index: (prompts[index].width, index))
    groups: list[list[int]] = []
    for index in order:
        grown = [*groups[-1], index] if groups else []
        if grown and count([prompts[row] for row in grown]) <= max_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
