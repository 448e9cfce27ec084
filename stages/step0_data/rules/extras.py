"""Libraries that only some rules need: the extra `data`."""

from collections.abc import Iterator
from contextlib import contextmanager

from stages.contracts import UserError


@contextmanager
def needs_extra(key: str, package: str) -> Iterator[None]:
    """Around an import: a missing package is told with the key that asks for it."""
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"{key} needs the package {package}",
            got=str(error),
            do="install it with: pip install 'rlhf-pipeline[data]'",
        ) from None
