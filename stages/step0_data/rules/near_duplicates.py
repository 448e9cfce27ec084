"""Near duplicates: MinHash signatures (rensa) and locality-sensitive hashing, never all pairs.

A signature has 128 minima of hashes of a text's runs of three words. The share of equal minima of
two texts estimates the Jaccard similarity s of their sets of runs, +- sqrt(s (1 - s) / 128).
Texts are compared only if some band of their signatures is equal (Leskovec et al., chapter 3).
"""

import numpy as np

from stages.step0_data.rules.extras import needs_extra

HASHES = 128
WORDS = 3
CHUNK = 4096
FOUND = 0.99  # of pairs at the threshold, at least


class Signatures:
    """Collects texts in chunks; `done` gives their signatures (rows, 128) uint32."""

    def __init__(self, seed: int) -> None:
        with needs_extra("near_duplicates", "rensa"):
            from rensa import RMinHash
        self._minhash, self._seed = RMinHash, seed
        self._waiting: list[list[str]] = []
        self._chunks: list[np.ndarray] = [np.empty((0, HASHES), np.uint32)]

    def add(self, text: str) -> None:
        """The next row's text."""
        self._waiting.append(word_runs(text, WORDS))
        if len(self._waiting) == CHUNK:
            self._sign()

    def done(self) -> np.ndarray:
        """The signatures of all rows."""
        self._sign()
        return np.concatenate(self._chunks)

    def _sign(self) -> None:
        if self._waiting:
            matrix = self._minhash.digest_matrix_from_token_sets(self._waiting, HASHES, self._seed)
            self._chunks.append(np.array(matrix.to_rows(), np.uint32))
            self._waiting = []


def word_runs(text: str, length: int) -> list[str]:
    """All runs of `length` words, in lower case; of a shorter text all of it."""
    words = text.lower().split()
    if len(words) < length:
        return [" ".join(words)]
    return [" ".join(words[i : i + length]) for i in range(len(words) - length + 1)]


def near_duplicates(signatures: np.ndarray, order: np.ndarray, threshold: float) -> np.ndarray:
    """(rows,) bool: rows that resemble one that stays; rows are taken in the order of `order`.

    A row is out if its estimated similarity to a row that stayed before it reaches `threshold`.
    """
    buckets = _buckets(signatures, rows_per_band(threshold))
    stayed: dict[tuple[int, int], list[int]] = {}
    out = np.zeros(len(signatures), bool)
    candidates = np.flatnonzero((buckets >= 0).any(axis=1))
    for row in candidates[np.argsort(order[candidates], kind="stable")]:
        keys = [(band, bucket) for band, bucket in enumerate(buckets[row].tolist()) if bucket >= 0]
        near = sorted({other for key in keys for other in stayed.get(key, ())})
        similar = (signatures[near] == signatures[row]).mean(axis=1) if near else np.zeros(1)
        out[row] = similar.max() >= threshold
        if not out[row]:
            for key in keys:
                stayed.setdefault(key, []).append(int(row))
    return out


def rows_per_band(threshold: float) -> int:
    """The longest bands that still bring together `FOUND` of the pairs at the threshold.

    A pair of similarity s shares a band of r minima with probability 1 - (1 - s^r)^(128/r).
    """
    fitting = [r for r in (1, 2, 4, 8, 16) if 1 - (1 - threshold**r) ** (HASHES // r) >= FOUND]
    return max(fitting, default=1)


def _buckets(signatures: np.ndarray, rows: int) -> np.ndarray:
    """(texts, bands) int64: equal where two texts share a band, -1 where nobody else has it."""
    columns = []
    for start in range(0, HASHES, rows):
        band = np.ascontiguousarray(signatures[:, start : start + rows])
        keys = band.view(np.dtype((np.void, band.dtype.itemsize * rows))).ravel()
        _, bucket, counts = np.unique(keys, return_inverse=True, return_counts=True)
        columns.append(np.where(counts[bucket] > 1, bucket, -1))
    return np.stack(columns, axis=1)
