"""Rows of a data set on the hub, streamed, at a commit that is known before the first row."""

import re
from collections.abc import Iterator

from stages.contracts import UserError
from stages.records.rows import Located
from stages.records.sources import SourceConfig


def resolve_revision(source: SourceConfig) -> str:
    """The commit that the source's revision names now: what an artifact should remember.

    A full commit is taken at its word, so that nothing is asked for it.

    Raises:
        UserError: the hub cannot be asked, or does not know the data set.
    """
    from datasets.exceptions import DatasetsError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if re.fullmatch("[0-9a-f]{40}", source.revision or ""):
        return str(source.revision)
    try:
        return str(HfApi().dataset_info(str(source.hub), revision=source.revision).sha)
    except (OSError, ValueError, DatasetsError, HfHubHTTPError) as error:
        raise _unreachable(source, error) from None


def read_hub(source: SourceConfig, revision: str) -> Iterator[Located]:
    """The rows of one split, counted from 0.

    Raises:
        UserError: no network, an unknown name, subset or split, or access that must be asked for.
    """
    import datasets
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    file = f"{source.hub}@{revision[:12]}"
    try:
        rows = datasets.load_dataset(
            source.hub,
            source.subset,
            data_dir=source.data_dir,
            split=source.split,
            revision=revision,
            streaming=True,
        )
        if isinstance(rows, dict):
            raise UserError(
                f"{source.hub} holds several splits", got="split=null", do=f"one of {list(rows)}"
            )
        for number, values in enumerate(rows):
            yield Located(file, f"row {number}", values)
    except (OSError, ValueError, RuntimeError, DatasetsError, HfHubHTTPError) as error:
        raise _unreachable(source, error) from None


def _unreachable(source: SourceConfig, error: Exception) -> UserError:
    said = str(error).strip().splitlines() or [""]
    if "scripts are no longer supported" in said[0]:
        return UserError(
            f"the data set {source.hub} has a loading script, which is not run",
            got=said[0],
            do="revision=refs/convert/parquet, and data_dir=ITS_SUBSET where it has subsets",
        )
    return UserError(
        f"the data set {source.hub} cannot be read from the hub",
        got=f"{type(error).__name__}: {said[0]}",
        do="check the name, the network (HF_HUB_OFFLINE) and, where access is gated, the login; "
        "or download its files elsewhere and give them with path=FOLDER",
    )
