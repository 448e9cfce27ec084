"""Ragged token lists to tensors, and which of them to compute together.

Dimension letters: B sequences, T tokens of prompt and response, R tokens of the longest response.
Masks come from lengths, never from `token == pad`: pad may equal EOS without harm.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(kw_only=True)
class SequenceBatch:
    """Prompts with their responses, right-padded."""

    input_ids: Tensor  # (B, T) int64: prompt, response, padding
    prompt_lengths: Tensor  # (B,) int64
    lengths: Tensor  # (B,) int64: prompt and response

    @property
    def attention_mask(self) -> Tensor:
        """(B, T) int64: 1 on real tokens."""
        positions = torch.arange(self.input_ids.shape[1], device=self.input_ids.device)
        return (positions < self.lengths[:, None]).long()

    @property
    def response_lengths(self) -> Tensor:
        """(B,) int64: tokens of each response, EOS included."""
        return self.lengths - self.prompt_lengths

    @property
    def response_mask(self) -> Tensor:
        """(B, R) bool: True on response tokens, which carry loss."""
        width = int(self.response_lengths.max())
        return torch.arange(width, device=self.lengths.device) < self.response_lengths[:, None]

    @property
    def response_positions(self) -> Tensor:
        """(B, R) int64: where response tokens stand in `input_ids`; padding points at the last."""
        width = int(self.response_lengths.max())
        columns = torch.arange(width, device=self.lengths.device)
        return torch.minimum(self.prompt_lengths[:, None] + columns, self.lengths[:, None] - 1)

    @property
    def response_tokens(self) -> Tensor:
        """(B, R) int64."""
        return self.input_ids.gather(1, self.response_positions)

    def select(self, rows: Sequence[int]) -> "SequenceBatch":
        """These rows, cut to the longest of them."""
        index = torch.as_tensor(rows, device=self.lengths.device)
        lengths = self.lengths[index]
        return SequenceBatch(
            input_ids=self.input_ids[index, : int(lengths.max())],
            prompt_lengths=self.prompt_lengths[index],
            lengths=lengths,
        )


def collate(
    prompts: Sequence[list[int]], responses: Sequence[list[int]], pad_token_id: int
) -> SequenceBatch:
    """One batch of B sequences; every response has at least one token."""
    assert len(prompts) == len(responses)
    assert all(responses), "a response without a token has nothing to learn from"
    tokens = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    return SequenceBatch(
        input_ids=pad_right(tokens, pad_token_id),
        prompt_lengths=torch.tensor([len(prompt) for prompt in prompts]),
        lengths=torch.tensor([len(sequence) for sequence in tokens]),
    )


def pad_right(sequences: Sequence[Sequence[float]], padding: float) -> Tensor:
    """(B, T) int64 of token ids, float32 of numbers; shorter sequences filled up at the end."""
    width = max(len(sequence) for sequence in sequences)
    rows = [[*sequence, *[padding] * (width - len(sequence))] for sequence in sequences]
    return torch.tensor(rows)


def pad_left(sequences: Sequence[Sequence[int]], pad_token_id: int) -> Tensor:
    """(B, T) int64, shorter sequences filled up at the start: what generation needs."""
    width = max(len(sequence) for sequence in sequences)
    rows = [[*[pad_token_id] * (width - len(sequence)), *sequence] for sequence in sequences]
    return torch.tensor(rows)


def micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices grouped by similar length, each group at most `max_tokens` once padded.

    Every index stands in one group; a sequence longer than the budget is a group of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    groups: list[list[int]] = []
    for index in order:
        if groups and (len(groups[-1]) + 1) * lengths[index] <= max_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
