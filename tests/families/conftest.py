"""Each family's checkpoint, taken by the base stage once a session."""

from collections.abc import Callable
from pathlib import Path

import pytest

from stages.contracts import Context
from stages.lm.process import prepare_process
from stages.step0_base.base import run
from stages.step0_base.config import BaseConfig, BaseKind
from tests.families.models import write_family


@pytest.fixture(scope="session")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's `base` asset."""
    root = tmp_path_factory.mktemp("families")
    made: dict[str, Path] = {}

    def take(name: str) -> Path:
        if name not in made:
            checkpoint = write_family(name, root / name / "checkpoint")
            config = BaseConfig(kind=BaseKind.hub, path=str(checkpoint), max_length=128)
            made[name] = root / name / "base"
            prepare_process(1, 0)
            run(config, text=root, out=made[name], context=Context.at(root / name / "context"))
        return made[name]

    return take
