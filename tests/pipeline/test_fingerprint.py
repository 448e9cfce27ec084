"""What changes a fingerprint and what does not; a plan can name the difference."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.fingerprint import (
    Parts,
    differences,
    effective,
    external_digests,
    hashed,
    package_versions,
)
from pipeline.sources import Sources
from stages.contracts import UserError
from tests.pipeline.toys import ToyConfig

STAGE = '''
"""A stage."""
import os

def run(config):
    """Says hello."""
    from toyland import helpers  # inside a function
    return helpers.greet()
'''


@pytest.fixture
def toyland(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `toyland` with a stage that imports a helper only when it runs."""
    package = tmp_path / "toyland"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "stage.py").write_text(STAGE)
    (package / "helpers.py").write_text("def greet():\n    return 'hello'\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    assert "toyland" not in sys.modules, "fingerprints import nothing"


def version() -> dict[str, str]:
    return Sources().version("toyland.stage")


def test_code_is_the_module_and_all_it_imports_from_the_project(toyland: Path) -> None:
    assert set(version()) == {"toyland", "toyland.stage", "toyland.helpers"}


def test_comments_layout_and_docstrings_are_no_code(toyland: Path) -> None:
    before = version()
    changed = STAGE.replace("A stage.", "Another.").replace("Says hello.", "Greets.")
    (toyland / "stage.py").write_text("# a comment\n" + changed.replace("\n\n", "\n\n\n"))
    assert version() == before


@pytest.mark.parametrize("module", ["stage", "helpers"])
def test_an_edit_changes_the_module_it_is_in(toyland: Path, module: str) -> None:
    before = version()
    path = toyland / f"{module}.py"
    path.write_text(path.read_text().replace("greet", "greet_all"))
    changed = {name for name, digest in version().items() if before[name] != digest}
    assert changed == {f"toyland.{module}"}


def test_packages_are_those_that_the_code_imports_and_what_they_bring(toyland: Path) -> None:
    (toyland / "helpers.py").write_text("def greet():\n    import os, transformers\n")
    imported = Sources().packages("toyland.stage")
    assert imported == {"os", "transformers"}
    assert set(package_versions(imported)) == {"transformers", "tokenizers", "torch"}


def test_installing_a_package_that_a_stage_never_imports_makes_nothing_again() -> None:
    data = Sources().packages("stages.step0_data.prompts")
    assert package_versions(data) == {}
    assert "deepspeed" not in Sources().packages("stages.step1_sft.sft")


def test_stages_are_read_without_importing_torch() -> None:
    loaded = set(sys.modules)
    code = Sources().version("stages.step1_sft.sft")
    assert {"stages.contracts", "stages.lm.loading", "stages.step1_sft.config"} <= set(code)
    assert not {"torch", "transformers"} & (set(sys.modules) - loaded)


def parts(**changes: object) -> Parts:
    plain = Parts(stage="a:run", code={"a": "1"}, packages={}, config={}, external={}, parents={})
    return dataclasses.replace(plain, **changes)


def test_fields_without_effect_stay_out() -> None:
    assert effective(ToyConfig(log_every=1)) == effective(ToyConfig(log_every=2))
    assert effective(ToyConfig(value=1)) != effective(ToyConfig(value=2))


def test_the_content_of_an_external_input_counts_not_its_name(tmp_path: Path) -> None:
    for name, text in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.bin").write_text(text)
    a, b, c = (external_digests(ToyConfig(path=str(tmp_path / name)), "base") for name in "abc")
    assert a == b != c
    assert hashed(ToyConfig(path="here")) == hashed(ToyConfig(path="there"))
    assert effective(ToyConfig(path="here")) != effective(ToyConfig(path="there"))


def test_a_missing_external_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="path of base names nothing"):
        external_digests(ToyConfig(path=str(tmp_path / "nowhere")), "base")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stage": "b:run"}, "stage a:run -> b:run"),
        ({"code": {"a": "2"}}, "code of a"),
        ({"packages": {"torch": "2.13"}}, "package torch: absent -> 2.13"),
        ({"config": {"inner": {"lr": 2}}}, "config inner.lr: absent -> 2"),
        ({"external": {"path": "x"}}, "content of path"),
        ({"parents": {"sft": "x"}}, "parent sft"),
    ],
)
def test_every_part_changes_the_fingerprint_and_is_named(
    changes: dict[str, object], said: str
) -> None:
    assert parts(**changes).fingerprint() != parts().fingerprint()
    assert differences(parts(**changes), parts()) == [said]
    assert differences(parts(), parts()) == []
