"""What the data stages can be told of the user's own files, or of a hub's data set. No torch here.

One config a table; they differ in what must be held out: prompts need a test split as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from stages.contracts import StageConfig, UserError, external_input
from stages.records.adapters import adapter_module
from stages.records.sources import SourceConfig
from stages.step0_data.rules.config import RulesConfig, SplitConfig

HELD_OUT = ("validation", "test")


@dataclass(kw_only=True)
class FilesConfig(SourceConfig, StageConfig):
    """A table from files or from the hub: where it is, what its rows are, what is held out.

    validation_path, test_path: files that are those splits; validation_split, test_split: the same
    by the names that `split` goes by. A split that is not brought is drawn by `rules.split`, by
    user, or by prompt where no user is named. others: sources mixed in, by a name of their own;
    where sources have weights, each keeps its share of every split, else all rows are taken.
    """

    validation_path: str | None = external_input(None)
    validation_split: str | None = None
    test_path: str | None = external_input(None)
    test_split: str | None = None
    others: dict[str, SourceConfig] = field(default_factory=dict)
    rules: RulesConfig = field(default_factory=RulesConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        for source in (self, *self.others.values()):
            source.check()
        self._check_mixture()
        self._check_splits_of_a_file()
        for name in self.needs():
            if not (self.brings(name) or getattr(self.rules.split, name)):
                raise UserError(
                    f"no {name} split is brought or drawn",
                    got=f"rules.split.{name}=0",
                    do=f"set rules.split.{name}=0.05, or {name}_path=FILE",
                )

    def _check_mixture(self) -> None:
        if self.adapter in self.others:
            raise UserError(
                f"others.{self.adapter} has the name of the first source",
                got=f"adapter={self.adapter}",
                do="call it something else",
            )
        weights = {self.adapter: self.weight, **{n: s.weight for n, s in self.others.items()}}
        unweighted = [name for name, weight in weights.items() if weight is None]
        if 0 < len(unweighted) < len(weights):
            raise UserError(
                "some sources of a mixture have a weight and some have none",
                got=f"none: {', '.join(unweighted)}",
                do="give each a weight, or none",
            )

    def _check_splits_of_a_file(self) -> None:
        """A split's name chooses among the files of a folder; one file has all its rows."""
        for name in HELD_OUT:
            alone = self.path and not getattr(self, f"{name}_path") and not Path(self.path).is_dir()
            if alone and getattr(self, f"{name}_split"):
                raise UserError(
                    f"{name}_split cannot choose among the rows of one file",
                    got=f"{name}_split={getattr(self, f'{name}_split')}, path={self.path}",
                    do=f"give a folder with files of both names, or {name}_path=FILE",
                )

    def weights(self) -> dict[str, float] | None:
        """Of the sources by name; None where all rows are taken."""
        if self.weight is None:
            return None
        return {self.adapter: self.weight} | {n: s.weight or 0.0 for n, s in self.others.items()}

    def needs(self) -> tuple[str, ...]:
        """The splits that later stages read beside train."""
        return ("validation",)

    def brings(self, name: str) -> bool:
        """Whether the user named a source for this split."""
        return bool(getattr(self, f"{name}_path") or getattr(self, f"{name}_split"))

    def sources(self) -> Iterator[tuple[str, str | None, SourceConfig]]:
        """Each source with its name and its split; None: what is not brought is drawn from it."""
        own = {spec.name: getattr(self, spec.name) for spec in fields(SourceConfig)}
        source = SourceConfig(**own)
        yield self.adapter, None, source
        for split in filter(self.brings, HELD_OUT):
            path, name = getattr(self, f"{split}_path"), getattr(self, f"{split}_split")
            yield self.adapter, split, replace(source, path=path or source.path, split=name)
        for name, other in self.others.items():
            yield name, None, other

    def versions(self) -> dict[str, str]:
        """What a hub's data sets are now."""
        from stages.records.files.hub import resolve_revision

        sources = {self.adapter: self, **self.others}
        return {f"hub {n}": resolve_revision(s) for n, s in sources.items() if not s.path}

    def modules(self) -> list[str]:
        """The formats' modules, which are imported by name."""
        return [adapter_module(s.adapter) for s in (self, *self.others.values())]


@dataclass(kw_only=True)
class PromptFilesConfig(FilesConfig):
    """Prompts, from which the run's answers are sampled and judged: the models meet test last."""

    rules: RulesConfig = field(
        default_factory=lambda: RulesConfig(split=SplitConfig(validation=0.1, test=0.1))
    )

    def needs(self) -> tuple[str, ...]:
        """Evaluation reads test."""
        return HELD_OUT
