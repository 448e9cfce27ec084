"""What is looked at before any work beyond the plan: folders, file contents, disk space.

Disk is estimated from the size of the base model, the models each stage keeps, and the checkpoints
it works with: a checkpoint of Adam is three times the model (weights and two moments), and the new
one is written before the old one goes. An ensemble keeps links to its members' files.
"""

import shutil
import tempfile
from pathlib import Path

from pipeline.artifacts import folder_size
from pipeline.manifest import check_contents
from pipeline.planning import Plan
from pipeline.workflow import MEMBER, Stage, copies_adapters
from reward.endpoint_config import check_secrets
from reward.functions import check_functions
from stages.contracts import StageConfig, UserError
from stages.lm.engines.config import check_engine
from stages.lm.peft.config import check_library
from stages.step0_base.config import BaseConfig, BaseKind
from stages.step1_sft.config import FineTuningConfig, SftConfig
from stages.step2_reward.config import RewardModelConfig
from stages.step3_policy.config import PreferenceConfig
from stages.step3_policy.ppo.config import PpoConfig

GIB = 2**30
TABLES_AND_LOGS = 64 * 2**20
ADAM_CHECKPOINTS = 2 * 3
ADAPTED = ("sft", "sft_selected", "ppo_init", "reward_model")
KEPT_MODELS = {"base": 1, "sft": 1, "ppo_init": 1, "policy": 2}
WORKING_MODELS = {
    "base": ADAM_CHECKPOINTS,
    "sft": ADAM_CHECKPOINTS,
    "ppo_init": ADAM_CHECKPOINTS,
}


def run_faults(plan: Plan, run_dir: Path) -> list[UserError]:
    """Every fault that would stop the planned work later."""
    unwritable = _unwritable({"store": plan.store.root, "run folder": run_dir})
    faults = unwritable + _damaged(plan) + _engine_faults(plan) + _adapter_faults(plan)
    faults += _reward_faults(plan) + _library_faults(plan)
    return faults + ([] if unwritable else _disk_faults(plan))


def _unwritable(folders: dict[str, Path]) -> list[UserError]:
    faults = []
    for name, folder in folders.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            got = f"{folder}: {error.strerror}"
            faults.append(UserError(f"the {name} cannot be written", got=got, do="choose another"))
    return faults


def _damaged(plan: Plan) -> list[UserError]:
    faults = []
    for artifact in plan.read_by_this_run().values():
        try:
            check_contents(artifact)
        except UserError as fault:
            faults.append(fault)
    return faults


def _engine_faults(plan: Plan) -> list[UserError]:
    """What keeps the rollout engine of a policy to be trained from starting."""
    configs = [plan.stages[asset].stage.config for asset in plan.to_run]
    try:
        for config in configs:
            if isinstance(config, PpoConfig):
                check_engine(config.rollout)
    except UserError as fault:
        return [fault]
    return []


def _reward_faults(plan: Plan) -> list[UserError]:
    """Reward functions that cannot be called, tokens that are not there."""
    configs = [plan.stages[asset].stage.config for asset in plan.to_run]
    rewards = [config.reward for config in configs if isinstance(config, PpoConfig)]
    faults = check_functions(sorted({path for r in rewards for path in r.function_weights}))
    return faults + check_secrets({k: v for reward in rewards for k, v in reward.secrets.items()})


def _adapter_faults(plan: Plan) -> list[UserError]:
    """Adapters that a stage is to train together and that do not lie on one base."""
    faults = []
    for stage in (plan.stages[asset].stage for asset in plan.to_run):
        bases = _bases(plan, stage) if copies_adapters(stage.config) else {}
        if len(set(bases.values())) > 1:
            fault = UserError(
                "adapters that are trained together must lie on one base",
                got=", ".join(f"{asset}: {base}" for asset, base in bases.items()),
                do="use artifacts that descend from one base with this peft, or peft=none",
            )
            faults.append(fault)
    return faults


