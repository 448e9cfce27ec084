"""The groups `placement` and `deepspeed`: what they amount to, and what is refused."""

import pytest

from pipeline.arithmetic import batch_arithmetic
from pipeline.cluster import cluster_faults, too_little
from pipeline.composition import compose
from pipeline.config import ClusterConfig, run_id
from pipeline.errors import FaultsError
from stages.lm.backends.config import BackendKind
from stages.step3_policy.ppo.config import PpoConfig


def policy_of(*overrides: str) -> PpoConfig:
    config = compose(overrides).align
    assert isinstance(config, PpoConfig)
    return config


def shapes(*overrides: str) -> dict[str, tuple[int, float]]:
    groups = policy_of(*overrides).worker_groups()
    return {group.name.removeprefix("ppo/"): (group.processes, group.cpus) for group in groups}


def test_one_process_is_the_stages_own() -> None:
    assert shapes() == {}
    assert policy_of().placement.of("policy").backend is BackendKind.none


def test_a_stage_beside_worker_groups_has_use_for_a_gpu_where_it_starts_vllm() -> None:
    assert policy_of().computes()
    assert not policy_of("placement.processes=2").computes()
    assert policy_of("placement.processes=2", "rollout=vllm").computes()


def test_options_map_roles_to_groups() -> None:
    assert shapes("placement.processes=2") == {"all": (2, 1.0)}
    split = shapes("placement=split", "placement.processes=2", "placement.cpus=0.5")
    assert split == {
        "policy": (2, 0.5),
        "ref_policy": (1, 0.5),
        "critic": (2, 0.5),
        "reward_model": (1, 0.5),
        "engine": (1, 0.5),
    }
    own = shapes("placement=custom", "placement.processes=2", "placement.ref_policy.cpus=0.25",
                 "placement.reward_model.cpus=0.25")  # fmt: skip
    assert own == {"policy": (2, 1.0), "frozen": (1, 0.25), "critic": (1, 1.0)}


def test_only_roles_that_take_part_get_processes() -> None:
    assert "critic" not in shapes("placement=split", "align=rloo")
    assert "engine" not in shapes("placement=split", "rollout=vllm")


def test_backends_follow_from_what_is_asked_for() -> None:
    """Mutation: `_backend` with its cases the other way round."""
    ddp = policy_of("placement.processes=2").placement
    assert ddp.of("policy").backend is ddp.of("critic").backend is BackendKind.ddp
    zero = policy_of("placement.processes=2", "deepspeed=zero3", "placement.critic.backend=fsdp2")
    assert zero.placement.of("policy").backend is BackendKind.deepspeed
    assert zero.placement.of("critic").backend is BackendKind.fsdp2
    assert zero.placement.deepspeed["zero_optimization"]["stage"] == 3
    assert len(policy_of("deepspeed=zero2_offload").worker_groups()) == 1  # of one process


@pytest.mark.parametrize(
    ("overrides", "shared"),
    [
        ([], True),
        (["placement.processes=2"], True),
        (["placement.processes=2", "deepspeed=zero2"], True),
        (["placement.processes=2", "deepspeed=zero3"], False),
        (["placement.processes=2", "placement.backend=fsdp2"], False),
        (["placement=split", "placement.processes=2"], False),
        (["placement=custom", "placement.processes=2"], True),
    ],
)
def test_the_engine_shares_whole_weights_in_its_own_group(
    overrides: list[str], shared: bool
) -> None:
    assert policy_of(*overrides).placement.engine_shares_weights == shared


