"""The hub: streamed at a known commit; without it, an error that says what to do instead."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest

from stages.contracts import UserError
from stages.records.reading import read_source
from stages.records.schemas import Demonstration
from stages.records.sources import SourceConfig

COMMIT = "a" * 40
ALPACA: dict[str, Any] = {"adapter": "alpaca", "hub": "tatsu-lab/alpaca", "split": "train"}


class FakeHub:
    """Knows one data set, and what it was asked for."""

    def __init__(self, rows: Iterator[dict[str, Any]]) -> None:
        self.rows, self.asked = rows, {}

    def dataset_info(self, name: str, revision: str | None) -> SimpleNamespace:
        self.asked["info"] = (name, revision)
        return SimpleNamespace(sha=COMMIT)

    def load_dataset(self, name: str, subset: str | None, **keys: Any) -> Iterator[dict[str, Any]]:
        self.asked["load"] = (name, subset, keys)
        return self.rows


def test_rows_are_streamed_at_the_commit_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"instruction": "Q", "input": "", "output": "A"}
    hub = FakeHub(iter([row, row | {"output": 7}]))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    loaded = read_source(SourceConfig(**ALPACA, revision="main"), Demonstration)
    assert loaded.revision == COMMIT
    assert hub.asked["info"] == ("tatsu-lab/alpaca", "main")
    records = iter(loaded)
    assert next(records).response == "A"
    where = r"tatsu-lab/alpaca@a{12}, row 1, field output"
    with pytest.raises(UserError, match=where):
        next(records)
    keys = {"data_dir": None, "split": "train", "revision": COMMIT, "streaming": True}
    assert hub.asked["load"] == ("tatsu-lab/alpaca", None, keys)


def test_a_full_commit_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    loaded = read_source(SourceConfig(**ALPACA, revision=COMMIT), Demonstration)
    assert loaded.revision == COMMIT


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_without_a_network(revision: str | None) -> None:
    with pytest.raises(UserError, match="tatsu-lab/alpaca cannot be read") as caught:
        list(read_source(SourceConfig(**ALPACA, revision=revision), Demonstration))
    assert "path=FOLDER" in caught.value.do


def test_a_loading_script_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("Dataset scripts are no longer supported, but found alpaca.py")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match="which is not run") as caught:
        list(read_source(SourceConfig(**ALPACA, revision=COMMIT), Demonstration))
    assert "refs/convert/parquet" in caught.value.do


def test_several_splits_need_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"train": [], "test": []})
    source = SourceConfig(adapter="alpaca", hub="tatsu-lab/alpaca", revision=COMMIT)
    with pytest.raises(UserError, match="several splits"):
        list(read_source(source, Demonstration))


def test_no_source_at_all() -> None:
    with pytest.raises(UserError, match="names no data"):
        read_source(SourceConfig(), Demonstration)
