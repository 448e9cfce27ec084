"""Labeler groups that training never sees: does the model learn these people's taste, or one that
others share? The paper's answer is 72.4% on groups it was trained on, 69.6% on others (§4.1)."""

from collections.abc import Sequence

from reward.ranked_prompts import RankedPrompt
from stages.contracts import UserError, nearest


def without_groups(
    train: Sequence[RankedPrompt], validation: Sequence[RankedPrompt], held_out: Sequence[str]
) -> list[RankedPrompt]:
    """The training prompts of all other groups.

    Raises UserError for a group that no comparison has, and where nothing is left.
    """
    known = {group_of(prompt) for prompt in (*train, *validation)} - {None}
    for group in held_out:
        if group not in known:
            raise UserError(
                "reward_model.held_out_groups names a labeler group that ranked nothing",
                got=group,
                do=nearest(group, [str(name) for name in known]),
            )
    kept = [prompt for prompt in train if group_of(prompt) not in held_out]
    if not kept:
        raise UserError(
            "reward_model.held_out_groups leaves nothing to train on",
            got=", ".join(held_out),
            do="hold out fewer groups",
        )
    return kept


def group_of(prompt: RankedPrompt) -> str | None:
    """The group of the labeler who ranked it, where it is known."""
    return prompt.comparison.labeler_group if prompt.comparison else None