@pytest.mark.parametrize(
    ("overrides", "what", "do"),
    [
        (["placement.processes=3"], "minibatch_size must be a multiple", " placement.processes=2"),
        (
            ["placement.processes=2", "align.ptx_ratio=0.1"],
            "documents of a step",
            "ptx_ratio=0.125",
        ),
        (
            ["placement.processes=3", "align.rollout_batch_size=96"],
            "minibatch_size must be a multiple",
            "minibatch_size=24",
        ),
        (["placement.processes=2", "placement.backend=none"], "without a backend", "ddp"),
        (["placement.engine.backend=ddp"], "has no effect", "leave it out"),
        (["placement.processes=0"], "less than nothing", "1 process"),
        (["placement.critic.processes=2"], "do not agree", "a group of its own"),
        (["+placement.deepspeed.zero_optimization.stage=0"], "no stage of ZeRO", "zero1"),
        (["deepspeed=zero2", "+placement.deepspeed.bf16.enabled=true"], "bf16", "leave it out"),
        (["placement.processes=2", "executor=local"], "executor=local", "executor=ray"),
        (
            ["reward_model.placement.processes=2", "executor=local"],
            "executor=local",
            "executor=ray",
        ),
        (
            ["reward_model.placement.processes=3"],
            "reward_model.batch_size must be a multiple",
            "reward_model.batch_size=9",
        ),
        (["reward_model.placement.processes=0"], "reward_model.placement.processes must be", "1"),
        (["reward_model.early_stopping.patience=3"], "validate_every", "patience=3"),
        (
            ["peft=lora", "reward_model.placement.backend=fsdp2"],
            "adapters of the reward model cannot be trained with fsdp2",
            "not tested",
        ),
        (
            ["reward_model.placement.backend=fsdp2", "reward_model.encoding=shared"],
            "encoding=shared needs whole weights",
            "auto",
        ),
        (["peft=lora", "reward_model.start=base"], "start=base has no adapter", "start=sft"),
        (["placement.process=2"], "process", "placement.processes"),
    ],
)
def test_impossible_combinations_are_refused_with_what_to_do(
    overrides: list[str], what: str, do: str
) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # Hydra's own for a mistyped key
        compose(overrides)
    if isinstance(caught.value, FaultsError):
        assert what in str(caught.value)
        assert do in str(caught.value)
    assert what in str(caught.value)


def test_placement_counts_as_a_part_of_what_it_places() -> None:
    plain = run_id(compose([]))
    assert run_id(compose(["placement.processes=2"])) != plain
    assert run_id(compose(["placement.cpus=0.5", "placement.call_s=5"])) == plain
    alone = "reward_model.placement.processes=1"
    dpo = run_id(compose(["align=dpo"]))
    assert run_id(compose(["align=dpo", "placement.processes=2", alone])) == dpo
    assert run_id(compose(["align=dpo", "placement.processes=2"])) != dpo


def test_the_reward_model_follows_and_may_have_its_own() -> None:
    """Mutation: the number of processes left at the dataclass's default."""
    follows = compose(["placement.processes=2", "deepspeed=zero2", "placement.cpus=0.5"])
    assert follows.reward_model.placement.kind is BackendKind.deepspeed
    (shape,) = follows.reward_model.worker_groups()
    assert (shape.name, shape.processes, shape.cpus) == ("reward_model/0", 2, 0.5)
    rows = {row.name: row for row in batch_arithmetic(follows)["reward_model"]}
    assert rows["processes"].how == "reward_model/0, backend deepspeed"
    assert rows["prompts a process"].value == 4
    own = compose(["placement.processes=2", "reward_model.placement.processes=1"])
    assert own.reward_model.worker_groups() == []
    assert own.reward_model.placement.kind is BackendKind.none


def test_the_table_tells_what_a_process_does() -> None:
    """32 sequences and 16 documents a step over two; 128 tokens each, 8,192 a forward."""
    rows = batch_arithmetic(compose(["placement.processes=2", "placement.critic.backend=fsdp2"]))
    found = {row.name: (row.value, row.how) for row in rows["policy"]}
    assert found["policy: processes"] == (2, "ppo/all, backend ddp")
    assert found["critic: processes"] == (2, "ppo/all, backend fsdp2")
    assert found["policy: sequences a process"][0] == 16
    assert found["policy: micro-batches at most"][0] == 1
    assert found["policy: documents a process"][0] == 8
    assert found["ppo/all"] == (
        2,
        "processes of 1 CPU, 0 GPU: policy, ref_policy, critic, reward_model, engine",
    )


def test_too_large_a_placement_is_refused_with_what_would_fit() -> None:
    """Nine processes of half a CPU on two; of a cluster that is joined nothing is known yet."""
    overrides = ["placement=split", "placement.processes=3", "placement.cpus=0.5"]
    config = policy_of(*overrides, "align.minibatch_size=48", "align.rollout_batch_size=96",
                       "align.ptx_ratio=1", "reward_model.batch_size=9")  # fmt: skip
    (fault,) = cluster_faults(ClusterConfig(num_cpus=2), config.worker_groups())
    assert fault.got == "4.5 CPU needed, 2 there"
    assert "placement.cpus=0.22" in fault.do
    assert cluster_faults(ClusterConfig(num_cpus=5), config.worker_groups()) == []
    assert cluster_faults(ClusterConfig(address="auto"), config.worker_groups()) == []
    gpus = policy_of("placement.processes=2", "placement.gpus=1").worker_groups()
    assert too_little(gpus, {"CPU": 2.0, "GPU": 1.0}) is not None
