"""Running a plan in this process: results, failures, stops, kills and locks."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.executors.local import LocalExecutor
from pipeline.executors.protocol import Status
from pipeline.locks import Holder, is_free, lock, lock_now
from pipeline.scheduler import Run, StageFailedError
from stages.contracts import InterruptedRunError, UserError
from tests.pipeline.toys import ToyConfig, make, plan_of, toy_graph

pytestmark = pytest.mark.usefixtures("without_torch")
ROOT = Path(__file__).parents[2]


def statuses(run: Run) -> dict[str, str]:
    return {state.asset: state.status.value for state in run.states()}


def test_results_go_through_the_graph(tmp_path: Path) -> None:
    run = make(tmp_path, toy_graph(left=ToyConfig(value=40)))
    artifacts = run.artifacts()
    assert artifacts["evaluation"].manifest.metrics == {"value": 42.0}
    assert artifacts["total"].manifest.contract == {"tokenizer_sha256": "words"}
    assert set(statuses(run).values()) == {"done"}
    assert set(statuses(make(tmp_path, toy_graph(left=ToyConfig(value=40)))).values()) == {"cached"}


def test_the_manifest_tells_the_whole_story(tmp_path: Path) -> None:
    artifacts = make(tmp_path, toy_graph(total=ToyConfig(seed=3, log_every=5))).artifacts()
    manifest = artifacts["total"].manifest
    assert manifest.parents["left"].fingerprint == artifacts["left"].manifest.fingerprint
    assert (manifest.kind, manifest.seed, manifest.config["log_every"]) == ("total", 3, 5)
    assert {"number.txt", "journal/metrics.jsonl", "log.txt"} == set(manifest.files)
    assert manifest.time.wall_s >= 0
    assert manifest.model_sha256 is None


def test_what_a_stage_prints_goes_to_its_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with capfd.disabled():  # pytest's own streams are not those of the process
        run = make(tmp_path, toy_graph())
    log = next(state.log for state in run.states() if state.asset == "left")
    assert log.read_text() == "the value is 1.0\n"


def test_a_failed_stage_names_itself_its_first_cause_and_its_log(tmp_path: Path) -> None:
    run = Run(plan_of(tmp_path, toy_graph(makes_right="fails")), name="toy")
    with LocalExecutor() as executor, pytest.raises(StageFailedError) as caught:
        run.execute(executor)
    state = next(state for state in run.states() if state.asset == "right")
    assert caught.value.what == "the stage right failed"
    assert caught.value.got == "KeyError: 'the first cause'"
    assert str(state.log) in caught.value.do
    assert "what came of it" in state.log.read_text()
    assert statuses(run) == {
        "left": "done",
        "right": "failed",
        "total": "waiting",
        "evaluation": "waiting",
    }
    assert "left" not in plan_of(tmp_path, toy_graph()).to_run, "a sibling's result stays"


def test_a_stage_that_wants_a_gpu_is_not_made_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    run = Run(plan_of(tmp_path, toy_graph()), name="toy")
    with LocalExecutor(gpus=1) as executor, pytest.raises(UserError) as caught:
        run.execute(executor)
    assert "torch finds none" in caught.value.what


def test_a_users_mistake_inside_a_stage_is_shown_as_such(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        make(tmp_path, toy_graph(makes_left="refuses"))
    assert not isinstance(caught.value, StageFailedError)
    assert caught.value.what == "left: the value is too small"
    assert (caught.value.got, caught.value.do) == ("1.0", "set it to 2")


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "time limit"])
def test_a_stop_ends_cleanly_and_the_next_run_continues(tmp_path: Path, how: str) -> None:
    graph = toy_graph(makes_left="stops_once")
    run = Run(plan_of(tmp_path, graph), name="toy")
    limit = 0.3 if how == "time limit" else None
    if limit is None:
        number = signal.Signals[how]
        threading.Timer(0.3, lambda: signal.raise_signal(number)).start()
    with LocalExecutor() as executor, pytest.raises(InterruptedRunError, match="same command"):
        run.execute(executor, time_limit_s=limit)
    assert statuses(run)["left"] == "interrupted"
    assert plan_of(tmp_path, graph).stages["left"].why.endswith("continues from a checkpoint")
    assert statuses(make(tmp_path, graph))["evaluation"] == "done"


def script(folder: Path, function: str) -> subprocess.Popen[str]:
    """Run a toy graph in a process of its own."""
    code = (
        "from pathlib import Path\n"
        "import pipeline.executors.entry as entry\n"
        "from tests.pipeline.toys import make, toy_graph\n"
        "entry.prepare_process = lambda threads, seed: None\n"
        f"make(Path({str(folder)!r}), toy_graph(makes_left={function!r}))\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True)


def test_a_killed_process_leaves_nothing_half_written(tmp_path: Path) -> None:
    assert script(tmp_path, "dies_once").wait(60) == -signal.SIGKILL
    plan = plan_of(tmp_path, toy_graph(makes_left="dies_once"))
    left = plan.stages["left"]
    assert (plan.store.work(left.fingerprint).out / "half.txt").exists()
    assert plan.to_run == ["left", "right", "total", "evaluation"]
    assert is_free(plan.store.lock_path(left.fingerprint)), "the lock died with its holder"
    artifact = make(tmp_path, toy_graph(makes_left="dies_once")).artifacts()["left"]
    assert not (artifact.folder / "half.txt").exists()
    assert not plan.store.work(left.fingerprint).folder.exists()


def test_a_second_run_waits_for_the_first_and_says_so(tmp_path: Path) -> None:
    """The other run holds left's lock; when it is gone, this one goes on by itself."""
    plan = plan_of(tmp_path, toy_graph())
    run, other = Run(plan, name="mine"), Holder(run="theirs", token="other")
    path = plan.store.lock_path(plan.stages["left"].fingerprint)
    with lock(path, other, lambda: False):
        thread = threading.Thread(target=lambda: run.execute(LocalExecutor()))
        thread.start()
        note = wait_for_note(run, "waits for")
    thread.join(30)
    assert note.startswith("waits for theirs (process ")
    assert statuses(run)["evaluation"] == "done"


def wait_for_note(run: Run, words: str) -> str:
    end = time.time() + 30
    while time.time() < end:
        note = run.states()[0].note
        if words in note:
            return note
        time.sleep(0.02)
    raise AssertionError(f"no stage said {words!r}")


def test_an_artifact_another_run_made_meanwhile_is_not_made_again(tmp_path: Path) -> None:
    graph = toy_graph()
    late = Run(plan_of(tmp_path, graph), name="late")
    made = make(tmp_path, graph).artifacts()["left"].manifest.time
    with LocalExecutor() as executor:
        late.execute(executor)
    assert late.artifacts()["left"].manifest.time == made


def test_a_folder_in_use_is_refused_at_once(tmp_path: Path) -> None:
    with lock_now(tmp_path / "driver", Holder(run="first", token="a"), "the run folder"):
        with (
            pytest.raises(UserError, match="in use by another run") as caught,
            lock_now(tmp_path / "driver", Holder(run="second", token="b"), "the run folder"),
        ):
            pass
        assert "first (process" in caught.value.got
    assert is_free(tmp_path / "driver")


def test_final_states_are_final() -> None:
    moving = {status for status in Status if not status.is_final}
    assert moving == {Status.WAITING, Status.RUNNING}
