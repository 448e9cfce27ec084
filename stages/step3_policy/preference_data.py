"""Comparisons as token ids, and the log-probability of each of their completions.

A completion is encoded once however many pairs it stands in, and ends in EOS only if it finished.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reward.scoring import score_responses
from stages.lm.logprobs import response_logprobs
from stages.lm.tokens import encode_prompt, encode_response
from stages.records.schemas import Comparison
from stages.step3_policy.config import PairRule
from stages.step3_policy.pairs import Pair, draw_pairs, ordered_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(kw_only=True)
class EncodedComparison:
    """The prompt's tokens, each completion's, and the pairs (better, worse) to learn from."""

    prompt: list[int]
    completions: list[list[int]]
    pairs: list[Pair]


def encode_comparisons(
    tokenizer: "PreTrainedTokenizerBase",
    comparisons: Sequence[Comparison],
    *,
    rule: PairRule,
    max_length: int,
    max_pairs: int | None = None,
    seed: int = 0,
) -> list[EncodedComparison]:
    """Comparisons that have a pair left once completions too long, or without a token, are out.

    max_pairs: how many pairs of one comparison are kept, drawn from `seed`; None for all.
    """
    encoded = [_encode(tokenizer, record, rule, max_length) for record in comparisons]
    for row, comparison in enumerate(encoded):
        comparison.pairs = draw_pairs(comparison.pairs, max_pairs, [seed, row])
    return [comparison for comparison in encoded if comparison.pairs]


def _encode(
    tokenizer: "PreTrainedTokenizerBase", record: Comparison, rule: PairRule, max_length: int
) -> EncodedComparison:
    prompt = encode_prompt(tokenizer, record.prompt)
    completions = [
        encode_response(tokenizer, text, finished=finished)
        for text, finished in zip(record.completions, record.finished, strict=True)
    ]
    usable = [0 < len(tokens) <= max_length - len(prompt) for tokens in completions]
    pairs = [(i, j) for i, j in ordered_pairs(record, rule) if usable[i] and usable[j]]
    return EncodedComparison(prompt=prompt, completions=completions, pairs=pairs)


def completion_logprobs(
    model: Any, comparisons: Sequence[EncodedComparison], pad_token_id: int
) -> list[list[float]]:
    """log pi(y|x) in nats of every completion of every comparison, summed over its tokens.

    0 for completions without a token, which stand in no pair. Dropout is off.
    """
    was_training = model.training
    model.eval()
    places = [
        (row, k)
        for row, comparison in enumerate(comparisons)
        for k, tokens in enumerate(comparison.completions)
        if tokens
    ]
    totals = score_responses(
        lambda batch: response_logprobs(model, batch).sum(1),
        [comparisons[row].prompt for row, _ in places],
        [comparisons[row].completions[k] for row, k in places],
        pad_token_id,
    )
    model.train(was_training)
    logprobs = [[0.0] * len(comparison.completions) for comparison in comparisons]
    for (row, k), total in zip(places, totals.tolist(), strict=True):
        logprobs[row][k] = total
    return logprobs
