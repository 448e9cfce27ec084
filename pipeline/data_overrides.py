"""What the command line says of comparisons to read: `data/comparisons=FORMAT` and their keys."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from pipeline.composition import CONF
from pipeline.errors import nearest
from stages.contracts import UserError
from stages.records.adapters import ADAPTERS
from stages.records.sources import SourceConfig

GROUP, PREFIX = "data/comparisons", "data.comparisons."
KEYS = [spec.name for spec in fields(SourceConfig)]


def comparison_source(overrides: Sequence[str]) -> SourceConfig:
    """The source that these overrides describe.

    Raises:
        UserError: an unknown format or key, a value of the wrong kind, or no data named.
    """
    option: dict[str, Any] = {}
    keys = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if key == GROUP and equals:
            option = _option(value)
        elif key.startswith(PREFIX) and equals:
            keys.append(override.removeprefix(PREFIX))
        else:
            known = [GROUP, *(PREFIX + name for name in KEYS)]
            raise UserError(
                "evaluate-reward takes the keys of its comparisons alone",
                got=override,
                do=nearest(key, known),
            )
    source = _merged(option, keys)
    source.check()
    return source


def _merged(option: dict[str, Any], keys: list[str]) -> SourceConfig:
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(SourceConfig), option, OmegaConf.from_dotlist(keys)
        )
        source = OmegaConf.to_object(merged)
    except ConfigKeyError as error:
        key = str(error.full_key)
        do = nearest(PREFIX + key, [PREFIX + name for name in KEYS])
        raise UserError("unknown config key", got=PREFIX + key, do=do) from None
    except OmegaConfBaseException as error:
        raise UserError(
            f"wrong value for the config key {PREFIX}{error.full_key}",
            got=str(error).splitlines()[0],
            do="docs/reward_model.md shows how comparisons are named",
        ) from None
    assert isinstance(source, SourceConfig)
    return source


def _option(name: str) -> dict[str, Any]:
    """The keys of an option of the group in conf/, or the format of that name."""
    folder = CONF / "data" / "comparisons"
    files = {path.stem: path for path in folder.glob("*.yaml")} if folder.is_dir() else {}
    if name in files:
        content = OmegaConf.to_container(OmegaConf.load(files[name]))
        assert isinstance(content, dict)
        return {str(key): value for key, value in content.items() if key in KEYS}
    if name in ADAPTERS or ":" in name:
        return {"adapter": name}
    raise UserError(
        f"the group {GROUP} has no option {name}",
        got=f"{GROUP}={name}",
        do=nearest(name, [*files, *ADAPTERS]),
    )
