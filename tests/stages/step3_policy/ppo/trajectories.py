"""Runs of PPO-ptx to compare: the same config on other processes, replayed or sampling freely."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from stages.contracts import Context, WorkerGroup
from stages.lm.loading import load_tokenizer
from stages.lm.rollout import Rollouts, Sampling
from stages.step3_policy.ppo.config import PpoConfig
from stages.step3_policy.ppo.data import load_data
from stages.step3_policy.ppo.loading import load_roles
from stages.step3_policy.ppo.loop import PpoLoop
from stages.step3_policy.ppo.placement import PlacementConfig, RolePlacement
from tests.stages.lm.backends.trainee import KINDS
from tests.stages.step3_policy.ppo.small_ppo import folders_of, small_config
from tests.stages.worker_processes import ProcessGroup

ITERATIONS = 10
ONE_FORWARD, FOUR_FORWARDS = 1024, 24  # of 4 rows of at most 24 tokens
SPLIT = ("policy", "ref_policy", "critic", "reward_model", "engine")


def config_of(placement: PlacementConfig, microbatch_tokens: int, **changes: Any) -> PpoConfig:
    """Two minibatches of eight, so that each of two ranks has four rows."""
    values = {
        "iterations": ITERATIONS,
        "rollout_batch_size": 16,
        "minibatch_size": 8,
        "placement": placement,
        "microbatch_tokens": microbatch_tokens,
        "policy_lr": 1e-3,
        "critic_lr": 1e-3,
    }
    return small_config(**(values | changes))


def placed(processes: int, kind: str, *, split: bool) -> PlacementConfig:
    """All roles in one group, or each in its own; reference and engine then have one process."""
    backend, deepspeed = KINDS[kind]
    groups: dict[str, Any] = {}
    if split:
        inferring = {"ref_policy": 1, "engine": 1}
        groups = {role: RolePlacement(group=role, processes=inferring.get(role)) for role in SPLIT}
    return PlacementConfig(processes=processes, backend=backend, deepspeed=deepspeed, **groups)


@dataclass
class Record:
    """Every response ever sampled, by its key; as an engine it gives them again."""

    responses: dict[int, tuple[list[int], list[float], bool]] = field(default_factory=dict)
    version: int = 0
    in_process: bool = True

    def add(self, keys: np.ndarray, rollouts: Rollouts) -> None:
        rows = zip(rollouts.tokens, rollouts.logprobs, rollouts.finished, strict=True)
        self.responses |= dict(zip(keys.tolist(), rows, strict=True))

    def load_weights(self, version: int, tensors: Iterable[tuple[str, Tensor]]) -> None:
        self.version = version

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, keys: np.ndarray
    ) -> Rollouts:
        tokens, logprobs, finished = zip(
            *[self.responses[key] for key in keys.tolist()], strict=True
        )
        return Rollouts(
            tokens=list(tokens),
            logprobs=list(logprobs),
            finished=list(finished),
            version=self.version,
        )


class Recorder:
    """An engine whose responses are written down."""

    def __init__(self, engine: Any, record: Record) -> None:
        self.engine, self.record, self.in_process = engine, record, engine.in_process

    @property
    def version(self) -> int:
        return self.engine.version

    def load_weights(self, version: int, tensors: Iterable[tuple[str, Tensor]]) -> None:
        self.engine.load_weights(version, tensors)

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, keys: np.ndarray
    ) -> Rollouts:
        rollouts = self.engine.generate(prompts, sampling, keys)
        self.record.add(keys, rollouts)
        return rollouts


@dataclass
class Trajectory:
    """After each iteration: the policy's weights, and the figures but for times."""

    weights: list[dict[str, Tensor]] = field(default_factory=list)
    figures: list[dict[str, float]] = field(default_factory=list)
    record: Record = field(default_factory=Record)
    average: dict[str, Tensor] = field(default_factory=dict)


def run(
    config: PpoConfig,
    inputs: Mapping[str, Path],
    folder: Path,
    *,
    workers: Mapping[str, WorkerGroup] | None = None,
    replay: Record | None = None,
    iterations: int = ITERATIONS,
) -> Trajectory:
    """Make the iterations, with responses sampled and written down, or from `replay`."""
    tokenizer = load_tokenizer(inputs["ppo_init"] / "model")
    roles, found = load_roles(config, folders_of(dict(inputs)), workers), Trajectory()
    roles.engine = replay or Recorder(roles.engine, found.record)
    context = Context.at(folder)
    data = load_data(config, tokenizer, inputs["prompts"], inputs["text"], context)
    loop = PpoLoop(roles=roles, data=data, config=config, context=context)
    for iteration in range(iterations):
        figures = loop.iterate(iteration, config.kl_coef)
        found.figures.append({k: v for k, v in figures.items() if not k.startswith("time/")})
        found.weights.append(roles.policy.weights())
    found.average = roles.policy.average_weights()
    return found


def distance(found: Trajectory, expected: Trajectory) -> float:
    """The largest difference of a weight of policy or average at any time."""
    pairs = zip([*found.weights, found.average], [*expected.weights, expected.average], strict=True)
    return max(float((a[name] - b[name]).abs().max()) for a, b in pairs for name in b)


def first_difference(found: Trajectory, expected: Trajectory) -> str:
    """The first token that `found` sampled otherwise; "" if there is none."""
    for place, (key, (others, _, _)) in enumerate(found.record.responses.items()):
        tokens = expected.record.responses[key][0]
        for position, (token, other) in enumerate(zip_longest(tokens, others)):
            if token != other:
                return f"response {place}, token {position}: {other}, not {token}"
    return ""


class Processes:
    """Worker groups of plain processes, made once for all tests that want the same."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, int], ProcessGroup] = {}

    def of(self, config: PpoConfig) -> dict[str, WorkerGroup]:
        shapes = config.worker_groups()
        for shape in shapes:
            key = (shape.name, shape.processes)
            if key not in self._made:
                self._made[key] = ProcessGroup(shape.processes, shape.name)
        return {shape.name: self._made[shape.name, shape.processes] for shape in shapes}

    def close(self) -> None:
        for group in self._made.values():
            group.close()
