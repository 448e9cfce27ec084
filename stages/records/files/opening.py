"""Which files a path means, and their bytes, decompressed."""

import bz2
import gzip
import io
import lzma
import re
from pathlib import Path
from typing import BinaryIO, cast

from stages.contracts import UserError

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "text",
    ".md": "text",
}
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
SPLITS = {"train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval"}


def is_saved_dataset(path: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote this folder."""
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def find_files(path: str, split: str | None) -> list[Path]:
    """The files that a path names: one, those of a folder, or of a glob, sorted by name.

    Of a folder in which file or folder names say splits, those of `split` alone.

    Raises:
        UserError: nothing is there, or no file of a known format, or none of the split.
    """
    place = Path(path)
    if place.is_file():
        format_of(place)
        return [place]
    if place.is_dir():
        return _of_split(place, _known(place), split)
    anchor = Path(place.anchor) if place.is_absolute() else Path()
    found = sorted(p for p in anchor.glob(str(place.relative_to(anchor))) if p.is_file())
    if not found:
        raise UserError(
            "the path of a source names nothing",
            got=path,
            do="give a file, a folder or a glob that exists",
        )
    for file in found:
        format_of(file)
    return found


def format_of(path: Path) -> str:
    """What a file's ending says it is.

    Raises:
        UserError: an ending that no reader knows.
    """
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] in COMPRESSIONS:
        endings.pop()
    if not endings or endings[-1] not in FORMATS:
        raise UserError(
            f"{path} has an ending that no reader knows",
            got=path.suffix or "no ending",
            do=f"one of {', '.join(FORMATS)}, also with {', '.join(COMPRESSIONS)}",
        )
    return FORMATS[endings[-1]]


def open_bytes(path: Path) -> BinaryIO:
    """The file's content, decompressed as its ending says."""
    ending = path.suffix.lower()
    if ending == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if ending == ".bz2":
        return cast(BinaryIO, bz2.open(path, "rb"))
    if ending == ".xz":
        return cast(BinaryIO, lzma.open(path, "rb"))
    if ending == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
    return path.open("rb")


def _known(folder: Path) -> list[Path]:
    """Files with an ending of FORMATS; hidden ones, cards and licences are not data."""
    found = []
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        endings = [ending.lower() for ending in file.suffixes if ending not in COMPRESSIONS]
        if file.is_file() and not hidden and endings and endings[-1] in FORMATS:
            found.append(file)
    data = [file for file in found if file.stem.upper() not in ("README", "LICENSE")]
    if not data:
        raise UserError(
            "a folder holds no file that a reader knows",
            got=str(folder),
            do=f"files that end in {', '.join(FORMATS)}, also with {', '.join(COMPRESSIONS)}",
        )
    return data


def _of_split(folder: Path, files: list[Path], split: str | None) -> list[Path]:
    words = {file: _words(file.relative_to(folder)) for file in files}
    if split is None or not any(words[file] & {*SPLITS, split} for file in files):
        return files
    wanted = [file for file in files if split in words[file]]
    if not wanted:
        raise UserError(
            f"no file of {folder} has the split {split!r} in its name",
            got=", ".join(str(file.relative_to(folder)) for file in files[:10]),
            do="name another split, split=null for all of them, or one file as the path",
        )
    return wanted


def _words(path: Path) -> set[str]:
    return set(re.split(r"[^a-z0-9]+|(?<=[a-z])(?=[0-9])", str(path).lower())) | set(
        re.split(r"[^a-z0-9_]+", str(path).lower())
    )
