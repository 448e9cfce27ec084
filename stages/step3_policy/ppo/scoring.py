"""What responses are worth: the weighted sum of the reward's components, and each of them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from reward.text_rewards import RewardError
from reward.total import Scored, weighted_sum
from stages.contracts import UserError
from stages.lm.batching import SequenceBatch
from stages.lm.rollout import Rollouts
from stages.lm.tokens import decode_response
from stages.step3_policy.ppo.config import PpoConfig
from stages.step3_policy.ppo.data import PpoData, PromptSet
from stages.step3_policy.ppo.roles import Roles

SHOWN = 80  # characters of a prompt in an error


def score(
    roles: Roles, batch: SequenceBatch, prompts: PromptSet, rollouts: Rollouts, config: PpoConfig
) -> Scored:
    """The reward of B responses, before the missing-EOS rule and the KL penalty.

    batch: what the reward model reads; all else reads the texts, with the prompts' messages.

    Raises:
        RewardError: a component failed, or gave a score that is no finite number.
    """
    of_model, apart = None, None
    if roles.reward_model is not None:
        of_model, apart = roles.reward_model.scores_and_disagreements(batch)
    of_texts = {}
    if roles.text_rewards is not None:
        of_texts = roles.text_rewards.scores(prompts.messages, rollouts.tokens, rollouts.finished)
    return replace(weighted_sum(config.reward, of_model, of_texts), disagreements=apart)


def breakdown(parts: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """{"reward/NAME": a score a response}; {} where the reward model is all there is."""
    if list(parts) == ["model"]:
        return {}
    return {f"reward/{name}": scores.tolist() for name, scores in parts.items()}


@contextmanager
def keep_if_unscored(
    data: PpoData, prompts: PromptSet, rollouts: Rollouts, folder: Path, when: str
) -> Iterator[None]:
    """Around what asks for scores: a failure ends the run, and what was asked is kept as text.

    when: `iteration 3`, for one.
    """
    try:
        yield
    except RewardError as error:
        path = folder / f"unscored_batch_of_{when.replace(' ', '_')}.json"
        rows = zip(prompts.messages, rollouts.tokens, rollouts.finished, strict=True)
        asked = [
            {"prompt": m, "response": decode_response(data.tokenizer, tokens), "finished": finished}
            for m, tokens, finished in rows
        ]
        told = {"component": error.component, "rows": error.rows, "cause": error.cause}
        path.write_text(json.dumps({**told, "asked": asked}, indent=2) + "\n")
        first = f"row {error.rows[0]}: {_shown(prompts, error.rows[0])}; " if error.rows else ""
        raise UserError(
            f"PPO stopped in {when}: {error}",
            got=f"{first}what was asked is kept in {path}",
            do="mend it; the same command continues from the last checkpoint",
        ) from error


def _shown(prompts: PromptSet, row: int) -> str:
    text = prompts.messages[row][-1]["content"]
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}...")
