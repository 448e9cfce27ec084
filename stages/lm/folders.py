"""Folders of model files, put in a second place without a second copy where the disk allows."""

import os
import shutil
from pathlib import Path


def link_folder(source: Path, target: Path) -> None:
    """Make `target` hold the files of `source`: hard links, or copies across file systems.

    What stood at `target` goes: a killed try may have left half of it.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
