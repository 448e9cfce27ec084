"""Worker groups on Ray: named actors in a placement group, one process group for their life.

The driver makes and ends them: an actor made by a stage's task would die with it. A task gets the
handles. Every call has a deadline. When a rank dies, fails or is late, the error says which one and
why, and the group is of no more use: its other ranks may wait for that one for ever.
"""

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from stages.contracts import GroupShape, UserError, WorkerError
from stages.lm.optimisation import NonFiniteError
from stages.lm.rank import Rank

GIB = 2**30
LOG_LINES = 15
MEMORY_EVERY_S = 1.0
STACK_S = 10.0  # how long a late rank may take to say what it is doing
DYING_S = 5.0  # how long Ray may take to know that a rank is dead, after another lost touch with it
THEIRS = (UserError, NonFiniteError)  # errors that say all there is to say


class RankActor(Rank):
    """A rank as a Ray actor. What it and its libraries print goes to a file."""

    def __init__(self, name: str, log: Path) -> None:
        super().__init__()
        self.name = name
        log.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        faulthandler.enable()  # a crash leaves its signal and stack in the log
        threading.Thread(target=_note_memory, args=[memory_file(log)], daemon=True).start()

    def __repr__(self) -> str:
        return self.name

    def host(self) -> str:
        """The address at which the other ranks reach this one."""
        address: str = ray.util.get_node_ip_address()
        return address

    @ray.method(concurrency_group="watch")  # type: ignore[untyped-decorator]
    def stack(self) -> str:
        """Answered while a call is under way."""
        return super().stack()


