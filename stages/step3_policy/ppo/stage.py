"""The policy stage with PPO: load the models, run the loop, publish the weights that were chosen.

Left out: rollouts and updates on more than one process.
"""

from contextlib import closing
from pathlib import Path
from typing import Any

from torch import Tensor

from reward.model import critic_from_reward_model, load_reward_model
from stages.contracts import Context, Report, UserError
from stages.lm.engines.hf import HFEngine
from stages.lm.loading import load_causal_lm, load_tokenizer, save_model, text_contract
from stages.step3_policy.ppo.config import PpoConfig, Select
from stages.step3_policy.ppo.data import load_data
from stages.step3_policy.ppo.ema import copy_weights
from stages.step3_policy.ppo.engines import load_engine
from stages.step3_policy.ppo.loop import PpoLoop
from stages.step3_policy.ppo.roles import CriticRole, PolicyRole, ReferenceRole, RewardRole, Roles
from stages.step3_policy.ppo.state import LoopState


def run(
    config: PpoConfig,
    *,
    ppo_init: Path,
    reward_model: Path,
    prompts: Path,
    text: Path,
    out: Path,
    context: Context,
    judge: Path | None = None,
) -> Report:
    """Train the policy from `ppo_init`; `model/` the selected weights, `ema/` their average.

    judge: a second reward model, for `select=proxy_judge`.
    """
    tokenizer = load_tokenizer(ppo_init / "model")
    roles = load_roles(config, ppo_init / "model", reward_model / "model")
    if judge is not None:
        roles.judge = load_judge(config, judge / "model")
    data = load_data(config, tokenizer, prompts, text)
    eos = tokenizer.eos_token_id
    roles.engine = load_engine(config, roles.engine, ppo_init / "model", eos, context)
    with closing(roles.engine):
        state = PpoLoop(roles=roles, data=data, config=config, context=context).train()
    average = roles.policy.average_weights()
    chosen = selected(config.select, roles.policy, average, state)
    for name, weights in {"ema": average, "model": chosen}.items():
        model = load_causal_lm(ppo_init / "model")
        copy_weights(weights, model)
        save_model(model, tokenizer, out / name)
    return Report(
        metrics=final_metrics(config.select, state),
        contract=text_contract(tokenizer, config.max_prompt_tokens + config.max_response_tokens),
    )


def load_roles(config: PpoConfig, start: Path, reward_model: Path) -> Roles:
    """Policy and reference from the same start; the critic from the reward model (App. C.4)."""
    tokenizer, model = load_tokenizer(start), load_causal_lm(start)
    check_context(config, model)
    policy = PolicyRole(model, config, tokenizer.pad_token_id)
    critic = None
    if config.advantage.needs_critic:
        critic = CriticRole(critic_from_reward_model(reward_model), config)
    return Roles(
        policy=policy,
        ref_policy=ReferenceRole(load_causal_lm(start), config),
        critic=critic,
        reward_model=RewardRole(load_reward_model(reward_model), config),
        engine=HFEngine(
            model, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
        ),
    )


def load_judge(config: PpoConfig, folder: Path) -> RewardRole:
    """A reward model that training does not maximise."""
    return RewardRole(load_reward_model(folder), config)


def check_context(config: PpoConfig, model: Any) -> None:
    """A prompt and its response must fit into the positions that the model was made for."""
    wanted = config.max_prompt_tokens + config.max_response_tokens
    limit = model.config.max_position_embeddings
    if wanted > limit:
        raise UserError(
            "prompt and response do not fit into the model's context",
            got=f"max_prompt_tokens + max_response_tokens = {wanted}, the model has {limit}",
            do=f"lower their sum to {limit} or less",
        )


def selected(
    select: Select, policy: PolicyRole, average: dict[str, Tensor], state: LoopState
) -> dict[str, Tensor]:
    """The weights that become the policy."""
    if select is Select.ema:
        return average
    return policy.weights() if select.figure is None else state.best_weights


def final_metrics(select: Select, state: LoopState) -> dict[str, float]:
    """The last validation (of the last weights); what was the best, and what ended the training."""
    figures = {name.replace("/", "."): value for name, value in state.validation.items()}
    figures |= {"iterations": float(state.iterations), "kl_coef": state.kl_coef}
    if select.figure is not None:
        figures["best.iteration"] = float(state.best_iteration)
        figures[f"best.{select.figure.removeprefix('validation/')}"] = state.best_figure
    if state.stopped_by:
        figures[f"stopped_by.{state.stopped_by}"] = float(state.iterations)
    return figures