def _library_faults(plan: Plan) -> list[UserError]:
    """What makes adapters, and is not installed."""
    configs = [plan.stages[asset].stage.config for asset in plan.to_run]
    try:
        for config in configs:
            if isinstance(config, FineTuningConfig):
                check_library(config.peft.kind)
    except UserError as fault:
        return [fault]
    return []


def _bases(plan: Plan, stage: Stage) -> dict[str, str]:
    """What is there already -> the base it is, or on which its adapter lies.

    A judge is not among them: nobody trains it, and it brings its own base.
    """
    found: dict[str, str] = {}
    for asset in stage.reads.values():
        artifact = plan.stages[asset].artifact
        if artifact and asset == "base":
            found[asset] = str(artifact.manifest.model_sha256)[:12]
        elif artifact and asset in ADAPTED:
            base = artifact.manifest.contract.get("base_sha256")
            found[asset] = str(base)[:12] if base else "none, it was trained whole"
    return found


def _disk_faults(plan: Plan) -> list[UserError]:
    needed, free = disk_estimate(plan), shutil.disk_usage(plan.store.root).free
    if needed <= free:
        return []
    return [
        UserError(
            f"too little disk space for {plan.store.root}",
            got=f"{free / GIB:.1f} GiB free, about {needed / GIB:.1f} GiB needed",
            do="free space (python -m pipeline gc), or put the store elsewhere with store=FOLDER",
        )
    ]


def disk_estimate(plan: Plan) -> int:
    """Bytes the planned stages may take at once: all they keep, and the two largest workplaces."""
    if not plan.to_run:
        return 0
    model = _model_bytes(plan)
    kept = sum(_kept_models(asset, plan.stages[asset].stage.config) for asset in plan.to_run)
    working = sorted(
        _working_models(asset, plan.stages[asset].stage.config) for asset in plan.to_run
    )
    members = sum(asset.startswith(MEMBER) for asset in plan.to_run)
    at_once = max(2, 1 + members)  # one of them beside ppo_init, or all
    return TABLES_AND_LOGS + model * (kept + sum(working[-at_once:]))


def _working_models(asset: str, config: StageConfig) -> int:
    if isinstance(config, RewardModelConfig):
        return ADAM_CHECKPOINTS + (2 if config.early_stopping.is_on else 0)  # the best so far
    if isinstance(config, PreferenceConfig | SftConfig):
        return ADAM_CHECKPOINTS
    if not isinstance(config, PpoConfig):
        return WORKING_MODELS.get(asset, 0)
    trained = 2 if config.advantage.needs_critic else 1
    copies = 2 if config.select.figure is None else 4  # the moving average; the best so far
    return trained * ADAM_CHECKPOINTS + copies


def _kept_models(asset: str, config: StageConfig) -> int:
    if isinstance(config, RewardModelConfig):
        return 1
    if isinstance(config, PreferenceConfig):
        return 1  # in rounds of online DPO one each
    every_epoch = config.epochs if isinstance(config, SftConfig) else 0
    return KEPT_MODELS.get(asset, 0) + every_epoch


def _model_bytes(plan: Plan) -> int:
    """Size of one model: of one that is there, else computed from the base's config."""
    artifacts = [p.artifact.manifest for p in plan.stages.values() if p.artifact]
    there = [found.model_size // found.contract.get("members", 1) for found in artifacts]
    bases = [p.stage.config for p in plan.stages.values() if isinstance(p.stage.config, BaseConfig)]
    return max([*there, *map(base_model_bytes, bases)], default=0)


def base_model_bytes(config: BaseConfig) -> int:
    """float32 bytes of the model a base config describes: what is at its path, or a Llama's."""
    if config.kind is BaseKind.folder:
        return folder_size(Path(str(config.path)))
    if config.kind is BaseKind.gguf:
        return 4 * _gguf_parameters(Path(str(config.path)))
    embeddings = 2 * config.max_words * config.hidden_size
    attention_and_mlp = (
        4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size
    )
    return 4 * (embeddings + config.num_layers * attention_and_mlp)


def _gguf_parameters(path: Path) -> int:
    from gguf import GGUFReader

    return sum(int(tensor.n_elements) for tensor in GGUFReader(path).tensors)
