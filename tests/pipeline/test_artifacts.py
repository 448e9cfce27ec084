"""The store: published whole or not at all, traced to its parents, freed when nobody needs it."""

import os
from pathlib import Path

import pytest

from pipeline.artifacts import Store
from pipeline.commands.gc import unneeded_tokens
from pipeline.locks import Holder, lock
from pipeline.manifest import Artifact
from pipeline.selection import Selection
from tests.pipeline.toys import ToyConfig, make, number, plan_of, toy_graph

pytestmark = pytest.mark.usefixtures("without_torch")


def test_a_crash_before_the_rename_leaves_no_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise OSError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", crash)
        with pytest.raises(Exception, match="the power went"):
            make(tmp_path, toy_graph())
    plan = plan_of(tmp_path, toy_graph())
    assert plan.stages["left"].artifact is None
    assert (plan.store.work(plan.stages["left"].fingerprint).out / "manifest.json").exists()
    assert list(make(tmp_path, toy_graph()).artifacts()) == list(plan.stages)


def test_lineage_reaches_the_first_ancestors(tmp_path: Path) -> None:
    run = make(tmp_path, toy_graph())
    family = run.plan.store.lineage(run.artifacts()["evaluation"])
    kinds = [artifact.manifest.kind for artifact in family.values()]
    assert sorted(kinds) == ["evaluation", "left", "right", "total"]


def test_newest_is_the_last_published_by_the_same_stage_if_there_is_one(tmp_path: Path) -> None:
    for function in ("number", "another_number"):
        for value in (1, 2):
            graph = toy_graph(function, left=ToyConfig(value=value))
            newest = make(tmp_path, graph, Selection(to_stage="left")).artifacts()["left"]
    store = Store(tmp_path / "artifacts")
    assert store.newest("left", "an unknown stage") == newest
    earlier = store.newest("left", f"left by {number.__module__}:number")
    assert earlier is not None
    assert earlier.manifest.config["value"] == 2


def test_what_no_kept_run_needs_can_go(tmp_path: Path) -> None:
    old = make(tmp_path, toy_graph()).artifacts()
    kept = make(tmp_path, toy_graph(left=ToyConfig(value=2)))
    store = kept.plan.store
    fingerprints = [planned.fingerprint for planned in kept.plan.stages.values()]
    assert set(store.unneeded(fingerprints)) == folders(old, "left", "total", "evaluation")


def test_work_of_a_dead_run_can_go_work_under_way_cannot(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("a" * 16, "b" * 16):
        store.work(name).begin()
    with lock(store.lock_path("a" * 16), Holder(run="x", token="y"), lambda: False):
        assert store.unneeded([]) == [store.work("b" * 16).folder]


def test_cached_tokens_go_with_their_table(tmp_path: Path) -> None:
    run = make(tmp_path, toy_graph())
    store, total = run.plan.store, run.artifacts()["total"].manifest
    table = next(iter(total.files.values())).sha256[:16]
    tokens = store.cache / "tokens"
    for name in (f"{table}-a", f"{'0' * 16}-b", f"{'0' * 16}-c.123.tmp"):
        (tokens / name).mkdir(parents=True)
    (tokens / f"{'0' * 16}-b.lock").touch()
    gone = unneeded_tokens(store, {total.fingerprint})
    assert {path.name[:18] for path in gone} == {f"{'0' * 16}-b", f"{'0' * 16}-c"}
    assert len(gone) == 3
    assert tokens / f"{table}-a" in unneeded_tokens(store, set())


def folders(artifacts: dict[str, Artifact], *assets: str) -> set[Path]:
    return {artifacts[asset].folder for asset in assets}
