"""The one way into a stage, the same in every executor and process.

Hold the lock on the work folder, set threads and seeds, check what is read, run, publish. Whatever
goes wrong becomes an `Outcome`: nothing but the end of the process keeps it from the driver.
"""

import importlib
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from pipeline.artifacts import Store, WorkFolder
from pipeline.errors import raise_faults
from pipeline.executors.memory import give_memory_back
from pipeline.executors.output import output_to
from pipeline.executors.protocol import Outcome, StageRequest, Status
from pipeline.fingerprint import resolved
from pipeline.locks import Holder, lock
from pipeline.manifest import (
    Artifact,
    Duration,
    Manifest,
    Parent,
    disagreements,
    read_artifact,
    record_files,
)
from pipeline.workflow import reads_as_text
from stages.contracts import Context, InterruptedRunError, Journal, Report, UserError, WorkerError
from stages.lm.loading import model_hash
from stages.lm.process import compute_on, prepare_process


def run_stage(request: StageRequest) -> Outcome:
    """Make one asset and say how it went."""
    store, started = Store(request.store), time.time()
    holder = Holder(run=request.run, token=request.token)
    ended: dict[str, Any]
    try:
        with lock(store.lock_path(request.fingerprint), holder, request.stop_file.exists):
            started = time.time()
            ended = _run_locked(request, store)
    except InterruptedRunError as stopped:
        ended = {"status": Status.INTERRUPTED, "cause": str(stopped)}
    give_memory_back()
    return Outcome(asset=request.asset, started=started, ended=time.time(), **ended)


def _run_locked(request: StageRequest, store: Store) -> dict[str, Any]:
    if store.has(request.asset, request.fingerprint) and not request.replace:
        return {"status": Status.DONE}  # another run made it while this one waited
    work = store.work(request.fingerprint)
    work.begin()
    with output_to(work.log) if request.capture_output else nullcontext():
        return _guarded(request, store, work)


def _guarded(request: StageRequest, store: Store, work: WorkFolder) -> dict[str, Any]:
    """Make the asset; a failure's traceback goes to the log, its first cause to the driver."""
    try:
        _make(request, store, work)
    except InterruptedRunError as stopped:
        return {"status": Status.INTERRUPTED, "cause": str(stopped)}
    except UserError as fault:
        return {"status": Status.FAILED, "cause": fault.what, "user_error": fault}
    except Exception as error:  # noqa: BLE001  # a stage may raise anything; the driver tells it
        with work.log.open("a") as log:
            traceback.print_exc(file=log)
        lost = isinstance(error, WorkerError)
        cause = str(error) if lost else first_cause(error)
        return {"status": Status.FAILED, "cause": cause, "lost_workers": lost}
    return {"status": Status.DONE}


def _make(request: StageRequest, store: Store, work: WorkFolder) -> None:
    parents = {keyword: read_artifact(folder) for keyword, folder in request.parents.items()}
    config = request.config
    as_text = {"reward_model"} if reads_as_text(config) else set()
    raise_faults(disagreements({k: a for k, a in parents.items() if k not in as_text}))
    compute_on(request.gpus)
    prepare_process(config.threads, config.seed)
    with stopwatch() as timed:
        report = _call(request, work)
    work.collect()
    store.publish(work, _manifest(request, work, parents, report, timed()))


def _call(request: StageRequest, work: WorkFolder) -> Report:
    module, _, name = request.function.partition(":")
    run = getattr(importlib.import_module(module), name)
    context = Context(
        checkpoints=work.checkpoints,
        journal=Journal(work.journal),
        should_stop=request.stop_file.exists,
        workers=request.workers,
        cache=Store(request.store).cache,
    )
    report: Report = run(request.config, **request.parents, out=work.out, context=context)
    return report


def _manifest(
    request: StageRequest,
    work: WorkFolder,
    parents: Mapping[str, Artifact],
    report: Report,
    timed: Duration,
) -> Manifest:
    model = work.out / "model"
    return Manifest(
        kind=request.asset,
        fingerprint=request.fingerprint,
        parents={
            keyword: Parent(asset=parent.manifest.kind, fingerprint=parent.manifest.fingerprint)
            for keyword, parent in parents.items()
        },
        parts=request.parts,
        config=resolved(request.config),
        seed=request.config.seed,
        metrics=report.metrics,
        contract=report.contract,
        time=timed,
        files=record_files(work.out),
        model_sha256=model_hash(model) if model.is_dir() else None,
    )


@contextmanager
def stopwatch() -> Iterator[Callable[[], Duration]]:
    """Gives a function that says how long it is since; CPU time includes children that ended."""
    started, cpu = time.time(), _cpu_s()

    def elapsed() -> Duration:
        ended = time.time()
        return Duration(started=started, ended=ended, wall_s=ended - started, cpu_s=_cpu_s() - cpu)

    yield elapsed


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def first_cause(error: BaseException) -> str:
    """The exception a chain began with: its type and message."""
    while earlier := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = earlier
    return f"{type(error).__name__}: {error}"
