"""From model folders to roles: in this process, or on every rank of the worker groups."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from reward.ensemble import Ensemble, load_scorer, single_models
from reward.model import Critic, RewardModel
from reward.text_model import TextRewardModel
from reward.text_sum import TextRewards, text_components
from stages.contracts import UserError, WorkerGroup
from stages.lm.activations import checkpoint_activations
from stages.lm.backends.make import make_backend
from stages.lm.engines.hf import HFEngine
from stages.lm.loading import load_config, load_tokenizer
from stages.lm.peft.adapters import check_base
from stages.lm.peft.config import PeftKind
from stages.lm.peft.folders import positions_taken
from stages.lm.precision import compute_in
from stages.lm.process import prepare_process
from stages.step3_policy.ppo.config import PpoConfig
from stages.step3_policy.ppo.groups import (
    CriticGroup,
    EngineGroup,
    PolicyGroup,
    RankEngine,
    ReferenceGroup,
    RewardGroup,
)
from stages.step3_policy.ppo.models import AdaptedModels, Models, WholeModels
from stages.step3_policy.ppo.placement import TRAINED, group_name
from stages.step3_policy.ppo.roles import (
    CriticRole,
    MakeBackend,
    PolicyRole,
    ReferenceRole,
    RewardRole,
    Roles,
)


@dataclass(frozen=True, kw_only=True)
class Folders:
    """The models that PPO starts from. start: of policy and reference; reward_model: of the critic
    too (App. C.4), which begins as the start where there is none; text_reward_model: one of another
    tokenizer, which is given text; judge: a reward model that training does not maximise, if there
    is one; base: on which the adapters of the others lie, with `peft=lora`."""

    start: Path
    reward_model: Path | None = None
    text_reward_model: Path | None = None
    judge: Path | None = None
    base: Path | None = None


def load_roles(
    config: PpoConfig, folders: Folders, workers: Mapping[str, WorkerGroup] | None = None
) -> Roles:
    """All roles; those of worker groups are reached through them.

    Raises:
        UserError: prompt and response do not fit the model; adapters of another base.
    """
    check_context(config, folders.start)
    if folders.base is not None:
        wanted = {"ppo_init": folders.start, "reward_model": folders.reward_model}
        there = {name: folder for name, folder in wanted.items() if folder}
        check_base(folders.base, there, config.peft)
    names = [*config.roles(), *(["judge"] if folders.judge else [])]
    if folders.reward_model is None:
        names = [name for name in names if name != "reward_model"]
    if workers:
        parts = _parts_of_groups(config, folders, workers, names)
    else:
        parts = load_parts(config, folders, names)
    absent = dict.fromkeys(("critic", "engine", "reward_model"))
    return Roles(**{**absent, "text_rewards": text_rewards(config, folders), **parts})


def text_rewards(config: PpoConfig, folders: Folders) -> TextRewards:
    """All of the reward that reads text."""
    components = text_components(config.reward)
    if folders.text_reward_model is not None:
        components = {"model": TextRewardModel(folders.text_reward_model), **components}
    return TextRewards(components, load_tokenizer(folders.start))


def _parts_of_groups(
    config: PpoConfig, folders: Folders, workers: Mapping[str, WorkerGroup], names: list[str]
) -> dict[str, Any]:
    for group in workers.values():
        there = [name for name in names if _group(config, name) == group.shape.name]
        group.build(load_rank, config, folders, there)
    pad_token_id = load_tokenizer(folders.start).pad_token_id
    makers: dict[str, Callable[..., object]] = {
        "policy": partial(PolicyGroup, pad_token_id=pad_token_id),
        "ref_policy": ReferenceGroup,
        "critic": CriticGroup,
        "reward_model": RewardGroup,
        "judge": partial(RewardGroup, part="judge"),
        "engine": EngineGroup,
    }
    return {name: makers[name](workers[_group(config, name)], config) for name in names}


def _group(config: PpoConfig, role: str) -> str:
    """The judge lives with the reward model, where that has a place."""
    home = "reward_model" if "reward_model" in config.roles() else "ref_policy"
    return group_name(config.placement.of(home if role == "judge" else role))


def load_rank(config: PpoConfig, folders: Folders, names: list[str]) -> dict[str, Any]:
    """What a rank of a worker group holds."""
    prepare_process(config.threads, config.seed)
    parts = load_parts(config, folders, names)
    if "engine" in parts:
        parts["engine"] = RankEngine(parts["engine"], config.sequences_per_batch)
    return parts


def load_parts(config: PpoConfig, folders: Folders, names: Iterable[str]) -> dict[str, Any]:
    """The named roles in this process."""
    source = models_of(folders, config.peft)
    made: dict[str, Any] = {}
    for name in names:  # the policy comes first: the engine may share its module
        made[name] = _load(name, config, folders, source, made)
    models = [made[name].model for name in made if name != "judge"]
    for decoder in {decoder for model in models for decoder in decoders_of(model)}:
        compute_in(decoder, config.precision)
    trained = [made[name].model for name in TRAINED if name in made]
    for model in trained if config.gradient_checkpointing else []:
        checkpoint_activations(model)
    return made


def decoders_of(model: Any) -> list[nn.Module]:
    """The parts of a role's model that do most of the work, without their heads."""
    if isinstance(model, RewardModel | Ensemble):
        return [single.network.base_model for single in single_models(model)]
    return [model.backbone if isinstance(model, Critic) else model.get_decoder()]


def models_of(folders: Folders, kind: PeftKind) -> Models:
    """Whole models, or adapters on the one base of this process."""
    if folders.base is None:
        return WholeModels(folders.start, folders.reward_model, kind)
    return AdaptedModels(folders.base, folders.start, folders.reward_model, kind)


def _load(
    name: str, config: PpoConfig, folders: Folders, models: Models, made: Mapping[str, Any]
) -> Any:
    if name == "policy":
        pad_token_id = load_tokenizer(folders.start).pad_token_id
        model = models.language_model(trainable=True)
        return PolicyRole(model, config, pad_token_id, _backend(config, name))
    if name == "ref_policy":
        return ReferenceRole(models.language_model(), config)
    if name == "critic":
        return CriticRole(models.critic(), config, _backend(config, name))
    if name == "engine":
        shared = config.placement.engine_shares_weights
        return _engine(folders.start, made["policy"].model if shared else models.language_model())
    if name == "judge":
        assert folders.judge is not None
        return load_judge(config, folders.judge)
    return RewardRole(models.reward_model(), config)


def load_judge(config: PpoConfig, folder: Path) -> RewardRole:
    """A reward model that training does not maximise."""
    model = load_scorer(folder)
    for decoder in decoders_of(model):
        compute_in(decoder, config.precision)
    return RewardRole(model, config)


def _engine(start: Path, model: Any) -> HFEngine:
    tokenizer = load_tokenizer(start)
    return HFEngine(
        model,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _backend(config: PpoConfig, role: str) -> MakeBackend:
    kind = config.placement.of(role).backend
    assert kind is not None
    return partial(make_backend, kind=kind, deepspeed=config.placement.deepspeed)


def check_context(config: PpoConfig, start: Path) -> None:
    """A prompt and its response must fit into the positions that the model was made for."""
    wanted = config.max_prompt_tokens + config.max_response_tokens
    limit = load_config(start).max_position_embeddings - positions_taken(start)
    if wanted > limit:
        raise UserError(
            "prompt and response do not fit into the model's context",
            got=f"max_prompt_tokens + max_response_tokens = {wanted}, the model has {limit}",
            do=f"lower their sum to {limit} or less",
        )
