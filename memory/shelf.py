"""Vectors of one sort in one matrix, and the exact search of it.

Knows numpy and where rows lie. Knows nothing of users, records, or what outlives the process.

What a search returns depends on what is held alone, not on the order of puts and removals: scores
are computed row by row, and equal ones stand in the order of their ranks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]
    IntArray = NDArray[np.integer[Any]]

SKETCHED_FROM = 8192
"""Rows from which a search reads the sketch first: fewer are read whole in under 1 ms."""

_WIDTH = 96  # with the length of the rest: rows of whole cache lines
_SAMPLE = 2048
_FIRST = 256
_GATHERED = 1024
_SLACK = 1e-5
"""More than any two ways of summing one dot product of float32 unit vectors differ by."""


class Place(NamedTuple):
    """Where a vector belongs: a search reads one shelf, whole or what has certain labels.

    Of equal scores the lower rank comes first.
    """

    shelf: str
    label: str
    rank: int


class Shelf:
    """Row i of `matrix` belongs to `names[i]`; rows 0 to len(names) are in use."""

    def __init__(self, dim: int, *, sketched_from: int = SKETCHED_FROM) -> None:
        self.names: list[str] = []
        self.row: dict[str, int] = {}
        self.matrix = np.empty((16, dim), dtype=np.float32)
        self._labels = np.empty(16, dtype=np.int32)
        self._ranks = np.empty(16, dtype=np.int64)
        self._codes: dict[str, int] = {}
        self._sketched_from = sketched_from
        self._sketch: _Sketch | None = None

    def put(self, ids: Sequence[str], vectors: FloatArray, places: Sequence[Place]) -> None:
        """Keep vectors, shape (len(ids), dim); a known id gets its new vector and place."""
        for name in ids:
            if name not in self.row:
                self.row[name] = len(self.names)
                self.names.append(name)
        self._grow(len(self.names))
        rows = np.fromiter((self.row[name] for name in ids), np.intp, len(ids))
        codes = self._codes
        self.matrix[rows] = vectors
        self._labels[rows] = [codes.setdefault(place.label, len(codes)) for place in places]
        self._ranks[rows] = [place.rank for place in places]
        self._sketch_rows(rows)

    def adopt(self, ids: Sequence[str], vectors: FloatArray, places: Sequence[Place]) -> None:
        """As `put` on an empty shelf, but `vectors` are not copied before they must be changed."""
        self.matrix = vectors
        self._labels = np.zeros(len(ids), dtype=np.int32)
        self._ranks = np.fromiter((place.rank for place in places), np.int64, len(ids))
        self.names = list(ids)
        self.row = {name: row for row, name in enumerate(ids)}
        codes = self._codes
        for row, place in enumerate(places):
            self._labels[row] = codes.setdefault(place.label, len(codes))

    def _grow(self, count: int) -> None:
        if count > len(self.matrix):
            # Half as much again: twice would be gigabytes where there are a million.
            size = max(count, 16, 3 * len(self.matrix) // 2)
            self.matrix = _grown(self.matrix, size)
            self._labels = _grown(self._labels, size)
            self._ranks = _grown(self._ranks, size)
        elif not self.matrix.flags.writeable:
            self.matrix = self.matrix.copy()

    def _sketch_rows(self, rows: IntArray) -> None:
        """What the rows have become; a new sketch is due when the last is of half of them."""
        count, sketch = len(self.names), self._sketch
        if sketch is None or count >= 2 * sketch.learned_from:
            self._sketch = None
        else:
            sketch.put(rows, self.matrix[rows], count)

    def remove(self, name: str) -> None:
        """Let go of an id; one not held is no error."""
        row = self.row.pop(name, None)
        if row is None:
            return
        self._grow(0)
        last = len(self.names) - 1
        moved = self.names.pop()
        if moved != name:
            self.names[row] = moved
            self.row[moved] = row
        parts: list[NDArray[Any]] = [self.matrix, self._labels, self._ranks]
        for part in parts if self._sketch is None else [*parts, self._sketch.rows]:
            part[row] = part[last]
            part[last] = 0

    def vectors(self, ids: Sequence[str], into: FloatArray) -> None:
        """Copy the vectors of `ids` into the rows of `into`; rows of unknown ids stay."""
        rows = np.fromiter((self.row.get(name, -1) for name in ids), np.intp, len(ids))
        held = rows >= 0
        if held.all():
            # "clip", though no row is out of bounds: numpy buffers all of `out` otherwise.
            np.take(self.matrix, rows, axis=0, out=into, mode="clip")
        else:
            into[held] = self.matrix[rows[held]]

    def ranks(self, ids: Sequence[str], labels: Collection[str] | None) -> dict[str, int]:
        """Those of `ids` that are held, under one of `labels` when given, with their rank."""
        codes = {code for label, code in self._codes.items() if labels is None or label in labels}
        held = ((name, self.row[name]) for name in ids if name in self.row)
        return {name: int(self._ranks[row]) for name, row in held if self._labels[row] in codes}

    def search(
        self, vector: FloatArray, k: int, labels: Collection[str] | None = None
    ) -> list[tuple[str, float]]:
        """The `k` best (id, dot product), best first, of equals the lower rank."""
        vector = np.asarray(vector, dtype=np.float32)
        rows = self._candidates(vector, k, labels)
        scores = np.vecdot(self.matrix.take(rows, axis=0), vector)
        best = np.lexsort((self._ranks[rows], -scores))[:k]
        return [(self.names[rows[i]], float(scores[i])) for i in best]

    def _candidates(self, vector: FloatArray, k: int, labels: Collection[str] | None) -> IntArray:
        """Rows among which the `k` best certainly are."""
        count = len(self.names)
        allowed = None if labels is None else self._labelled(labels)
        rows = np.arange(count) if allowed is None else np.flatnonzero(allowed)
        if len(rows) <= max(k, _GATHERED):
            return rows
        if self._sketch is None and count >= self._sketched_from:
            self._sketch = _Sketch(self.matrix[:count])
        if self._sketch is not None:
            bounds = _only(self._sketch.bounds(vector, count), allowed)
            kth = self._kth_of_first(vector, bounds, k)
            found = np.flatnonzero(bounds >= kth - _SLACK)
            if len(found) <= count // 4:
                return found
        scores = _only(self.matrix[:count] @ vector, allowed)
        kth = np.partition(scores, count - k)[count - k]
        return np.flatnonzero(scores >= kth - _SLACK)

    def _labelled(self, labels: Collection[str]) -> NDArray[np.bool_] | None:
        """Which rows have one of the labels; None if all have."""
        if self._codes.keys() <= set(labels):
            return None
        allowed = np.zeros(len(self.names), dtype=np.bool_)
        for label in labels:
            if label in self._codes:
                allowed |= self._labels[: len(self.names)] == self._codes[label]
        return allowed

    def _kth_of_first(self, vector: FloatArray, bounds: FloatArray, k: int) -> float:
        """The k-th score among the most promising rows: the k-th of all is no lower."""
        count, first = len(bounds), max(k, _FIRST)
        rows = np.argpartition(bounds, count - first)[count - first :]
        scores = self.matrix.take(rows, axis=0) @ vector
        return float(np.partition(scores, first - k)[first - k])


class _Sketch:
    """Upper bounds of all dot products with a vector, from a quarter of the numbers or fewer.

    With P the projection on the leading principal directions of a sample of the rows,
    x.q = Px.Pq + (x - Px).(q - Pq) <= Px.Pq + |x - Px| |q - Pq| (Cauchy and Schwarz). A row of the
    sketch is (Px, |x - Px|), so that one product gives every bound. The sample decides how tight
    the bounds are, never what is found.
    """

    def __init__(self, matrix: FloatArray) -> None:
        """`matrix`: all rows, shape (rows, dim)."""
        self.learned_from = len(matrix)
        width = min(_WIDTH - 1, matrix.shape[1] // 4)
        places = np.linspace(0, len(matrix) - 1, min(_SAMPLE, len(matrix))).astype(np.intp)
        sample = matrix[places].astype(np.float64)
        _, directions = np.linalg.eigh(sample.T @ sample)
        self._basis = np.ascontiguousarray(directions[:, -width:], dtype=np.float32)
        self.rows = self._of(matrix)

    def put(self, rows: IntArray, vectors: FloatArray, count: int) -> None:
        """Sketch the vectors of these rows, of `count` in use."""
        if count > len(self.rows):
            self.rows = _grown(self.rows, max(count, 2 * len(self.rows)))
        self.rows[rows] = self._of(vectors)

    def bounds(self, vector: FloatArray, count: int) -> FloatArray:
        """Upper bounds of the dot products with the first `count` rows, shape (count,)."""
        return np.asarray(self.rows[:count] @ self._of(vector[None, :])[0])

    def _of(self, vectors: FloatArray) -> FloatArray:
        projected = vectors @ self._basis
        left = np.vecdot(vectors, vectors) - np.vecdot(projected, projected)
        # Above what rounding may have taken from the difference of two squares.
        length = np.sqrt(np.maximum(left, 0.0) + 1e-6)
        return np.concatenate([projected, length[:, None]], axis=1, dtype=np.float32)


def _only(scores: FloatArray, allowed: NDArray[np.bool_] | None) -> FloatArray:
    if allowed is not None:
        scores[~allowed] = -np.inf
    return scores


def _grown(part: NDArray[Any], size: int) -> NDArray[Any]:
    grown = np.empty((size, *part.shape[1:]), dtype=part.dtype)
    grown[: len(part)] = part
    return grown
