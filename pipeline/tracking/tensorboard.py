"""TensorBoard event files, one folder (a "run" in TensorBoard's words) a stage, without torch."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.tracking.interface import LoggedArtifact, LoggedStep, LoggedTable


class TensorBoardTracker:
    """Writes `folder/STAGE/events...`; figures at the stage's own step."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def log(self, record: LoggedStep) -> None:
        """One scalar a name."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=v) for tag, v in record.values.items()]
        self._write(record.stage, record.step, values, record.time)

    def table(self, record: LoggedTable) -> None:
        """Rows as preformatted text."""
        from tensorboard.plugins.text.summary_v2 import text_pb

        rows = "\n\n".join(
            "\n".join(f"    {k}: {v}" for k, v in row.items()) for row in record.rows
        )
        self._write(record.stage, record.step, list(text_pb(record.name, rows).value), time.time())

    def artifact(self, artifact: LoggedArtifact) -> None:
        """TensorBoard has no artifacts."""

    def close(self, summary: Mapping[str, Any]) -> None:  # noqa: ARG002 - TensorBoard shows no summary
        """Flush and close the files."""
        for writer in self._writers.values():
            writer.close()

    def _write(self, stage: str, step: int, values: list[Any], at: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        event = Event(step=step, wall_time=at, summary=Summary(value=values))
        self._writer(stage).add_event(event)

    def _writer(self, stage: str) -> Any:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if stage not in self._writers:
            self._writers[stage] = EventFileWriter(str(self._folder / stage))
        return self._writers[stage]
