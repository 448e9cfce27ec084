"""What the data stages can be told of the user's own files, or of a hub's data set. No torch here.

One config a table; they differ in what must be held out: prompts need a test split as well.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path

from stages.contracts import StageConfig, UserError, external_input
from stages.records.adapters import ADAPTERS
from stages.records.sources import SourceConfig
from stages.step0_data.rules.config import RulesConfig, SplitConfig

HELD_OUT = ("validation", "test")


@dataclass(kw_only=True)
class FilesConfig(SourceConfig, StageConfig):
    """A table from files or from the hub: where it is, what its rows are, what is held out.

    validation_path, test_path: files that are those splits; validation_split, test_split: the same
    by the names that `split` goes by. A split that is not brought is drawn by `rules.split`, by
    user, or by prompt where no user is named.
    """

    validation_path: str | None = external_input(None)
    validation_split: str | None = None
    test_path: str | None = external_input(None)
    test_split: str | None = None
    rules: RulesConfig = field(default_factory=RulesConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()
        for name in self.needs():
            if not (self.brings(name) or getattr(self.rules.split, name)):
                raise UserError(
                    f"no {name} split is brought or drawn",
                    got=f"rules.split.{name}=0",
                    do=f"set rules.split.{name}=0.05, or {name}_path=FILE",
                )

    def needs(self) -> tuple[str, ...]:
        """The splits that later stages read beside train."""
        return ("validation",)

    def brings(self, name: str) -> bool:
        """Whether the user named a source for this split."""
        return bool(getattr(self, f"{name}_path") or getattr(self, f"{name}_split"))

    def sources(self) -> Iterator[tuple[str | None, SourceConfig]]:
        """Each source with the split that it is; None: all that is not brought is drawn from it."""
        own = {spec.name: getattr(self, spec.name) for spec in fields(SourceConfig)}
        source = SourceConfig(**own)
        brought = [name for name in HELD_OUT if self.brings(name)]
        yield None, source
        for name in brought:
            path, split = getattr(self, f"{name}_path"), getattr(self, f"{name}_split")
            yield name, replace(source, path=path or source.path, split=split)

    def versions(self) -> dict[str, str]:
        """What a hub's data set is now, and the code that reads this format, by hash."""
        from stages.records.files.hub import resolve_revision

        found = {"adapter": module_digest(ADAPTERS.get(self.adapter, self.adapter))}
        return found if self.path else found | {"hub": resolve_revision(self)}


@dataclass(kw_only=True)
class PromptFilesConfig(FilesConfig):
    """Prompts, from which the run's answers are sampled and judged: the models meet test last."""

    rules: RulesConfig = field(
        default_factory=lambda: RulesConfig(split=SplitConfig(validation=0.1, test=0.1))
    )

    def needs(self) -> tuple[str, ...]:
        """Evaluation reads test."""
        return HELD_OUT


def module_digest(adapter: str) -> str:
    """sha256 of the file that holds `module:Class`: it is imported by name, so nobody else sees it.

    Raises:
        UserError: there is no such module.
    """
    module = adapter.partition(":")[0]
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise UserError(
            "there is no such adapter",
            got=adapter,
            do=f"one of {', '.join(ADAPTERS)}, or module:Class of your own",
        )
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
