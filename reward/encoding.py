"""How the responses of a comparison are encoded: with their prompt once for all, or a copy each.

The two give the same scores and gradients where attention looks at everything before a token. With
a sliding window, or where positions are counted otherwise, they may not, and silently so. So the
model is asked, not looked up in a list: a small comparison is scored both ways.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reward.config import Encoding
from reward.model import RewardModel
from reward.ranked_prompts import RankedPrompt, collate_ranked
from stages.contracts import UserError
from stages.lm.batching import SequenceBatch
from stages.lm.branches import Branches, collate_branches

TOLERANCE = 1e-4  # of a score; float32 differs by about 1e-6
SHORTEST = 12  # tokens of the probe's longer prompt


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """How this model encodes, and why."""

    encoding: Encoding
    why: str

    def scores(self, model: RewardModel, prompts: Sequence[RankedPrompt], pad: int) -> Tensor:
        """(N,) float32 raw scores of all responses, prompt after prompt."""
        scores: Tensor = model(self.batch(prompts, pad))
        return scores

    def batch(self, prompts: Sequence[RankedPrompt], pad: int) -> SequenceBatch | Branches:
        """What the model is given for that."""
        if self.encoding is Encoding.separate:
            return collate_ranked(prompts, pad)
        return collate_branches([p.prompt for p in prompts], [p.responses for p in prompts], pad)

    def tokens(self, prompts: Sequence[RankedPrompt]) -> int:
        """What a forward over these computes, padding included."""
        sequences = sum(len(prompt.responses) for prompt in prompts)
        if self.encoding is Encoding.separate:
            return sequences * max(prompt.width for prompt in prompts)
        longest = max(len(response) for prompt in prompts for response in prompt.responses)
        return len(prompts) * max(len(prompt.prompt) for prompt in prompts) + sequences * longest


SHARED, SEPARATE = (
    Chosen(encoding=kind, why="as asked for") for kind in (Encoding.shared, Encoding.separate)
)


def choose(asked: Encoding, model: RewardModel, pad_token_id: int, max_length: int) -> Chosen:
    """What was asked for, or what the probe finds.

    Raises:
        UserError: `shared` was asked for, and is not exact for this model.
    """
    if asked is Encoding.separate:
        return SEPARATE
    difference = probe(model, pad_token_id, max_length)
    exact = isinstance(difference, float) and difference <= TOLERANCE
    told = difference if isinstance(difference, str) else f"scores differ by {difference:.1e}"
    if asked is Encoding.shared and not exact:
        raise UserError(
            "this model cannot share a prompt among its responses",
            got=told,
            do="set reward_model.encoding=separate, or leave it at auto",
        )
    return Chosen(encoding=Encoding.shared if exact else Encoding.separate, why=told)


@torch.no_grad()
def probe(model: RewardModel, pad_token_id: int, max_length: int) -> float | str:
    """The largest difference of a score between both ways, or the error that one of them raised."""
    prompts = probe_comparison(model.network.config.get_text_config(), max_length)
    try:
        shared = SHARED.scores(model, prompts, pad_token_id)
    except (RuntimeError, ValueError, NotImplementedError, TypeError, IndexError) as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    separate = SEPARATE.scores(model, prompts, pad_token_id)
    difference = float((shared - separate).abs().max())
    return difference if difference == difference else "scores that are not a number"


def probe_comparison(config: Any, max_length: int) -> list[RankedPrompt]:
    """Two prompts, one longer than any window, with responses of several lengths."""
    window = getattr(config, "sliding_window", None) or 0
    longest = max(2, min(max(SHORTEST, window + 4), max_length - 6))
    draw = torch.Generator().manual_seed(0)

    def tokens(length: int) -> list[int]:
        return torch.randint(config.vocab_size, (length,), generator=draw).tolist()

    return [
        RankedPrompt(
            prompt=tokens(length), responses=[tokens(n) for n in (6, 3, 1)], ranks=[1, 2, 3]
        )
        for length in (longest, longest // 2)
    ]
