"""What lies on disk after a run: W&B's offline log, TensorBoard's events, metrics.parquet."""

import json
import struct
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import wandb

from pipeline.tracking.config import TrackingConfig, WandbMode
from pipeline.tracking.interface import LoggedArtifact
from pipeline.tracking.metrics_table import write_metrics_table
from pipeline.tracking.tracking import open_tracking
from pipeline.tracking.wandb import WandbTracker
from stages.contracts import Journal

BLOCK = 32768  # W&B keeps its log in the format of LevelDB's log files


@pytest.fixture(autouse=True)
def nobody_is_logged_in(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def run_folder(tmp_path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def one_try(run_folder: Path, config: TrackingConfig, journal: Path):
    tracking = open_tracking(
        config,
        run="ppo_ptx-0123abcd",
        folder=run_folder,
        resolved={"align": {"kl_coef": 0.02}},
        fingerprints={"sft": "a" * 64},
    )
    tracking.follow("sft", journal)
    return tracking


def test_wandb_continues_one_run_and_repeats_no_step(tmp_path, run_folder):
    config = TrackingConfig(wandb=WandbMode.AUTO, tensorboard=False)
    journal = Journal(tmp_path / "journal")
    for step in range(4):
        journal.log(step, {"train/loss": 1.0 / (step + 1)})
    one_try(run_folder, config, tmp_path / "journal").close({})
    journal.rewind(1)
    for step in range(2, 6):
        journal.log(step, {"train/loss": 1.0 / (step + 1)})
    one_try(run_folder, config, tmp_path / "journal").close({"evaluation": {"kl": 3.5}})

    logs = sorted(run_folder.glob("wandb/offline-run-*/*.wandb"), key=lambda p: p.stat().st_mtime)
    assert len(logs) == 2
    assert len({log.name for log in logs}) == 1, "both tries carry the same id"
    records = [record for log in logs for record in wandb_records(log)]
    history = [values for record in records if (values := history_of(record))]
    assert [v["sft/step"] for v in history] == [0, 1, 2, 3, 4, 5]
    assert [v["sft/train/loss"] for v in history] == pytest.approx(
        [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6]
    )
    assert [v["_step"] for v in history] == [1, 2, 3, 4, 5, 6]
    metrics = {r.metric.glob_name: r.metric.step_metric for r in records if r.HasField("metric")}
    assert metrics["sft/*"] == "sft/step"
    assert [r.exit.exit_code for r in records if r.HasField("exit")] == [1, 0]
    assert any("evaluation" in str(r.summary) and "3.5" in str(r.summary) for r in records)


def test_wandb_names_artifacts_with_their_parents(tmp_path, run_folder):
    config = TrackingConfig(wandb=WandbMode.OFFLINE, tensorboard=False)
    folder = tmp_path / "artifact"
    Journal(folder / "journal").table(
        0, "samples", [{"prompt": "say <b>", "score": 1.0}, {"score": None}]
    )
    (folder / "manifest.json").write_text("{}")
    tracking = one_try(run_folder, config, folder / "journal")
    tracking.publish(sft_artifact(folder))
    tracking.close({})

    (log,) = run_folder.glob("wandb/offline-run-*/*.wandb")
    logged = {r.artifact.name: r.artifact for r in wandb_records(log) if r.HasField("artifact")}
    assert json.loads(logged["sft"].metadata)["parents"] == {"base": "c" * 64}
    assert "a" * 16 in list(logged["sft"].aliases)
    (table,) = run_folder.glob("wandb/offline-run-*/files/media/table/sft/*.json")
    assert json.loads(table.read_text()) == {
        "columns": ["prompt", "score"],
        "data": [["say <b>", 1.0], [None, None]],
    }


class OnlineRun:
    """Stands for a W&B run with a server behind it."""

    entity, project = "team", "rlhf-pipeline"

    def __init__(self):
        self.used, self.logged = [], []

    def use_artifact(self, name):
        self.used.append(name)

    def log_artifact(self, artifact, aliases):
        self.logged.append((artifact.name, aliases))


class Store:
    """Stands for W&B's public API: knows the artifacts named."""

    def __init__(self, *names):
        self.names = names

    def artifact_exists(self, name):
        return name in self.names


@pytest.mark.parametrize(
    ("made_here", "known", "used"),
    [(False, True, True), (False, False, False), (True, True, False)],
)
def test_wandb_links_stored_artifacts_as_inputs_when_online(tmp_path, made_here, known, used):
    (tmp_path / "manifest.json").write_text("{}")
    run = OnlineRun()
    store = Store(f"team/rlhf-pipeline/sft:{'a' * 16}") if known else Store()
    WandbTracker(run, store).artifact(sft_artifact(tmp_path, made_here=made_here))
    assert run.used == ([f"sft:{'a' * 16}"] if used else [])
    assert run.logged == ([] if used else [("sft", ["a" * 16])])


def test_an_unreachable_server_means_offline(tmp_path, run_folder, monkeypatch):
    def refuse(prompt):
        raise wandb.errors.AuthenticationError("no network")

    monkeypatch.setattr(wandb, "login", refuse)
    Journal(tmp_path / "journal").log(0, {"train/loss": 1.0})
    config = TrackingConfig(wandb=WandbMode.AUTO, tensorboard=False)
    one_try(run_folder, config, tmp_path / "journal").close({})
    assert list(run_folder.glob("wandb/offline-run-*"))


def test_disabled_trackers_leave_nothing(tmp_path, run_folder):
    config = TrackingConfig(wandb=WandbMode.DISABLED, tensorboard=False)
    Journal(tmp_path / "journal").log(0, {"train/loss": 1.0})
    one_try(run_folder, config, tmp_path / "journal").close({})
    assert [p.name for p in run_folder.iterdir()] == ["tracking.json"]


def test_tensorboard_holds_every_step_once(tmp_path, run_folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = TrackingConfig(wandb=WandbMode.DISABLED, tensorboard=True)
    journal = Journal(tmp_path / "journal")
    for step in (10, 20, 30):
        journal.log(step, {"train/loss": step / 100})
        journal.table(step, "samples", [{"response": f"cat {step}"}])
        one_try(run_folder, config, tmp_path / "journal").close({})
    (events,) = run_folder.glob("tensorboard/*/sft")
    shown = EventAccumulator(str(events))
    shown.Reload()
    scalars = [(e.step, e.value) for e in shown.Scalars("train/loss")]
    assert scalars == [(10, pytest.approx(0.1)), (20, pytest.approx(0.2)), (30, pytest.approx(0.3))]
    texts = [e.tensor_proto.string_val[0].decode() for e in shown.Tensors("samples")]
    assert texts == ["    response: cat 10", "    response: cat 20", "    response: cat 30"]


def test_the_metrics_table_is_tidy(tmp_path, run_folder):
    sft, policy = Journal(tmp_path / "sft"), Journal(tmp_path / "policy")
    sft.log(1, {"train/loss": 2.0, "train/lr": 1e-3})
    sft.log(2, {"train/loss": 1.0})
    policy.log(1, {"rollout/kl": 0.5})
    journals = {stage: tmp_path / stage for stage in ("base", "sft", "policy")}
    table = pq.read_table(write_metrics_table(run_folder, "r1", journals))
    assert table.column_names == ["run", "stage", "step", "name", "value"]
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("r1", "sft", 1, "train/loss", 2.0),
        ("r1", "sft", 2, "train/loss", 1.0),
        ("r1", "sft", 1, "train/lr", 1e-3),
        ("r1", "policy", 1, "rollout/kl", 0.5),
    ]
    assert [p.name for p in run_folder.iterdir()] == ["metrics.parquet"], "no scratch file stays"


def test_a_run_without_curves_has_an_empty_table(run_folder):
    table = pq.read_table(write_metrics_table(run_folder, "r1", {}))
    assert table.num_rows == 0
    assert table.column_names == ["run", "stage", "step", "name", "value"]


def sft_artifact(folder: Path, *, made_here: bool = True) -> LoggedArtifact:
    return LoggedArtifact(
        asset="sft",
        fingerprint="a" * 64,
        folder=folder,
        parents={"base": "c" * 64},
        metrics={"validation_loss": 1.5},
        made_here=made_here,
    )


def wandb_records(path: Path) -> list:
    """The records of an offline log: headers (checksum, length, part), in 32 KiB blocks."""
    wandb.teardown()  # W&B's own process writes the last records when it ends
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, pending, records = path.read_bytes(), 7, b"", []
    while position + 7 <= len(content):
        if BLOCK - position % BLOCK < 7:
            position += BLOCK - position % BLOCK
            continue
        _, length, part = struct.unpack_from("<IHB", content, position)
        pending += content[position + 7 : position + 7 + length]
        position += 7 + length
        if part in (1, 4):  # a whole record, or the last part of one
            records.append(Record.FromString(pending))
            pending = b""
    return records


def history_of(record) -> dict:
    if not record.HasField("history"):
        return {}
    return {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
