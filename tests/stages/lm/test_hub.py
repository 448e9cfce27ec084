"""Models of the hub, out of its library's cache as it lies on a disk; no network."""

from pathlib import Path

import huggingface_hub.constants
import pytest

from stages.contracts import Context, UserError
from stages.lm.hub import HubModel
from stages.lm.loading import model_hash, save_model
from stages.step0_base.base import run
from stages.step0_base.config import BaseConfig, BaseKind

OLD, NEW = "1" * 40, "2" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model, tiny_tokenizer) -> Path:
    """Two commits of owner/tiny: main is the new one, whose weights differ; v1 the old one."""
    repo = tmp_path / "hub" / "models--owner--tiny"
    (repo / "refs").mkdir(parents=True)
    for ref, commit in (("main", NEW), ("v1", OLD)):
        (repo / "refs" / ref).write_text(commit)
    for commit in (OLD, NEW):
        save_model(tiny_model, tiny_tokenizer, repo / "snapshots" / commit)
        tiny_model.lm_head.weight.data.neg_()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return repo


def config_of(path: str, **changes) -> BaseConfig:
    return BaseConfig(kind=BaseKind.hub, path=path, **changes)


@pytest.mark.parametrize(("revision", "commit"), [(None, NEW), ("v1", OLD), (OLD, OLD)])
def test_a_name_and_its_revision_are_one_commit(cache, tmp_path, revision, commit) -> None:
    """Red when the revision is not passed on: the model would be main's."""
    config = config_of("owner/tiny", revision=revision)
    assert config.versions() == {"hub": commit}
    assert (config.hub, config.path) == ("owner/tiny", None)
    report = run(config, text=tmp_path, out=tmp_path / "out", context=Context.at(tmp_path / "c"))
    assert report.contract["hub_commit"] == commit
    assert model_hash(tmp_path / "out" / "model") == model_hash(cache / "snapshots" / commit)


def test_a_folder_counts_by_its_content(cache) -> None:
    folder = str(cache / "snapshots" / OLD)
    config = config_of(folder)
    assert (config.path, config.hub, config.versions()) == (folder, None, {})


@pytest.mark.parametrize(("name", "revision"), [("owner/other", None), ("owner/tiny", "v3")])
def test_what_is_not_in_the_cache_says_what_to_do(cache, name, revision) -> None:
    with pytest.raises(UserError, match=f"{name}.* is neither on the hub nor in its cache") as told:
        config_of(name, revision=revision).versions()
    assert "HF_HUB_OFFLINE" in told.value.do


def test_a_commit_of_which_nothing_is_in_the_cache(cache) -> None:
    with pytest.raises(UserError, match="neither on the hub"):
        HubModel("owner/tiny", "3" * 40).fetch()


def test_half_a_model_in_the_cache_is_refused(cache, tmp_path) -> None:
    """An interrupted download leaves settings without weights."""
    (cache / "snapshots" / NEW / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights"):
        run(
            config_of("owner/tiny"),
            text=tmp_path,
            out=tmp_path / "out",
            context=Context.at(tmp_path / "c"),
        )


@pytest.mark.parametrize("path", [None, "/no/such/folder", "a/b/c", "what ever"])
def test_what_is_no_name_is_refused(path) -> None:
    with pytest.raises(UserError, match="neither a model's name on the hub nor a folder"):
        BaseConfig(kind=BaseKind.hub, path=path)
