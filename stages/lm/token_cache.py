"""Text tables as token ids: tokenised once, kept by content, read from disk as they are needed.

    CACHE/tokens/<hash of the table>-<hash of the tokenizer>/
        tokens.bin      all documents end to end, as `encode_document` writes them
        offsets.npy     (documents + 1,) int64: document i is tokens[offsets[i]:offsets[i + 1]]
        meta.json       dtype and number of the tokens

An entry is whole or not there: it is written beside its place and renamed. Two writers take turns
by a lock; where the lock fails them (network folders), the second finds the entry of the first.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload
from uuid import uuid4

import numpy as np

from stages.contracts import Context, InterruptedRunError
from stages.records.schemas import Text
from stages.records.tables import iterate_table, texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEY_DIGITS = 16
BATCH_DOCUMENTS, BATCH_CHARACTERS = 1000, 2**22  # tokenised together, at most
FORMAT = 1  # raised when entries are written in another way


class TokenizedDocuments(Sequence[list[int]]):
    """Documents as token ids, memory-mapped. tokens: (T,) all of them end to end."""

    def __init__(self, entry: Path) -> None:
        meta = json.loads((entry / "meta.json").read_text())
        self.tokens: np.ndarray = np.memmap(entry / "tokens.bin", meta["dtype"], mode="r")
        self._offsets = np.load(entry / "offsets.npy", mmap_mode="r")
        assert len(self.tokens) == meta["tokens"] == self._offsets[-1]

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> "list[list[int]]": ...
    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]  # negative ones count from the end; IndexError beyond
        tokens: list[int] = self.tokens[self._offsets[row] : self._offsets[row + 1]].tolist()
        return tokens


def tokenized_documents(
    table: Path, tokenizer: "PreTrainedTokenizerBase", context: Context
) -> TokenizedDocuments:
    """All documents of a text table, from the cache or tokenised into it.

    Raises:
        InterruptedRunError: asked to stop; nothing is left of what was written.
    """
    from filelock import FileLock

    cache = context.cache or context.checkpoints / "cache"
    entry = cache / "tokens" / f"{_table_key(table)}-{_tokenizer_key(tokenizer)}"
    entry.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(entry.with_name(f"{entry.name}.lock")):
        if not (entry / "meta.json").exists():
            _forget_dead_writers(entry)
            _write(entry, table, tokenizer, context)
    return TokenizedDocuments(entry)


def entries_of_other_tables(cache: Path, kept: Iterable[str]) -> list[Path]:
    """Entries, half-written ones too, of tables with none of the `kept` sha256."""
    keys = {sha256[:KEY_DIGITS] for sha256 in kept}
    entries = (cache / "tokens").glob("*-*")
    return sorted(path for path in entries if path.name.partition("-")[0] not in keys)


def _write(
    entry: Path, table: Path, tokenizer: "PreTrainedTokenizerBase", context: Context
) -> None:
    from stages.lm.checkpoints import sync  # torch: gc imports this module without it

    scratch = entry.with_name(f"{entry.name}.{uuid4().hex}.tmp")
    scratch.mkdir()
    try:
        _fill(scratch, table, tokenizer, context)
        os.rename(scratch, entry)
    except OSError:
        if not (entry / "meta.json").exists():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    sync(entry.parent)


def _fill(
    folder: Path, table: Path, tokenizer: "PreTrainedTokenizerBase", context: Context
) -> None:
    from stages.lm.checkpoints import sync

    dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
    lengths = []
    with (folder / "tokens.bin").open("wb") as file:
        for documents in _encoded(table, tokenizer):
            if context.should_stop():
                raise InterruptedRunError("stopped while tokenising the text")
            lengths += [len(document) for document in documents]
            file.write(np.concatenate([np.array(tokens, dtype) for tokens in documents]).tobytes())
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    np.save(folder / "offsets.npy", offsets)
    meta = {"dtype": dtype.name, "tokens": int(offsets[-1])}
    (folder / "meta.json").write_text(json.dumps(meta))
    for path in (*folder.iterdir(), folder):
        sync(path)


def _encoded(table: Path, tokenizer: "PreTrainedTokenizerBase") -> Iterator[list[list[int]]]:
    from stages.lm.tokens import encode_documents

    for batch in _batches(texts(iterate_table(table, Text))):
        yield encode_documents(tokenizer, batch)


def _batches(stream: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in stream:
        batch.append(text)
        characters += len(text)
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _table_key(table: Path) -> str:
    with table.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:KEY_DIGITS]


def _tokenizer_key(tokenizer: "PreTrainedTokenizerBase") -> str:
    from stages.lm.loading import tokenizer_hash

    marks = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    text = f"{FORMAT} {tokenizer_hash(tokenizer)} {marks}"
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


def _forget_dead_writers(entry: Path) -> None:
    """Under the entry's lock nobody else writes it: what stands half-written is of the dead."""
    for path in entry.parent.glob(f"{entry.name}.*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
