"""Which role of PPO lives in which worker group, on how many processes, and how it trains there.

One group of one process without a backend is the stage's own process. No torch here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import gcd
from typing import Any

from stages.contracts import GroupShape, UserError, nearest_divisor, no_effect
from stages.lm.backends.config import BackendKind
from stages.lm.placement import backend_of, check_deepspeed, splits_weights

TRAINED = ("policy", "critic")


@dataclass(kw_only=True)
class RolePlacement:
    """Where a role lives. Null: as `placement` says for all; `backend` only where it is trained."""

    group: str = "all"
    processes: int | None = None
    cpus: float | None = no_effect(None)
    gpus: float | None = None
    backend: BackendKind | None = None


@dataclass(kw_only=True)
class PlacementConfig:
    """Roles to worker groups; roles of one group share its processes.

    processes, cpus, gpus: of a group, and of each of its processes. backend: null is `deepspeed`
    where `deepspeed=` chose settings, else `ddp` on more than one process, else `none`. deepspeed:
    DeepSpeed's own keys. start_s, call_s: deadlines of making a group and of a call.
    """

    processes: int = 1
    cpus: float = no_effect(1.0)
    gpus: float = 0.0
    backend: BackendKind | None = None
    deepspeed: dict[str, Any] = field(default_factory=dict)
    policy: RolePlacement = field(default_factory=RolePlacement)
    ref_policy: RolePlacement = field(default_factory=RolePlacement)
    critic: RolePlacement = field(default_factory=RolePlacement)
    reward_model: RolePlacement = field(default_factory=RolePlacement)
    engine: RolePlacement = field(default_factory=RolePlacement)
    start_s: float = no_effect(600.0)
    call_s: float = no_effect(3600.0)

    def __post_init__(self) -> None:
        check_deepspeed(self.deepspeed)
        for name in ROLES:
            _check_role(name, self.of(name))

    def of(self, role: str) -> RolePlacement:
        """Where a role lives, nothing null but the backend of a role that is not trained."""
        own: RolePlacement = getattr(self, role)
        processes = self.processes if own.processes is None else own.processes
        return replace(
            own,
            processes=processes,
            cpus=self.cpus if own.cpus is None else own.cpus,
            gpus=self.gpus if own.gpus is None else own.gpus,
            backend=own.backend or (self._backend(processes) if role in TRAINED else None),
        )

    def key(self, role: str) -> str:
        """Where the number of its processes was said."""
        own: RolePlacement = getattr(self, role)
        return f"placement.{'' if own.processes is None else f'{role}.'}processes"

    def _backend(self, processes: int) -> BackendKind:
        return backend_of(self.backend, self.deepspeed, processes)

    def groups(self, roles: Iterable[str]) -> list[GroupShape]:
        """The worker groups of these roles; none where the stage's own process does.

        Raises:
            UserError: roles of one group that do not agree on its processes.
        """
        shapes: dict[str, GroupShape] = {}
        for role in roles:
            shape = self._shape(self.of(role))
            if shapes.setdefault(shape.name, shape) != shape:
                raise UserError(
                    f"the roles of the group {shape.name} do not agree on its processes",
                    got=f"{role} wants {_told(shape)}, others {_told(shapes[shape.name])}",
                    do=f"give placement.{role} a group of its own, or the same numbers",
                )
        return [] if self._is_own_process(shapes, roles) else list(shapes.values())

    def _shape(self, own: RolePlacement) -> GroupShape:
        assert own.processes is not None
        assert own.cpus is not None
        assert own.gpus is not None
        return GroupShape(
            name=group_name(own),
            processes=own.processes,
            cpus=own.cpus,
            gpus=own.gpus,
            start_s=self.start_s,
            call_s=self.call_s,
        )

    def _is_own_process(self, shapes: Mapping[str, GroupShape], roles: Iterable[str]) -> bool:
        plain = all(shape.processes == 1 and shape.gpus == 0 for shape in shapes.values())
        backends = {self.of(role).backend for role in roles} - {None}
        return len(shapes) == 1 and plain and backends <= {BackendKind.none}

    @property
    def engine_shares_weights(self) -> bool:
        """Whether the engine samples with the policy's own module: nothing has to be sent."""
        policy = self.of("policy")
        assert policy.backend is not None
        splits = splits_weights(policy.backend, self.deepspeed)
        return policy.group == self.engine.group and not splits


def group_name(own: RolePlacement) -> str:
    """What the group is called beside those of other stages."""
    return "ppo/" + own.group


ROLES = ("policy", "ref_policy", "critic", "reward_model", "engine")


def check_ranks(
    placement: PlacementConfig,
    roles: Iterable[str],
    *,
    rollout_batch_size: int,
    minibatch_size: int,
    num_documents: int,
) -> None:
    """Refuse a step that does not come out even over the processes that train.

    Raises:
        UserError: with the nearest numbers that do.
    """
    placement.groups(roles)
    for role in TRAINED:
        ranks = placement.of(role).processes
        assert ranks is not None
        if minibatch_size % ranks:
            raise UserError(
                f"minibatch_size must be a multiple of the processes that train the {role}",
                got=f"{minibatch_size} over {ranks} processes",
                do=f"{placement.key(role)}={nearest_divisor(minibatch_size, ranks)}"
                + _minibatch_that_fits(rollout_batch_size, ranks, minibatch_size),
            )
        if role == "policy" and num_documents % ranks:
            even = max(1, round(num_documents / ranks)) * ranks
            fits = nearest_divisor(gcd(num_documents, minibatch_size), ranks)
            raise UserError(
                "the documents of a step must be a multiple of the processes that train the policy",
                got=f"{num_documents} (ptx_ratio * minibatch_size) over {ranks} processes",
                do=f"ptx_ratio={even / minibatch_size:g}, or {placement.key(role)}={fits}",
            )


def _minibatch_that_fits(whole: int, ranks: int, wanted: int) -> str:
    """A minibatch must divide the rollout batch as well."""
    if whole % ranks:
        return f" (rollout_batch_size={whole} has no part that {ranks} processes share evenly)"
    return f", or minibatch_size={ranks * nearest_divisor(whole // ranks, round(wanted / ranks))}"


def _check_role(name: str, own: RolePlacement) -> None:
    key = f"placement.{name}"
    assert own.processes is not None
    assert own.cpus is not None
    assert own.gpus is not None
    if own.processes < 1 or own.cpus < 0 or own.gpus < 0:
        raise UserError(
            f"{key} asks for less than nothing", got=_told_role(own), do="1 process or more"
        )
    if name not in TRAINED and own.backend is not None:
        raise UserError(
            f"{key}.backend has no effect: {name} is not trained",
            got=own.backend.value,
            do=f"leave it out; backends are of {' and '.join(TRAINED)}",
        )
    if own.processes > 1 and own.backend is BackendKind.none:
        raise UserError(
            f"{name} cannot train on {own.processes} processes without a backend",
            got=f"{key}.processes={own.processes}, backend=none",
            do="placement.backend=ddp or fsdp2, deepspeed=zero2, or placement.processes=1",
        )


def _told(shape: GroupShape) -> str:
    return f"{shape.processes} x ({shape.cpus:g} CPU, {shape.gpus:g} GPU)"


def _told_role(own: RolePlacement) -> str:
    return f"processes={own.processes}, cpus={own.cpus}, gpus={own.gpus}"
