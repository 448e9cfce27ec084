"""Where records come from: what `data/<table>=NAME` and `data.<table>.<key>=value` set."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from stages.contracts import UserError, check_not_negative, check_positive, external_input


class OnBadRow(StrEnum):
    """What a row that breaks its format does: end the reading, or be counted and listed."""

    error = "error"
    skip = "skip"


@dataclass(kw_only=True)
class SourceConfig:
    """One source of records: a format, and a local path or a data set of the hub."""

    # A name in stages.records.adapters.ADAPTERS, or module:Class of your own.
    adapter: str = "generic"
    # A file, a folder or a glob; instead of the hub. Of a folder whose file names say splits, the
    # files of `split` are read.
    path: str | None = external_input(None)
    hub: str | None = None
    subset: str | None = None  # the hub's config name
    data_dir: str | None = None  # a folder inside the hub's repository
    split: str | None = None
    revision: str | None = None  # a commit, tag or branch of the hub; None is its main branch
    # Of the generic format: record field -> column of the file, dots lead into nested values.
    columns: dict[str, str] = field(default_factory=dict)
    # Of the format itself: the fields of its adapter class (docs/data.md).
    options: dict[str, Any] = field(default_factory=dict)
    on_bad_row: OnBadRow = OnBadRow.error
    max_row_bytes: int = 16 * 2**20  # a longer line or row is a bad row, so memory stays bounded
    max_rows: int = 0  # the first so many rows alone, of each split that is brought; 0: all
    weight: float | None = None  # of this source in a mixture; none has one: all rows of all

    def __post_init__(self) -> None:
        check_positive(self, "max_row_bytes")
        check_not_negative(self, "max_rows")
        if self.weight is not None:
            check_positive(self, "weight")

    def check(self) -> None:
        """Raises UserError for a source that names no data."""
        if not (self.path or self.hub):
            raise UserError(
                f"the {self.adapter} source names no data",
                got="neither path nor hub",
                do="set path=FILE_OR_FOLDER, or hub=OWNER/NAME",
            )
