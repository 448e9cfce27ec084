"""What a config amounts to before anything runs: batches, steps, departures from the papers."""

from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from math import ceil
from typing import Any

from pipeline.config import LabelersConfig, PipelineConfig
from pipeline.fingerprint import plain
from pipeline.workflow import MEMBER
from stages.step0_data.config import DemonstrationsConfig, PromptsConfig
from stages.step1_sft.config import PpoInitConfig, SftConfig
from stages.step2_reward.config import RewardModelConfig
from stages.step2_reward.ensemble_config import MemberData
from stages.step3_policy.ppo.config import PpoConfig
from stages.step3_policy.ppo.placement import TRAINED, group_name

NO_DEPARTURE = {
    "seed",
    "threads",
    "name",
    "to_stage",
    "placement",
}  # the papers say nothing of these


@dataclass(frozen=True)
class Quantity:
    """One number of the batch arithmetic: its name, its value, how it comes about."""

    name: str
    value: float
    how: str


def batch_arithmetic(config: PipelineConfig) -> dict[str, list[Quantity]]:
    """Steps and samples of every stage that trains, as far as the config alone tells them.

    How many rows files hold is known once they are read.
    """
    data, table = config.data, dict[str, list[Quantity]]()
    if isinstance(data.demonstrations, DemonstrationsConfig):
        table["sft"] = _fine_tuning(config.sft, data.demonstrations.num_train)
        if isinstance(config.ppo_init, PpoInitConfig):
            table["ppo_init"] = _fine_tuning(config.ppo_init, data.demonstrations.num_train)
    prompts = data.prompts.num_train if isinstance(data.prompts, PromptsConfig) else None
    if isinstance(data.comparisons, LabelersConfig) and prompts:
        trained = f"{MEMBER}1" if config.ensemble.members > 1 else "reward_model"
        table[trained] = _reward_model(config, prompts)
    if isinstance(config.align, PpoConfig):
        table["policy"] = _ppo(config.align, prompts)
    return table


def _fine_tuning(config: SftConfig | PpoInitConfig, demonstrations: int) -> list[Quantity]:
    sequences, how = demonstrations, f"{demonstrations} demonstrations"
    if isinstance(config, PpoInitConfig):
        sequences = round(demonstrations / (1 - config.text_share))
        how += f" and {config.text_share:.0%} pretraining documents"
    steps = config.epochs * ceil(sequences / config.batch_size)
    return [
        Quantity("sequences an epoch", sequences, how),
        Quantity(
            "optimizer steps", steps, f"{config.epochs} epochs, batches of {config.batch_size}"
        ),
    ]


def _reward_model(config: PipelineConfig, num_prompts: int) -> list[Quantity]:
    completions, reward_model = config.completions, config.reward_model
    prompts, members = min(completions.train_prompts, num_prompts), []
    if config.ensemble.members > 1:
        count = config.ensemble.members
        members = [Quantity("reward models", count, f"each from {config.ensemble.data} data")]
        prompts = ceil(prompts / count) if config.ensemble.data is MemberData.disjoint else prompts
    mean_k = (completions.k_min + completions.k_max) / 2
    steps = ceil(reward_model.epochs * prompts / reward_model.batch_size)
    ks = range(completions.k_min, completions.k_max + 1)
    mean_pairs = sum(k * (k - 1) / 2 for k in ks) / len(ks)
    return [
        *members,
        Quantity("prompts", prompts, "each with its completions one batch element"),
        Quantity("completions", round(prompts * mean_k), f"K from {ks[0]} to {ks[-1]}"),
        Quantity(
            "pairs at most", round(prompts * mean_pairs), "K(K-1)/2 a prompt, ties among them"
        ),
        Quantity("optimizer steps", steps, f"batches of {reward_model.batch_size} prompts"),
        *_reward_model_ranks(reward_model),
    ]


