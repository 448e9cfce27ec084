"""Start a Ray cluster on this machine, or join one: behind a token, its pages on the loopback."""

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import ClusterConfig
from stages.contracts import GroupShape, UserError

LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 128 * 2**20  # tasks exchange folder names; the results lie on disk


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster this process is connected to. dashboard: its address, None without one."""

    num_cpus: int
    dashboard: str | None


def start_cluster(config: ClusterConfig) -> Cluster:
    """Join the cluster at `config.address`, or start one that ends with this process.

    Raises:
        UserError: there is no cluster at the address, or it refuses our token.
    """
    set_environment()
    import ray

    options = _own(config) if config.address is None else {"address": config.address}
    try:
        context = ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"Ray cannot be {'started' if config.address is None else 'joined'}",
            got=str(error).strip().splitlines()[0],
            do="mend cluster.address or RAY_AUTH_TOKEN, or run without Ray: executor=local",
        ) from error
    url = context.dashboard_url
    return Cluster(
        num_cpus=max(1, int(ray.cluster_resources().get("CPU", 1))),
        dashboard=f"http://{url}" if url else None,
    )


def cluster_faults(config: ClusterConfig, shapes: Sequence[GroupShape]) -> list[UserError]:
    """What the cluster has too little of; nothing is known before one is joined."""
    if config.address is not None:
        return []
    fault = too_little(shapes, {"CPU": _cpus(config)})
    return [fault] if fault else []


def too_little(shapes: Sequence[GroupShape], there: Mapping[str, float]) -> UserError | None:
    """What there is too little of for these worker groups, which all exist at once."""
    processes = sum(shape.processes for shape in shapes)
    needs = {
        "CPU": sum(shape.processes * shape.cpus for shape in shapes),
        "GPU": sum(shape.processes * shape.gpus for shape in shapes),
    }
    short = {kind: has for kind, has in there.items() if needs.get(kind, 0.0) > has}
    if not short:
        return None
    return UserError(
        "the cluster has too little for the worker groups of placement",
        got=", ".join(
            f"{needs[kind]:g} {kind} needed, {has:g} there" for kind, has in short.items()
        ),
        do="fewer processes, or less for each of the "
        f"{processes}: "
        + ", ".join(f"placement.{k.lower()}s={has / processes:.2g}" for k, has in short.items()),
    )


def no_gpu(wanted: float, there: float) -> UserError | None:
    """A stage that wants more of them than the cluster has: Ray would let it wait for ever."""
    if wanted <= there:
        return None
    return UserError(
        "the cluster has too few GPUs for a stage's process",
        got=f"executor.gpus={wanted:g}, {there:g} there",
        do="executor.gpus=0, or join a cluster that has them: cluster.address",
    )


def stop_cluster() -> None:
    """Leave the cluster; one that was started here ends."""
    import ray

    ray.shutdown()


def how_to_log_in(cluster: Cluster) -> str:
    """One line about the dashboard; the token itself is never shown, it would end up in a log."""
    if cluster.dashboard is None:
        return ""
    return f"Ray dashboard {cluster.dashboard} (its token: run `ray get-auth-token`)"


def token_file() -> Path:
    """Where Ray keeps the token that opens clusters started by this user."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(named) if named else Path.home() / ".ray" / "auth_token"


def set_environment() -> None:
    """What Ray reads when it starts: no statistics leave the machine, the token is private."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    token = token_file()
    if not token.exists():  # Ray would write it readable for everybody
        token.parent.mkdir(parents=True, exist_ok=True)
        token.touch(mode=0o600)


def _own(config: ClusterConfig) -> dict[str, Any]:
    """Options of a cluster started here; `local`: not one that already runs on this machine."""
    return {
        "address": "local",
        "num_cpus": _cpus(config),
        "include_dashboard": config.dashboard,
        "dashboard_host": LOOPBACK,
        "dashboard_port": config.dashboard_port if _is_free(config.dashboard_port) else None,
        "object_store_memory": OBJECT_STORE_BYTES,
    }


def _cpus(config: ClusterConfig) -> int:
    """Of a cluster started here."""
    return config.num_cpus or len(os.sched_getaffinity(0))


def _is_free(port: int) -> bool:
    """Whether the dashboard can have this port; otherwise Ray looks for one itself."""
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) != 0
