"""The policy stage with PPO: load the models, run the loop, publish the chosen weights."""

from contextlib import closing
from pathlib import Path

from torch import Tensor

from stages.contracts import Context, Report
from stages.lm.loading import load_causal_lm, load_tokenizer, save_model, text_contract
from stages.step3_policy.ppo.config import PpoConfig, Select
from stages.step3_policy.ppo.data import load_data
from stages.step3_policy.ppo.ema import copy_weights
from stages.step3_policy.ppo.engines import load_engine
from stages.step3_policy.ppo.groups import PolicyGroup
from stages.step3_policy.ppo.loading import Folders, load_roles
from stages.step3_policy.ppo.loop import PpoLoop
from stages.step3_policy.ppo.roles import PolicyRole
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
    folders = Folders(
        start=ppo_init / "model",
        reward_model=reward_model / "model",
        judge=judge and judge / "model",
    )
    roles = load_roles(config, folders, context.workers)
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


def selected(
    select: Select, policy: PolicyRole | PolicyGroup, average: dict[str, Tensor], state: LoopState
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
