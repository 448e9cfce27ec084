"""From Hydra's composed keys to typed dataclasses, with every fault reported at once.

Hydra composes plain values: the dataclasses' defaults (group `schema`), then the options in
`conf/`, then the command line. `typed` walks all keys against the dataclasses, so an unknown key is
found even if it was added with `+`, and every fault is known before any work starts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, make_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

import conf
from pipeline import config as schemas
from pipeline.config import VARIANTS, PipelineConfig
from pipeline.errors import nearest, raise_faults
from stages.contracts import UserError

REQUIRED = "???"  # OmegaConf's mark of a value that must be given
CONF = Path(conf.__path__[0])


def register_schemas() -> None:
    """Let options begin with their dataclass's defaults: `defaults: [/schema/sft@_here_]`.

    `${if_world:DATA,one,other}` is `one` where that group of data is the embedded world's: what
    only the world has (gold), or only real text needs, is no key that a user must know.
    """
    OmegaConf.register_new_resolver("if_world", _if_world, replace=True)
    store = ConfigStore.instance()
    for name, schema in _named_schemas().items():
        store.store(group="schema", name=name, node=defaults_of(schema), provider="dataclasses")


def _if_world(data: Any, one: Any, other: Any) -> Any:
    """A value in the place of the group is told of later, with all other faults."""
    return one if isinstance(data, DictConfig) and data.get("kind") == "world" else other


def _named_schemas() -> dict[str, type]:
    groups = get_type_hints(PipelineConfig)
    own = {f.name for f in fields(schemas.RunConfig)}
    plain = {n: t for n, t in groups.items() if n not in own | {"data", *VARIANTS}}
    variants = {
        _variant_name(group, kind): schema
        for group, kinds in VARIANTS.items()
        for kind, schema in kinds.items()
    }
    return {"run": schemas.RunConfig, **plain, **variants}


def _variant_name(group: str, kind: str) -> str:
    """`ppo` of align; of the tables, which have the same kinds, `demonstrations_files`."""
    table = group.removeprefix("data.")
    return kind if table == group else f"{table}_{kind}"


def defaults_of(schema: type) -> dict[str, Any]:
    """The defaults of a dataclass as plain values; `???` where one must be given."""
    hints = get_type_hints(schema)
    return {f.name: _default(f, hints[f.name]) for f in fields(schema)}


def _default(spec: Field[Any], hint: Any) -> Any:
    value = spec.default
    if value is MISSING and spec.default_factory is not MISSING:
        value = spec.default_factory()
    if value is not MISSING:
        return _as_option(value)
    return defaults_of(hint) if is_dataclass(hint) and isinstance(hint, type) else REQUIRED


def _as_option(value: Any) -> Any:
    """A default as it would stand in a file of `conf/`."""
    if is_dataclass(value):
        return {spec.name: _as_option(getattr(value, spec.name)) for spec in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return DictConfig(value, flags={"struct": False})  # the user names its keys
    return str(value) if isinstance(value, Path) else value


def compose(overrides: Sequence[str] = ()) -> PipelineConfig:
    """The typed config of these overrides, for notebooks and tests.

    Raises:
        UserError: all that the dataclasses refuse.
    """
    register_schemas()
    with initialize_config_module(config_module=conf.__name__, version_base="1.3"):
        return typed(hydra_compose("config", overrides=list(overrides)))


def all_keys() -> list[str]:
    """Every dotted key of every option, and every group, to find the nearest to a mistyped one."""
    scale = OmegaConf.create({"scale": _scale_keys()})
    return sorted({*_keys_below(PipelineConfig, ""), *_dotted(scale)})


def _dotted(node: DictConfig, path: str = "") -> Iterator[str]:
    for name, value in node.items():
        key = _join(path, str(name))
        yield key
        if isinstance(value, DictConfig):
            yield from _dotted(value, key)


def _keys_below(schema: type, path: str) -> Iterator[str]:
    for name, hint in get_type_hints(schema).items():
        key = _join(path, name)
        yield key
        options = VARIANTS.get(key, {"": hint}).values()
        for option in options:
            if _is_group(option) and not _is_table(option):
                yield from _keys_below(option, key)


def typed(composed: DictConfig) -> PipelineConfig:
    """The composed keys as one `PipelineConfig`.

    Raises:
        UserError: all unknown keys, wrong types and refused values in one report.
    """
    tree = _resolved(composed)
    walk = _Walk([])
    walk.check_scale(tree.pop("scale", {}), _scale_keys(), "scale")
    built = walk.build(tree, PipelineConfig, "")
    raise_faults([fault for fault in walk.faults if not _is_told_elsewhere(fault)])
    assert isinstance(built, PipelineConfig)
    return built


def _is_told_elsewhere(fault: UserError) -> bool:
    """Stages refer to these groups, which tell of their own keys."""
    rewards = ("align.reward", "evaluation.reward")
    peft = ("sft.peft", "ppo_init.peft")
    copies = (
        *rewards,
        *peft,
        "align.rollout",
        "align.placement",
        "align.sft.peft",
        "sft_selected.select",
    )
    copied = tuple(f"{copy}{end}" for copy in copies for end in ".:")
    return any(text.startswith(copied) for text in (fault.what, fault.got))


def _resolved(composed: DictConfig) -> dict[str, Any]:
    try:
        tree = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(
            f"the config key {error.full_key} refers to a key that is not there",
            got=str(error.msg).splitlines()[0],
            do="name an existing key between ${ and }, for example ${seed}",
        ) from None
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _scale_keys() -> dict[str, Any]:
    """Options interpolate the scale, no stage reads it: its schema is the paper's own scale."""
    keys = OmegaConf.to_container(OmegaConf.load(CONF / "scale" / "paper.yaml"))
    assert isinstance(keys, dict)
    return {str(key): value for key, value in keys.items()}