def _reward_model_ranks(config: RewardModelConfig) -> list[Quantity]:
    """An optimizer step over the processes that train the reward model."""
    place = config.placement
    where = [group.name for group in config.worker_groups()] or ["the stage's own"]
    return [
        Quantity("processes", place.processes, f"{where[0]}, backend {place.kind}"),
        Quantity(
            "prompts a process",
            config.batch_size // place.processes,
            f"of an optimizer step, {config.microbatch_tokens:,} tokens a forward",
        ),
    ]


def _ppo(config: PpoConfig, prompts: int | None) -> list[Quantity]:
    episodes, samples = config.iterations * config.rollout_batch_size, config.samples_per_prompt
    documents = config.num_documents
    known = [Quantity("unique prompts", prompts, "training split")] if prompts else []
    passes = f"{episodes / samples / prompts:.1f} passes over the prompts" if prompts else ""
    return [
        *known,
        Quantity("prompts an iteration", config.prompts_per_iteration, "training split, in turn"),
        Quantity("episodes an iteration", config.rollout_batch_size, f"{samples} a prompt"),
        Quantity(
            "minibatches an iteration",
            config.ppo_epochs * config.num_minibatches,
            f"{config.rollout_batch_size} / {config.minibatch_size}, {config.ppo_epochs} pass(es)",
        ),
        Quantity("optimizer steps", config.num_updates, f"{config.iterations} iterations"),
        Quantity("episodes", episodes, passes),
        Quantity("ptx documents a step", documents, f"{config.ptx_ratio:g} an episode"),
        Quantity(
            "ptx documents", documents * config.num_updates, f"coefficient {config.ptx_coef:g}"
        ),
        *(row for role in config.roles() if role in TRAINED for row in _ranks(config, role)),
        *_groups(config),
    ]


def _ranks(config: PpoConfig, role: str) -> list[Quantity]:
    """An optimizer step of a role over the processes that train it."""
    place = config.placement.of(role)
    assert place.processes is not None
    assert place.backend is not None
    sequences = config.minibatch_size // place.processes
    longest = config.max_prompt_tokens + config.max_response_tokens
    forwards = ceil(sequences / max(1, config.microbatch_tokens // longest))
    where = group_name(place) if config.worker_groups() else "the stage's own"
    rows = [
        Quantity(f"{role}: processes", place.processes, f"{where}, backend {place.backend}"),
        Quantity(f"{role}: sequences a process", sequences, "of an optimizer step"),
        Quantity(
            f"{role}: micro-batches at most",
            forwards,
            f"{config.microbatch_tokens:,} tokens each, sequences of {longest:,}",
        ),
    ]
    if role == "policy" and config.num_documents:
        documents = config.num_documents // place.processes
        rows.append(Quantity("policy: documents a process", documents, "of an optimizer step"))
    return rows


def _groups(config: PpoConfig) -> list[Quantity]:
    """The worker groups: how many processes, what each gets, who lives there."""
    roles = {role: group_name(config.placement.of(role)) for role in config.roles()}
    return [
        Quantity(
            shape.name,
            shape.processes,
            f"processes of {shape.cpus:g} CPU, {shape.gpus:g} GPU: "
            + ", ".join(role for role, group in roles.items() if group == shape.name),
        )
        for shape in config.worker_groups()
    ]


def departures(config: PipelineConfig) -> dict[str, tuple[Any, Any]]:
    """Keys whose value is not the dataclass's default, which is the paper's: (default, value)."""
    return dict(_departures(config, ""))


def _departures(config: Any, path: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for spec in fields(config):
        value, key = getattr(config, spec.name), f"{path}{spec.name}"
        if not spec.metadata.get("affects_result", True) or spec.name in NO_DEPARTURE:
            continue
        if is_dataclass(value):
            yield from _departures(value, f"{key}.")
        elif (default := _default(spec)) != plain(value):
            yield key, (default, plain(value))


def _default(spec: Field[Any]) -> Any:
    if spec.default_factory is not MISSING:
        return plain(spec.default_factory())
    return None if spec.default is MISSING else plain(spec.default)
