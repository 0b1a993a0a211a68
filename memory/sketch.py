"""What a search reads before the vectors themselves: a sketch of each, and cells of like ones.

Knows numpy. Knows nothing of names, labels, or where rows lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]
    IntArray = NDArray[np.integer[Any]]

_WIDTH = 96  # with the length of the rest: rows of whole cache lines
_SAMPLE = 2048
_PAGE = 65_536
"""Rows sketched at a time: a million at once would take gigabytes."""
_EACH, _ROUNDS = 32, 4
"""Rows for each cell of which its middle is learned, and how often they are gone through."""
_READ = 96
"""Times the square root of their number: how many rows a search in cells reads."""
_WHOLE = 100_000
"""Rows up to which all are kept in one block."""
_ENOUGH = 4
"""Times as many as are wanted: from how many it stops where few are allowed."""


class Rows:
    """Rows of float32 in blocks, each half as long as all before, so that growing copies nothing;
    but while there are few they are copied into one, which is read faster."""

    def __init__(self, dim: int, first: FloatArray | None = None) -> None:
        """`first`: rows that are there, not copied before they must be changed."""
        self._dim = dim
        self._blocks = [np.empty((16, dim), dtype=np.float32) if first is None else first]
        self._given = int(first is not None)
        self._starts = np.array([0, len(self._blocks[0])])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def reserve(self, count: int) -> None:
        """Have room for `count` rows, all of which can be written."""
        if count > len(self):
            size = max(16, count - len(self), len(self) // 2)
            self._grow(size)
            self._starts = np.cumsum([0, *map(len, self._blocks)])
        if not self._blocks[0].flags.writeable:
            self._blocks[0] = self._blocks[0].copy()

    def _grow(self, size: int) -> None:
        own = self._blocks[self._given :]
        have = sum(map(len, own))
        if have + size > _WHOLE:
            self._blocks.append(np.empty((size, self._dim), dtype=np.float32))
            return
        block = np.empty((have + size, self._dim), dtype=np.float32)
        np.concatenate([block[:0], *own], out=block[:have])
        self._blocks[self._given :] = [block]

    def take(self, rows: IntArray, into: FloatArray | None = None) -> FloatArray:
        """A copy of these rows, shape (len(rows), dim), if asked for into `into`."""
        if into is None:
            into = np.empty((len(rows), self._dim), dtype=np.float32)
        if len(self._blocks) == 1:
            # "clip", though no row is out of bounds: numpy buffers all of `out` otherwise.
            return np.take(self._blocks[0], rows, axis=0, out=into, mode="clip")
        for block, at, inside in self._split(rows):
            into[at] = block[inside]
        return into

    def put(self, rows: IntArray, values: FloatArray) -> None:
        """Write these rows, for which there is room."""
        if len(self._blocks) == 1:
            self._blocks[0][rows] = values
            return
        for block, at, inside in self._split(rows):
            block[inside] = values[at]

    def move(self, last: int, row: int) -> None:
        """A row takes the place of another; its own becomes zeros."""
        self.put(np.array([row]), self.take(np.array([last])))
        self.put(np.array([last]), np.zeros((1, self._dim), dtype=np.float32))

    def dot(self, vector: FloatArray, count: int) -> FloatArray:
        """The dot products of the first `count` rows with a vector, shape (count,)."""
        found = [part @ vector for part in self.parts(count)]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def parts(self, count: int) -> list[FloatArray]:
        """The first `count` rows, in order, not copied."""
        starts = self._starts[:-1].tolist()
        cut = [block[: max(0, count - at)] for at, block in zip(starts, self._blocks, strict=True)]
        return [part for part in cut if len(part)] or [self._blocks[0][:0]]

    def _split(self, rows: IntArray) -> Iterator[tuple[FloatArray, IntArray, IntArray]]:
        """By block: the block, which of `rows` are in it, and where in it."""
        which = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(which).tolist():
            at = np.flatnonzero(which == number)
            yield self._blocks[number], at, rows[at] - self._starts[number]


class Sketch:
    """Upper bounds of all dot products with a vector, from a quarter of the numbers or fewer.

    With P the projection on the leading principal directions of a sample of the rows,
    x.q = Px.Pq + (x - Px).(q - Pq) <= Px.Pq + |x - Px| |q - Pq| (Cauchy and Schwarz). A row of the
    sketch is (Px, |x - Px|), so that one product gives every bound. The sample decides how tight
    the bounds are, never what is found.
    """

    def __init__(self, matrix: Rows, count: int) -> None:
        """Of the first `count` rows."""
        self.learned_from = count
        self._basis = _directions(matrix, count)
        self._rows = Rows(self._basis.shape[1] + 1)
        for rows in _pages(count):
            self.put(rows, matrix.take(rows))

    def put(self, rows: IntArray, vectors: FloatArray) -> None:
        """Sketch the vectors of rows, new ones or not."""
        projected = vectors @ self._basis
        self._rows.reserve(int(rows.max()) + 1)
        self._rows.put(rows, np.column_stack([projected, _rest(vectors, projected)]))

    def move(self, last: int, row: int) -> None:
        """The last row takes the place of `row`, which goes."""
        self._rows.move(last, row)

    def bounds(self, vector: FloatArray, count: int) -> FloatArray:
        """Upper bounds of the dot products with the first `count` rows, shape (count,)."""
        projected = vector @ self._basis
        return self._rows.dot(np.append(projected, _rest(vector, projected)), count)


class Cells:
    """Rows by the nearest of some middles (an inverted file: Jegou, Douze and Schmid, 2011).

    A search reads the projections of rows (as `Sketch` has them) in the cells nearest to what is
    asked. It may miss what lies in others: how much, `benchmarks/memory.py` measures.
    """

    def __init__(self, matrix: Rows, count: int) -> None:
        """Of the first `count` rows."""
        self.learned_from = count
        self._basis = _directions(matrix, count)
        self._middles = self._learned(matrix, count)
        self._cells = [_Cell(self._basis.shape[1]) for _ in self._middles]
        self._where = np.zeros(0, dtype=np.int32)
        self._count = 0
        for rows in _pages(count):
            self.put(rows, matrix.take(rows))

    def put(self, rows: IntArray, vectors: FloatArray) -> None:
        """File the vectors of rows, new ones or not."""
        for row in rows[rows < self._count].tolist():
            self._cells[self._where[row]].remove(row)
        self._count = max(self._count, int(rows.max()) + 1)
        if self._count > len(self._where):
            room = self._count - len(self._where) + self._count // 2
            self._where = np.pad(self._where, (0, room))
        projected = np.asarray(vectors @ self._basis, dtype=np.float32)
        nearest = (projected @ self._middles.T).argmax(axis=1)
        self._where[rows] = nearest
        for cell, at in _runs(nearest):
            self._cells[cell].add(rows[at], projected[at])

    def move(self, last: int, row: int) -> None:
        """The last row takes the place of `row`, which goes."""
        self._cells[self._where[row]].remove(row)
        if last != row:
            self._cells[self._where[last]].rename(last, row)
            self._where[row] = self._where[last]
        self._count = last

    def near(
        self, vector: FloatArray, k: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[IntArray, FloatArray]:
        """Allowed rows, and about what their dot products with a vector are: of the nearest cells,
        until 96 times the square root of all rows are read, and `4 * k` found."""
        projected = vector @ self._basis
        unread, missing = int(_READ * sqrt(self._count)), _ENOUGH * k
        found: list[tuple[IntArray, FloatArray]] = []
        for number in np.argsort(self._middles @ -projected).tolist():
            cell = self._cells[number]
            rows, scores = cell.rows, cell.sketch @ projected
            unread -= len(rows)
            if allowed is not None:
                right = allowed[rows]
                rows, scores = rows[right], scores[right]
            missing -= len(rows)
            found.append((rows, scores))
            if unread <= 0 and missing <= 0:
                break
        rows, scores = zip(*found, strict=True)
        return np.concatenate(rows), np.concatenate(scores)

    def _learned(self, matrix: Rows, count: int) -> FloatArray:
        """Twice as many middles as the square root of `count`, unit length: spherical k-means
        (Dhillon and Modha, 2001) of a sample."""
        random, cells = np.random.default_rng(0), 2 * int(sqrt(count))
        chosen = np.sort(random.choice(count, min(count, _EACH * cells), replace=False))
        sample = matrix.take(chosen) @ self._basis
        middles = sample[random.choice(len(sample), cells, replace=False)]
        for _ in range(_ROUNDS):
            for cell, at in _runs((sample @ _unit(middles).T).argmax(axis=1)):
                middles[cell] = sample[at].sum(axis=0)
        return _unit(middles)


class _Cell:
    """Some rows, and their projections side by side."""

    def __init__(self, width: int) -> None:
        self._count = 0
        self._rows = np.zeros(0, dtype=np.int32)
        self._sketch = np.zeros((0, width), dtype=np.float32)

    @property
    def rows(self) -> IntArray:
        return self._rows[: self._count]

    @property
    def sketch(self) -> FloatArray:
        return self._sketch[: self._count]

    def add(self, rows: IntArray, sketch: FloatArray) -> None:
        start, self._count = self._count, self._count + len(rows)
        if self._count > len(self._rows):
            room = self._count // 8  # little, as it is lost in every cell
            self._rows = np.pad(self.rows[:start], (0, len(rows) + room))
            self._sketch = np.pad(self._sketch[:start], ((0, len(rows) + room), (0, 0)))
        self._rows[start : self._count] = rows
        self._sketch[start : self._count] = sketch

    def remove(self, row: int) -> None:
        at = int(np.flatnonzero(self.rows == row)[0])
        self._count -= 1
        self._rows[at] = self._rows[self._count]
        self._sketch[at] = self._sketch[self._count]
        self._sketch[self._count] = 0.0

    def rename(self, old: int, new: int) -> None:
        self._rows[np.flatnonzero(self.rows == old)] = new


def _pages(count: int) -> Iterator[IntArray]:
    return (np.arange(at, min(count, at + _PAGE)) for at in range(0, count, _PAGE))


def _runs(numbers: IntArray) -> Iterator[tuple[int, IntArray]]:
    """Each of the numbers there are, and where."""
    order = np.argsort(numbers, kind="stable")
    found, starts = np.unique(numbers[order], return_index=True)
    return zip(found.tolist(), np.split(order, starts[1:]), strict=True)


def _directions(matrix: Rows, count: int) -> FloatArray:
    """The leading principal directions of a sample, shape (dim, width)."""
    places = np.linspace(0, count - 1, min(_SAMPLE, count)).astype(np.intp)
    sample = matrix.take(places).astype(np.float64)
    width = min(_WIDTH - 1, sample.shape[1] // 4)
    _, directions = np.linalg.eigh(sample.T @ sample)
    return np.ascontiguousarray(directions[:, -width:], dtype=np.float32)


def _rest(vectors: FloatArray, projected: FloatArray) -> FloatArray:
    """The lengths of what is left of vectors."""
    left = np.vecdot(vectors, vectors) - np.vecdot(projected, projected)
    # Above what rounding may have taken from the difference of two squares.
    return np.asarray(np.sqrt(np.maximum(left, 0.0) + 1e-6), dtype=np.float32)


def _unit(rows: FloatArray) -> FloatArray:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6))