class RayGroup:
    """A `WorkerGroup` of actors; it travels to the task that drives it."""

    def __init__(self, shape: GroupShape, names: list[str], actors: list[Any], logs: list[Path]):
        self.shape, self.names, self.actors, self.logs = shape, names, actors, logs
        self._joined, self._asking = False, threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return RayGroup, (self.shape, self.names, self.actors, self.logs)

    def build(self, factory: Callable[..., Mapping[str, object]], *arguments: Any) -> None:
        """Wait until all ranks are there and have met, then make the parts."""
        self._join()
        given = [(factory, *arguments)] * len(self.actors)
        self._all("build", given, f"build {factory.__name__}", self.shape.start_s)

    def _join(self) -> None:
        """Once: the process group lasts as long as the actors."""
        if self._joined:
            return
        first, deadline_s = self.actors[:1], self.shape.start_s
        (host,) = self._all("host", [()], "start", deadline_s, first)
        (port,) = self._all("open", [(host, len(self.actors))], "start", deadline_s, first)
        ranks = range(len(self.actors))
        given = [(rank, self.shape, host, port) for rank in ranks]
        self._all("join", given, "meeting the other ranks", deadline_s)
        self._joined = True

    def call(self, part: str, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Results by rank."""
        given = [(part, method, *own) for own in arguments]
        return self._all("call", given, f"{part}.{method}", self.shape.call_s)

    def call_for_first(self, part: str, method: str, *arguments: Any) -> Any:
        """The first rank's result."""
        given = [(part, method, *arguments)] * len(self.actors)
        return self._all("call_for_first", given, f"{part}.{method}", self.shape.call_s)[0]

    def _all(
        self,
        method: str,
        arguments: Sequence[tuple[Any, ...]],
        phase: str,
        deadline_s: float,
        actors: Sequence[Any] | None = None,
    ) -> list[Any]:
        """Ask the ranks; take answers as they come, so that a failure shows at once."""
        asked: dict[Any, int] = {}
        arguments = stored_once(arguments)
        with self._asking:  # another thread's call must not come first on some ranks only
            for rank, (actor, own) in enumerate(zip(actors or self.actors, arguments, strict=True)):
                named = getattr(actor, method).options(name=f"{self.names[rank]}.{phase}")
                asked[named.remote(*own)] = rank
        answers: dict[int, Any] = {}
        end = time.monotonic() + deadline_s
        while asked:
            done, _ = ray.wait(list(asked), timeout=max(0.0, end - time.monotonic()))
            if not done:
                raise self._late(sorted(asked.values()), phase, deadline_s)
            for reference in done:
                rank = asked.pop(reference)
                answers[rank] = self._answer(reference, rank, phase, asked)
        return [answers[rank] for rank in sorted(answers)]

    def _answer(self, reference: Any, rank: int, phase: str, others: Mapping[Any, int]) -> Any:
        try:
            return ray.get(reference)
        except RayActorError as error:
            raise self._dead(rank, phase, error) from None
        except RayTaskError as error:
            if isinstance(error.cause, THEIRS):
                raise error.cause from None
            self._blame_the_dead(others, phase)  # the first to fail may only have lost its peer
            said = f"{type(error.cause).__name__}: {error.cause}"
            raise WorkerError(f"{self.names[rank]} failed in {phase}: {said}") from error

    def _blame_the_dead(self, others: Mapping[Any, int], phase: str) -> None:
        done, _ = ray.wait(list(others), timeout=DYING_S) if others else ([], [])
        for reference in done:
            try:
                ray.get(reference)
            except RayActorError as error:
                raise self._dead(others[reference], phase, error) from None
            except RayError:
                continue

    def _dead(self, rank: int, phase: str, error: RayActorError) -> WorkerError:
        log = self.logs[rank]
        known = [*str(error).strip().splitlines(), last_memory(log), *last_lines(log)]
        told = "\n  ".join(known)
        return WorkerError(f"{self.names[rank]} died in {phase}\n  {told}")

    def _late(self, ranks: list[int], phase: str, deadline_s: float) -> WorkerError:
        stacks = "\n".join(f"{self.names[rank]} is here:\n{self._stack(rank)}" for rank in ranks)
        names = ", ".join(self.names[rank] for rank in ranks)
        return WorkerError(f"{names}: no answer to {phase} in {deadline_s:g} s\n{stacks}")

    def _stack(self, rank: int) -> str:
        try:
            stack: str = ray.get(self.actors[rank].stack.remote(), timeout=STACK_S)
        except (GetTimeoutError, RayError) as error:
            return f"  it does not say ({type(error).__name__})"
        return stack


def stored_once(arguments: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Weights that every rank is given are serialised once, not once a rank."""
    if len(arguments) == 1:
        return list(arguments)
    weights = {id(value): ray.put(value) for value in arguments[0] if isinstance(value, dict)}
    return [tuple(weights.get(id(value), value) for value in own) for own in arguments]


def _note_memory(path: Path) -> None:
    """Keep the process's memory in a file that survives it.

    The file stays open: opened anew each time, it would come back into a folder being removed.
    """
    process = psutil.Process()
    with path.open("w") as file:
        while True:
            used, free = process.memory_info().rss, psutil.virtual_memory().available
            told = f"{used / GIB:.2f} GiB used, {free / GIB:.2f} GiB free on the node"
            file.seek(0)
            file.write(f"{told}, at {time.strftime('%H:%M:%S')}")
            file.truncate()
            file.flush()
            time.sleep(MEMORY_EVERY_S)


def memory_file(log: Path) -> Path:
    """Beside a rank's log."""
    return log.with_suffix(".memory")


def last_memory(log: Path) -> str:
    """What a rank had noted before it died; without a crash in its log, SIGKILL is what is left."""
    path = memory_file(log)
    noted = path.read_text() if path.exists() else "not noted yet"
    return f"memory: {noted} (a signal other than SIGKILL leaves its name and a stack in the log)"


def last_lines(log: Path) -> list[str]:
    """The end of a rank's log, and where the rest is."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return [f"last lines of {log}:", *(f"  {line}" for line in lines[-LOG_LINES:])]


class Groups:
    """The worker groups of one try of a stage, on the driver."""

    def __init__(self, shapes: Sequence[GroupShape], attempt: int, folder: Path):
        """folder: for the ranks' logs, seen from every node."""
        self._placements: list[PlacementGroup] = []
        self.handles = {shape.name: self._start(shape, attempt, folder) for shape in shapes}

    def _start(self, shape: GroupShape, attempt: int, folder: Path) -> RayGroup:
        """Ask for the actors; Ray starts them when there is room, nobody waits here."""
        bundle = {"CPU": shape.cpus, **({"GPU": shape.gpus} if shape.gpus else {})}
        placed = placement_group([bundle] * shape.processes, strategy="PACK")
        self._placements.append(placed)
        retry = f" try {attempt + 1}" if attempt else ""
        names = [f"{shape.name}[{rank}]{retry}" for rank in range(shape.processes)]
        logs = [folder / f"{shape.name}_{rank}.txt" for rank in range(shape.processes)]
        made = ray.remote(concurrency_groups={"watch": 1})(RankActor)
        actors = [
            made.options(
                name=name,
                num_cpus=shape.cpus,
                num_gpus=shape.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement_group=placed, placement_group_bundle_index=rank
                ),
            ).remote(name, log)
            for rank, (name, log) in enumerate(zip(names, logs, strict=True))
        ]
        return RayGroup(shape, names, actors, logs)

    def end(self) -> None:
        """Kill all ranks and give their places back."""
        for group in self.handles.values():
            for actor in group.actors:
                with suppress(RayError):
                    ray.kill(actor)
        for placed in self._placements:
            remove_placement_group(placed)
