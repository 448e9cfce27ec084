"""The policy stage with PPO: load the models, run the loop, publish the chosen weights."""

from contextlib import closing
from pathlib import Path
from typing import Any

from torch import Tensor

from reward.text_model import reads_tokens_of
from stages.contracts import Context, Report
from stages.lm.backends.base import copy_weights
from stages.lm.loading import load_causal_lm, load_tokenizer, text_contract
from stages.lm.peft.adapters import load_adapted, network_of, publish
from stages.lm.peft.config import PeftKind
from stages.lm.peft.methods import train_biases
from stages.step3_policy.ppo.config import PpoConfig, Select
from stages.step3_policy.ppo.data import load_data
from stages.step3_policy.ppo.engines import load_engine
from stages.step3_policy.ppo.groups import PolicyGroup
from stages.step3_policy.ppo.loading import Folders, load_roles
from stages.step3_policy.ppo.loop import PpoLoop
from stages.step3_policy.ppo.roles import PolicyRole
from stages.step3_policy.ppo.state import LoopState


def run(  # noqa: PLR0913  # one keyword an upstream asset
    config: PpoConfig,
    *,
    ppo_init: Path,
    prompts: Path,
    text: Path,
    out: Path,
    context: Context,
    reward_model: Path | None = None,
    judge: Path | None = None,
    base: Path | None = None,
) -> Report:
    """Train the policy from `ppo_init`; `model/` the selected weights, `ema/` their average.

    reward_model: None where the reward has none. judge: a second one, for `select=proxy_judge`.
    base: on which the adapters of the others lie, with `peft=lora`.
    """
    tokenizer = load_tokenizer(ppo_init / "model")
    folders = Folders(
        start=ppo_init / "model",
        **reward_model_folder(reward_model, tokenizer, base),
        judge=judge and judge / "model",
        base=base and base / "model",
    )
    roles = load_roles(config, folders, context.workers)
    data = load_data(config, tokenizer, prompts, text, context)
    eos = tokenizer.eos_token_id
    roles.engine = load_engine(config, roles.engine, ppo_init / "model", eos, context)
    with closing(roles.engine):
        state = PpoLoop(roles=roles, data=data, config=config, context=context).train()
    average = roles.policy.average_weights()
    chosen = selected(config.select, roles.policy, average, state)
    of_base = {}
    for name, weights in {"ema": average, "model": chosen}.items():
        of_base = write_policy(weights, folders, tokenizer, out / name, config.peft)
    contract = text_contract(tokenizer, config.max_prompt_tokens + config.max_response_tokens)
    metrics = final_metrics(config.select, state) | {
        "train_prompts_too_long": float(data.train.too_long),
        "validation_prompts_too_long": float(data.validation.too_long),
    }
    return Report(metrics=metrics, contract=contract | of_base)


def reward_model_folder(
    reward_model: Path | None, tokenizer: Any, base: Path | None
) -> dict[str, Path]:
    """Which of the `Folders` it is: one that reads the policy's tokens, or one that reads text.

    With adapters it lies on the policy's base, or is refused.
    """
    if reward_model is None:
        return {}
    folder = reward_model / "model"
    if base is not None or reads_tokens_of(folder, tokenizer):
        return {"reward_model": folder}
    return {"text_reward_model": folder}


def write_policy(
    weights: dict[str, Tensor], folders: Folders, tokenizer: Any, folder: Path, kind: PeftKind
) -> dict[str, str]:
    """Write the policy with these weights; what its contract says of a base."""
    if folders.base is None:
        model = load_causal_lm(folders.start)
        if kind is PeftKind.bitfit:
            train_biases(model)
        copy_weights(weights, model)
        return publish(model, tokenizer, folder, base=folders.start, kind=kind)
    adapted = load_adapted(folders.base, folders.start, trainable=True)
    copy_weights(weights, network_of(adapted))
    return publish(adapted, tokenizer, folder, base=folders.base, kind=kind)


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
