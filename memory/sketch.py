"""What a search reads before the vectors themselves: a sketch of each, and cells of like ones.

Knows numpy. Knows nothing of names, labels, or where rows lie.
"""

from __future__ import annotations

from array import array
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
_ROUNDS = 4
_EACH = 32
"""Of these many rows for each cell its middle is learned."""
_READ = 32
"""Times the square root of their number: how many rows a search in cells reads."""


class Rows:
    """Rows of float32 that grow without being copied: blocks, each half as long as all before."""

    def __init__(self, dim: int, first: FloatArray | None = None) -> None:
        """`first`: rows that are there, not copied before they must be changed."""
        self._dim = dim
        self._blocks = [np.empty((16, dim), dtype=np.float32) if first is None else first]
        self._starts = np.array([0, len(self._blocks[0])])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def reserve(self, count: int) -> None:
        """Have room for `count` rows, all of which can be written."""
        if count > len(self):
            size = max(16, count - len(self), len(self) // 2)
            self._blocks.append(np.empty((size, self._dim), dtype=np.float32))
            self._starts = np.append(self._starts, len(self) + size)
        if not self._blocks[0].flags.writeable:
            self._blocks[0] = self._blocks[0].copy()

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

    def _split(self, rows: IntArray) -> list[tuple[FloatArray, IntArray, IntArray]]:
        """By block: the block, which of `rows` are in it, and where in it."""
        which = np.searchsorted(self._starts, rows, side="right") - 1
        found = []
        for number in np.unique(which).tolist():
            at = np.flatnonzero(which == number)
            found.append((self._blocks[number], at, rows[at] - self._starts[number]))
        return found


class Sketch:
    """Upper bounds of all dot products with a vector, from a quarter of the numbers or fewer.

    With P the projection on the leading principal directions of a sample of the rows,
    x.q = Px.Pq + (x - Px).(q - Pq) <= Px.Pq + |x - Px| |q - Pq| (Cauchy and Schwarz). A row of the
    sketch is (Px, |x - Px|), so that one product gives every bound. The sample decides how tight
    the bounds are, never what is found.
    """

    def __init__(self, matrix: Rows, count: int, *, celled: bool = False) -> None:
        """Of the first `count` rows; `celled`: so many that a search shall not read all."""
        self.learned_from = count
        places = np.linspace(0, count - 1, min(_SAMPLE, count)).astype(np.intp)
        sample = matrix.take(places).astype(np.float64)
        width = min(_WIDTH - 1, sample.shape[1] // 4)
        _, directions = np.linalg.eigh(sample.T @ sample)
        self._basis = np.ascontiguousarray(directions[:, -width:], dtype=np.float32)
        self.rows = Rows(width + 1)
        self.rows.reserve(count)
        for start in range(0, count, _PAGE):
            rows = np.arange(start, min(count, start + _PAGE))
            self.rows.put(rows, self.of(matrix.take(rows)))
        self.cells = Cells(self.rows, count) if celled else None

    def put(self, rows: IntArray, vectors: FloatArray, count: int) -> None:
        """Sketch the vectors of these rows, of `count` in use."""
        made = self.of(vectors)
        self.rows.reserve(count)
        self.rows.put(rows, made)
        if self.cells is not None:
            self.cells.put(rows, made)

    def move(self, last: int, row: int) -> None:
        """The last row takes the place of `row`, which goes."""
        self.rows.move(last, row)
        if self.cells is not None:
            self.cells.move(last, row)

    def bounds(self, vector: FloatArray, count: int) -> FloatArray:
        """Upper bounds of the dot products with the first `count` rows, shape (count,)."""
        return self.rows.dot(self.of(vector[None, :])[0], count)

    def near(
        self, vector: FloatArray, wanted: int, allowed: NDArray[np.bool_] | None
    ) -> IntArray:
        """Rows of the cells nearest to a vector; only where there are cells."""
        assert self.cells is not None
        return self.cells.near(self.of(vector[None, :])[0], wanted, allowed)

    def bounds_of(self, vector: FloatArray, rows: IntArray) -> FloatArray:
        """The same for some rows, shape (len(rows),)."""
        return np.asarray(self.rows.take(rows) @ self.of(vector[None, :])[0])

    def of(self, vectors: FloatArray) -> FloatArray:
        """The sketches of vectors, shape (len(vectors), width)."""
        projected = vectors @ self._basis
        left = np.vecdot(vectors, vectors) - np.vecdot(projected, projected)
        # Above what rounding may have taken from the difference of two squares.
        length = np.sqrt(np.maximum(left, 0.0) + 1e-6)
        return np.concatenate([projected, length[:, None]], axis=1, dtype=np.float32)


class Cells:
    """Rows of a sketch by the nearest of some middles (an inverted file: Jegou, Douze and Schmid,
    2011). A search reads the cells nearest to what is asked, so it may miss what lies in others."""

    def __init__(self, sketch: Rows, count: int) -> None:
        self._middles = _middles(sketch, count)
        self._cell = array("i")
        self._members = [array("i") for _ in self._middles]
        for start in range(0, count, _PAGE):
            rows = np.arange(start, min(count, start + _PAGE))
            self._file(rows, self._nearest(sketch.take(rows)))

    def put(self, rows: IntArray, sketched: FloatArray) -> None:
        """Rows that are new, or have another sketch."""
        known = rows[rows < len(self._cell)].tolist()
        for row in known:
            self._members[self._cell[row]].remove(row)
        self._file(rows, self._nearest(sketched))

    def move(self, last: int, row: int) -> None:
        """The last row takes the place of `row`, which goes."""
        self._members[self._cell[row]].remove(row)
        cell = self._cell.pop()
        if last != row:
            self._members[cell].remove(last)
            self._members[cell].append(row)
            self._cell[row] = cell

    @property
    def wanted(self) -> int:
        """How many rows a search should read."""
        return int(_READ * sqrt(len(self._cell)))

    def near(
        self, sketched: FloatArray, wanted: int, allowed: NDArray[np.bool_] | None
    ) -> IntArray:
        """At least `wanted` of the allowed rows if there are as many, cell by cell, those of the
        cells nearest to a sketch first."""
        found: list[IntArray] = []
        for cell in np.argsort(self._middles[:, :-1] @ -sketched[:-1]).tolist():
            rows = np.array(self._members[cell], dtype=np.intp)
            found.append(rows if allowed is None else rows[allowed[rows]])
            wanted -= len(found[-1])
            if wanted <= 0:
                break
        return np.concatenate(found)

    def _file(self, rows: IntArray, cells: IntArray) -> None:
        for row, cell in zip(rows.tolist(), cells.tolist(), strict=True):
            if row < len(self._cell):
                self._cell[row] = cell
            else:
                self._cell.append(cell)
            self._members[cell].append(row)

    def _nearest(self, sketched: FloatArray) -> IntArray:
        return np.asarray((sketched[:, :-1] @ self._middles[:, :-1].T).argmax(axis=1))


def _middles(sketch: Rows, count: int) -> FloatArray:
    """As many as the square root of `count`, unit length, shape (cells, width): spherical k-means
    (Dhillon and Modha, 2001) of a sample."""
    cells = int(sqrt(count))
    random = np.random.default_rng(0)
    sample = sketch.take(np.sort(random.choice(count, min(count, _EACH * cells), replace=False)))
    sample[:, -1] = 0.0
    middles = sample[random.choice(len(sample), cells, replace=False)]
    for _ in range(_ROUNDS):
        middles /= np.maximum(np.linalg.norm(middles, axis=1, keepdims=True), 1e-6)
        nearest = (sample @ middles.T).argmax(axis=1)
        order = np.argsort(nearest, kind="stable")
        filled, starts = np.unique(nearest[order], return_index=True)
        middles[filled] = np.add.reduceat(sample[order], starts)
    return np.asarray(middles / np.maximum(np.linalg.norm(middles, axis=1, keepdims=True), 1e-6))
