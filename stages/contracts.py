"""What every stage is given and gives back; the one error a user sees.

A stage is a function

    run(config, *, <upstream asset>: Path, ..., out: Path, context: Context) -> Report

Its keyword names are its upstream assets, its config is one dataclass, it reads only its inputs and
writes only into `out`. It can be called from a notebook or a test: it does not know what runs it.
"""

import difflib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol


class UserError(Exception):
    """A mistake the user can mend: what is wrong, what was found, what to do."""

    def __init__(self, what: str, got: str = "", do: str = "") -> None:
        super().__init__(what, got, do)  # all arguments, so that it survives pickling through Ray
        self.what, self.got, self.do = what, got, do

    def __str__(self) -> str:
        lines = [self.what]
        lines += [f"  got: {self.got}"] if self.got else []
        lines += [f"  do:  {self.do}"] if self.do else []
        return "\n".join(lines)


def nearest(name: str, valid: Iterable[str]) -> str:
    """What the user may have meant: the nearest valid name, or all of them where none is near."""
    names = sorted(set(valid))
    if close := closest(name, names):
        return f"did you mean {close}?"
    return f"one of {', '.join(names)}" if names else "leave it out"


def closest(name: str, valid: Iterable[str]) -> str | None:
    """The nearest valid name, if one is near."""
    return next(iter(difflib.get_close_matches(name, sorted(set(valid)), n=1, cutoff=0.6)), None)


class InterruptedRunError(Exception):
    """The stage was asked to stop; its checkpoint is written and the next run continues from it."""


def no_effect(default: Any) -> Any:
    """A config field that cannot change the result, so it stays out of the fingerprint."""
    return field(default=default, metadata={"affects_result": False})


def external_input(default: Any) -> Any:
    """A config field that names a file or folder: its content counts, not its name."""
    return field(default=default, metadata={"external": True})


# Of a config field whose keys are `module.name`: the modules' source counts beside the values.
EXTERNAL_CODE = {"external_code": True}


class GoldKind(StrEnum):
    """A known true reward: logged and judged by, never trained on."""

    none = "none"
    world = "world"


@dataclass(kw_only=True)
class StageConfig:
    """What every stage's config has. `threads` changes the order of sums, hence the result."""

    seed: int = 0
    threads: int = 1

    def cautions(self) -> list[str]:
        """What the user should know of settings that are allowed and seldom wise."""
        return []

    def versions(self) -> dict[str, str]:
        """What the result depends on beside the config, its files and imported code, by name."""
        return {}

    def modules(self) -> list[str]:
        """Modules that the stage imports by a name in its config; their code counts as well."""
        return []

    def worker_groups(self) -> "list[GroupShape]":
        """The processes that the stage wants beside its own."""
        return []

    def computes(self) -> bool:
        """Whether the stage's own process, or one that it starts itself, has use for a GPU."""
        return not self.worker_groups()


@dataclass(frozen=True, kw_only=True)
class GroupShape:
    """Processes that work as one; cpus and gpus are those of each, seconds are deadlines."""

    name: str
    processes: int
    cpus: float
    gpus: float = 0.0
    start_s: float = 600.0  # of making the group
    call_s: float = 3600.0  # of a call


