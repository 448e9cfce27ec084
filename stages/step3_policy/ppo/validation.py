"""How the policy does on validation prompts: reward model, judge, gold where it is known, KL.

The same prompts with the same noise every time, so that curves show the policy's change alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stages.contracts import GoldKind
from stages.lm.batching import collate
from stages.lm.rollout import Rollouts
from stages.lm.tokens import decode_response
from stages.records.schemas import Message
from stages.step3_policy.ppo.data import PpoData, PromptSet
from stages.step3_policy.ppo.kl import k1
from stages.step3_policy.ppo.masked import sequence_sums
from stages.step3_policy.ppo.metrics import Figures
from stages.step3_policy.ppo.roles import Roles
from stages.step3_policy.ppo.rollouts import respond
from stages.step3_policy.ppo.scoring import breakdown, score

VALIDATION_STREAM = 1 << 32  # iterations count below it, so training never sees this noise

GoldReward = Callable[[list[Message], str, bool], float]


@dataclass(kw_only=True)
class Validation:
    """Means over the validation prompts, and a few responses to look at."""

    figures: Figures
    samples: list[dict[str, Any]]


def respond_to_validation(roles: Roles, data: PpoData) -> Rollouts:
    """One response to each validation prompt."""
    tokens = data.validation.tokens
    return respond(
        roles.engine, tokens, data.config, stream=VALIDATION_STREAM, indices=range(len(tokens))
    )


def validate(roles: Roles, data: PpoData, rollouts: Rollouts) -> Validation:
    """Judge the responses to the validation prompts.

    Raises:
        RewardError: a component of the reward failed.
    """
    prompts, config = data.validation, data.config
    batch = collate(prompts.tokens, rollouts.tokens, roles.policy.pad_token_id)
    logprobs, _ = roles.policy.logprobs_and_entropies(batch)
    log_ratio = logprobs - roles.ref_policy.logprobs(batch)
    scored = score(roles, batch, prompts, rollouts, config)
    judged = {
        "proxy": scored.total,
        "kl": sequence_sums(k1(log_ratio), batch.response_mask),
    }
    if roles.judge is not None:
        judged["judge"] = roles.judge.scores(batch)
    gold = gold_rewards(data, prompts, rollouts, config.gold)
    columns = {name: column.tolist() for name, column in judged.items()}
    columns |= breakdown(scored.parts) | gold
    return Validation(
        figures={
            **{f"validation/{name}": sum(c) / len(c) for name, c in columns.items()},
            "validation/response_tokens": float(batch.response_lengths.float().mean()),
            "validation/eos_rate": sum(rollouts.finished) / len(rollouts.finished),
        },
        samples=sample_rows(data, rollouts, columns, config.sample_rows),
    )


def gold_rewards(
    data: PpoData, prompts: PromptSet, rollouts: Rollouts, gold: GoldKind
) -> dict[str, list[float]]:
    """{"gold": the true reward of each response}, or nothing where none is known."""
    if gold is GoldKind.none:
        return {}
    from stages.world.gold import gold_reward

    responses = [decode_response(data.tokenizer, tokens) for tokens in rollouts.tokens]
    triples = zip(prompts.messages, responses, rollouts.finished, strict=True)
    return {"gold": [gold_reward(*triple) for triple in triples]}


def sample_rows(
    data: PpoData, rollouts: Rollouts, columns: dict[str, list[float]], count: int
) -> list[dict[str, Any]]:
    """The first `count` prompts with their responses and figures."""
    rows = range(min(count, len(data.validation)))
    return [
        {
            "prompt": data.validation.messages[row][-1]["content"],
            "response": decode_response(data.tokenizer, rollouts.tokens[row]),
            "finished": rollouts.finished[row],
            **{name: round(column[row], 4) for name, column in columns.items()},
        }
        for row in rows
    ]
