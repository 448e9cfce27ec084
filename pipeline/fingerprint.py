"""The name of a result: a hash of everything that can change it, computed without importing it.

`Parts` keeps what went into the hash, so that a plan can say which part differs from an earlier
artifact. Code is read as syntax trees (`pipeline.sources`), package versions from their metadata.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import Field, asdict, dataclass, fields, is_dataclass
from enum import Enum
from glob import glob
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.sources import Sources
from stages.contracts import StageConfig, UserError

# Packages that decide numbers, and those of them that each brings into a computation.
NUMERIC_PACKAGES: dict[str, tuple[str, ...]] = {
    "torch": (),
    "tokenizers": (),
    "transformers": ("torch", "tokenizers"),
    "accelerate": ("torch",),
    "peft": ("transformers", "accelerate"),
    "trl": ("transformers", "accelerate"),
    "deepspeed": ("torch",),
}
Keep = Callable[[Field[Any]], bool]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a fingerprint is made of.

    stage: asset and function. code: module -> digest of its tree. packages: name -> major.minor.
    config: the values that can change the result. external: config key -> digest of what it names.
    parents: keyword -> fingerprint.
    """

    stage: str
    code: dict[str, str]
    packages: dict[str, str]
    config: dict[str, Any]
    external: dict[str, str]
    parents: dict[str, str]

    def fingerprint(self) -> str:
        """64 hex digits."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def package_versions(imported: Iterable[str]) -> dict[str, str]:
    """major.minor of the installed packages that decide numbers, of those that code imports.

    Installing a package that a stage never imports does not make its result another one.
    """
    found: dict[str, str] = {}
    waiting = [name for name in imported if name in NUMERIC_PACKAGES]
    while waiting:
        name = waiting.pop()
        waiting += NUMERIC_PACKAGES[name]
        with suppress(PackageNotFoundError):
            found[name] = ".".join(version(name).split(".")[:2])
    return dict(sorted(found.items()))


def resolved(config: Any) -> dict[str, Any]:
    """All values of a config as plain JSON; `class` tells variants apart."""
    return _values(config, lambda _: True)


def effective(config: Any) -> dict[str, Any]:
    """The values that can change a result: fields declared `no_effect` are left out."""
    return _values(config, _affects_result)


def hashed(config: Any) -> dict[str, Any]:
    """The values a fingerprint is made of: of an `external_input` the content counts instead."""
    return _values(config, lambda spec: _affects_result(spec) and not _is_external(spec))


def _values(config: Any, keep: Keep) -> dict[str, Any]:
    kept = {spec.name: getattr(config, spec.name) for spec in fields(config) if keep(spec)}
    return {
        "class": type(config).__name__,
        **{name: plain(value, keep) for name, value in kept.items()},
    }


def _affects_result(spec: Field[Any]) -> bool:
    return bool(spec.metadata.get("affects_result", True))


def _is_external(spec: Field[Any]) -> bool:
    return bool(spec.metadata.get("external", False))


def plain(value: Any, keep: Keep = _affects_result) -> Any:
    """A config value as JSON knows it; of a dataclass the fields to `keep`."""
    if is_dataclass(value) and not isinstance(value, type):
        return _values(value, keep)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, keep) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, keep) for item in value]
    return value


def external_digests(config: StageConfig, asset: str) -> dict[str, str]:
    """Digest of the content behind every `external_input` and `external_code` field that is set,
    and of the modules that the config names.

    asset: whose config it is, for the error.

    Raises:
        UserError: a file, folder or module that is not there.
    """
    of = f"of {asset}"
    files = {
        key: content_digest(Path(path), f"{key} {of}") for key, path in _external_paths(config)
    }
    code = {
        f"{key}.{name}": code_digest(name, f"{key} {of}") for key, name in _external_code(config)
    }
    named = {
        f"module {name}": code_digest(f"{name}.", f"adapter {of}") for name in config.modules()
    }
    return files | code | named


def content_digest(path: Path, said: str) -> str:
    """sha256 of a file, or of sorted names and contents: of a folder, of what a glob finds.

    said: who names it, for the error.
    """
    if path.is_file():
        return file_digest(path)
    files = {str(file.relative_to(path)): file for file in path.rglob("*") if file.is_file()}
    files = files or {name: Path(name) for name in glob(str(path), recursive=True)}
    if not files and not path.is_dir():
        raise UserError(
            f"{said} names nothing", got=str(path), do="give a file or folder that exists"
        )
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        digest.update(f"{name}|{file_digest(file)}|".encode())
    return digest.hexdigest()


def code_digest(name: str, said: str) -> str:
    """sha256 of the syntax trees of the module of `module.name`, and of what it imports from the
    project, from its own package and from beside it.

    said: who names it, for the error.
    """
    module = name.rpartition(".")[0]
    trees = Sources().version(module, beside=True)
    if module not in trees:
        raise UserError(
            f"{said} names a module that is not there",
            got=name,
            do=f"put {module.replace('.', '/')}.py into this folder or on PYTHONPATH",
        )
    return hashlib.sha256(json.dumps(trees).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _external_paths(config: Any, prefix: str = "") -> Iterator[tuple[str, str | Path]]:
    for spec in fields(config):
        value = getattr(config, spec.name)
        for name, part in _parts(value):
            yield from _external_paths(part, f"{prefix}{spec.name}.{name}")
        if _is_external(spec) and value:
            yield f"{prefix}{spec.name}", value


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """The dataclasses that a value is, or that it holds by name; what stands before their keys."""
    if is_dataclass(value):
        yield "", value
    elif isinstance(value, Mapping):
        held = ((f"{name}.", item) for name, item in value.items())
        yield from ((name, item) for name, item in held if is_dataclass(item))


def _external_code(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    for spec in fields(config):
        value = getattr(config, spec.name)
        if is_dataclass(value):
            yield from _external_code(value, f"{prefix}{spec.name}.")
        elif spec.metadata.get("external_code", False):
            yield from ((f"{prefix}{spec.name}", name) for name in value or ())


def differences(now: Parts, before: Parts) -> list[str]:
    """What changed from `before` to `now`, a line each, in words."""
    if now.stage != before.stage:
        return [f"stage {before.stage} -> {now.stage}"]
    config = _changed(_flat(before.config), _flat(now.config))
    found = [f"config {key}: {old} -> {new}" for key, (old, new) in config.items()]
    found += [f"code of {module}" for module in _changed(before.code, now.code)]
    packages = _changed(before.packages, now.packages)
    found += [f"package {name}: {old} -> {new}" for name, (old, new) in packages.items()]
    found += [f"content of {key}" for key in _changed(before.external, now.external)]
    found += [f"parent {keyword}" for keyword in _changed(before.parents, now.parents)]
    return found


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = sorted({*before, *now})
    pairs = {key: (before.get(key, "absent"), now.get(key, "absent")) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else None
        flat.update(inner if inner is not None else {f"{prefix}{key}": value})
    return flat