class WorkerGroup(Protocol):
    """Processes that hold the same parts and are called together; they outlive a failed call.

    Raises in every method:
        WorkerError: a process died, failed or was late; the whole group is then of no more use.
    """

    shape: GroupShape

    def build(self, factory: Callable[..., Mapping[str, object]], *arguments: Any) -> None:
        """Make the parts on every rank, the same way."""

    def call(self, part: str, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a method of a part on all ranks, each with its own arguments; results by rank."""

    def call_for_first(self, part: str, method: str, *arguments: Any) -> Any:
        """Call it on all ranks with the same arguments; only the first rank's result is sent."""


class WorkerError(RuntimeError):
    """A process of a worker group failed: which, in what, and all that is known of it."""


def check_positive(config: object, *names: str) -> None:
    """Refuse a value that is not above zero; the error names the key."""
    for name in names:
        value = getattr(config, name)
        if not value > 0:
            raise UserError(f"{name} must be positive", got=str(value), do=f"set {name} above 0")


def check_not_negative(config: object, *names: str) -> None:
    """Refuse a value below zero; the error names the key."""
    for name in names:
        value = getattr(config, name)
        if not value >= 0:
            raise UserError(
                f"{name} must not be negative", got=str(value), do=f"set {name} to 0 or more"
            )


def check_share(config: object, *names: str) -> None:
    """Refuse a value outside [0, 1]; the error names the key."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value <= 1:
            raise UserError(f"{name} must lie in [0, 1]", got=str(value), do=f"mend {name}")


def check_divides(config: StageConfig, part: str, whole: str) -> None:
    """Refuse a `part` that does not divide `whole`; the error names the nearest that does."""
    number, total = getattr(config, part), getattr(config, whole)
    if total % number:
        raise UserError(
            f"{part} must divide {whole}",
            got=f"{total} in parts of {number}",
            do=f"the nearest that does: {part}={nearest_divisor(total, number)}",
        )


def check_truncation(top_k: int, top_p: float) -> None:
    """Refuse a truncation of sampling that no token would pass."""
    if top_k < 0:
        raise UserError("top_k must not be negative", got=str(top_k), do="0 keeps all tokens")
    if not 0 < top_p <= 1:
        raise UserError("top_p must lie in (0, 1]", got=str(top_p), do="1 keeps all tokens")


def nearest_divisor(whole: int, wanted: int) -> int:
    """The divisor of `whole` closest to `wanted`; the smaller of two equally close."""
    divisors = [number for number in range(1, whole + 1) if whole % number == 0]
    return min(divisors, key=lambda divisor: (abs(divisor - wanted), divisor))


@dataclass(kw_only=True)
class Report:
    """What a stage says of its result.

    metrics: final figures by dotted name. contract: what the next stage must be able to rely on
    (tokenizer_sha256, chat_template_sha256, eos_token_id, pad_token_id, max_length, ...).
    """

    metrics: dict[str, float] = field(default_factory=dict)
    contract: dict[str, Any] = field(default_factory=dict)


class Journal:
    """The files through which a running stage tells the driver how it goes.

    `metrics.jsonl`: one line a logged step; `tables.jsonl`: rows to look at; `progress.json`: the
    latest state of the bar. Lines are appended whole, so a reader never sees half a record.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._metrics = folder / "metrics.jsonl"
        self._tables = folder / "tables.jsonl"
        self._progress = folder / "progress.json"
        self._total, self._unit, self._shown = 0, "steps", 0.0

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append the figures of one step; names are `group/name` as defined in docs/metrics.md."""
        record = {"step": step, "time": time.time(), "values": dict(values)}
        self._append(self._metrics, record)

    def table(self, step: int, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows a person looks at (sampled responses, for one)."""
        self._append(self._tables, {"step": step, "name": name, "rows": [dict(r) for r in rows]})

    def rewind(self, step: int) -> None:
        """Drop what was logged after `step`: a resumed stage writes those steps again."""
        for path in (self._metrics, self._tables):
            if not path.exists():
                continue
            kept = [r for r in _complete_lines(path) if json.loads(r)["step"] <= step]
            scratch = path.with_suffix(".tmp")
            scratch.write_text("".join(kept))
            os.replace(scratch, path)

    def start(self, total: int, unit: str = "steps") -> None:
        """Open the progress bar: `total` units of work."""
        self._total, self._unit = total, unit
        self._write_progress(0, {})

    def advance(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        """Move the bar to `done` and show these figures beside it; cheap enough for every step."""
        if done >= self._total or time.time() - self._shown > 0.2:
            self._write_progress(done, dict(figures or {}))

    def _write_progress(self, done: int, figures: dict[str, float]) -> None:
        self._shown = time.time()
        state = {"done": done, "total": self._total, "unit": self._unit, "figures": figures}
        scratch = self._progress.with_suffix(".tmp")
        scratch.write_text(json.dumps(state))
        os.replace(scratch, self._progress)

    @staticmethod
    def _append(path: Path, record: Mapping[str, Any]) -> None:
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def _complete_lines(path: Path) -> list[str]:
    """A killed writer may leave half a last line; it is not a record."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


@dataclass(kw_only=True)
class Context:
    """Where a stage keeps its checkpoints, what it tells the driver, and when it should stop.

    checkpoints: a folder that outlives a killed try of this same stage.
    should_stop: true after SIGTERM or past the wall-time limit; the stage then writes a checkpoint
    and raises InterruptedRunError.
    workers: the groups that the config asked for, by name. cache: what can be made again and is
    shared by stages and runs, under names that follow from its content; None: beside checkpoints.
    """

    checkpoints: Path
    journal: Journal
    cache: Path | None = None
    should_stop: Callable[[], bool] = lambda: False
    workers: Mapping[str, WorkerGroup] = field(default_factory=dict)

    @classmethod
    def at(cls, folder: Path) -> "Context":
        """A context with everything under one folder, for notebooks and tests."""
        checkpoints = folder / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        return cls(checkpoints=checkpoints, journal=Journal(folder), cache=folder / "cache")