@dataclass
class _Walk:
    """Builds dataclasses from nested keys and collects what is wrong on the way."""

    faults: list[UserError]

    def build(self, tree: Any, schema: type, path: str) -> Any:
        """An instance of `schema`, or None once a fault in it was noted."""
        before = len(self.faults)
        if not isinstance(tree, Mapping):
            return self._not_a_group(tree, path)
        schema, tree = self._variant(tree, schema, path)
        hints = get_type_hints(schema)
        self._unknown_keys(tree, hints, path)
        groups = {name: hint for name, hint in hints.items() if _is_group(hint)}
        values = self._leaves(tree, {n: h for n, h in hints.items() if n not in groups}, path)
        for name, hint in groups.items():
            one = self._table if _is_table(hint) else self.build
            values[name] = one(tree.get(name), hint, _join(path, name))
        return self._construct(schema, values, path) if len(self.faults) == before else None

    def _table(self, tree: Any, hint: Any, path: str) -> Any:
        """Groups of one kind by names of the user's; what one leaves out has its default."""
        if not isinstance(tree, Mapping):
            return self._not_a_group(tree, path)
        _, schema = get_args(hint)
        filled = {
            str(name): {**defaults_of(schema), **entry} if isinstance(entry, Mapping) else entry
            for name, entry in tree.items()
        }
        return {
            name: self.build(entry, schema, _join(path, name)) for name, entry in filled.items()
        }

    def check_scale(self, tree: Any, known: Mapping[str, Any], path: str) -> None:
        """Unknown keys of `scale`; wrong values show where they are interpolated."""
        if not isinstance(tree, Mapping):
            return self._not_a_group(tree, path)
        self._unknown_keys(tree, known, path)
        for key in known.keys() & tree.keys():
            if isinstance(known[key], Mapping):
                self.check_scale(tree[key], known[key], _join(path, key))
        return None

    def _variant(self, tree: Mapping[str, Any], schema: type, path: str) -> tuple[type, Any]:
        """The dataclass that the group's option chose by `kind`; other groups have just one."""
        if path not in VARIANTS:
            return schema, tree
        kinds = VARIANTS[path]
        kind = tree.get("kind")
        rest = {key: value for key, value in tree.items() if key != "kind"}
        if kind not in kinds:
            self._note(f"unknown {path}.kind", repr(kind), nearest(str(kind), kinds))
            return schemas.SameAsSftConfig, {}
        return kinds[kind], rest

    def _unknown_keys(self, tree: Mapping[str, Any], hints: Mapping[str, Any], path: str) -> None:
        for key in tree:
            if key not in hints:
                hint = nearest(_join(path, str(key)), [_join(path, name) for name in hints])
                self._note("unknown config key", f"{_join(path, str(key))}={tree[key]}", hint)

    def _leaves(
        self, tree: Mapping[str, Any], hints: Mapping[str, Any], path: str
    ) -> dict[str, Any]:
        """The values that are no groups, converted to their declared types."""
        leaf = make_dataclass("Leaf", [(n, h, field(default=REQUIRED)) for n, h in hints.items()])
        node = OmegaConf.structured(leaf)
        for name, hint in hints.items():
            self._set(node, name, tree.get(name, REQUIRED), hint, path)
        missing = OmegaConf.missing_keys(node)
        plain = OmegaConf.to_container(node, throw_on_missing=False)
        assert isinstance(plain, dict)
        return {str(name): value for name, value in plain.items() if name not in missing}

    def _set(self, node: DictConfig, name: str, value: Any, hint: Any, path: str) -> None:
        key = _join(path, name)
        if value == REQUIRED:
            self._note(f"the config key {key} has no value", "", f"give it one: {key}=VALUE")
            return
        try:
            node[name] = _member(value, hint)
        except ValidationError:
            self._note(f"wrong value for the config key {key}", repr(value), _wanted(hint))

    def _not_a_group(self, tree: Any, path: str) -> None:
        option = path.replace(".", "/")
        self._note(
            f"{path} is a group of settings, not a value",
            f"{path}={tree}",
            f"choose one of its options with {option}={tree}, or set one key with {path}.KEY=VALUE",
        )

    def _construct(self, schema: type, values: dict[str, Any], path: str) -> Any:
        try:
            return schema(**values)
        except UserError as error:
            self._note(_with_path(error.what, schema, path), error.got, error.do)

    def _note(self, what: str, got: str, do: str) -> None:
        self.faults.append(UserError(what, got=got, do=do))


def _member(value: Any, hint: Any) -> Any:
    """The enum's member of that value (OmegaConf alone goes by the members' names)."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return next((member for member in hint if member.value == value), value)
    return value


def _is_group(hint: Any) -> bool:
    return any(is_dataclass(option) for option in (hint, *get_args(hint)))


def _is_table(hint: Any) -> bool:
    """Groups of one kind by names of the user's."""
    return get_origin(hint) in {dict}


def _with_path(what: str, schema: type, path: str) -> str:
    """A dataclass names its own key; the user wants the whole one: `align.lr must be positive`."""
    *_, group = path.rpartition(".")
    what = what.removeprefix(f"{group}.")
    knows = what.split()[0] in {spec.name for spec in fields(schema)}
    if not path:
        return what
    return f"{path}.{what}" if knows else f"{path}: {what}"


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _wanted(hint: Any) -> str:
    """What a value may be, in words: `a float`, `one of ppo, dpo`."""
    options = [option for option in get_args(hint) or (hint,) if option is not NoneType]
    kind = options[0]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(str(member.value) for member in kind)}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return f"give {names.get(kind, str(hint))}" + (
        " or null" if len(options) < len(get_args(hint)) else ""
    )
