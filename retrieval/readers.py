"""Opinions about a closed set of answers, in closed form: no language model, no gradient.

Each reader is a small class with `opinion` (log-probabilities) and, if it remembers, `learn`. All
that is learned are sums, or inverses kept by rank-one updates: O(d^2) a lesson at most, in any
order, and taken back exactly. Knows vectors, words and rows of answers; knows neither where they
come from (`bank`) nor how much each opinion counts in the end.

Constants were chosen on BANKING77 and TREC, with labels and with right/wrong bits.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tta.errors import InvalidSetting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tta.protocols import FloatArray

    Rows = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Voters:
    """Remembered records near a request: whose answer is candidate `place` (V,), at which cosine
    (V,), with which weight (V,), negative for refused answers."""

    place: Rows
    cosine: FloatArray
    weight: FloatArray

    @cached_property
    def size(self) -> FloatArray:
        """How much each says, whatever it is: shape (V,)."""
        return np.abs(self.weight)

    @cached_property
    def against(self) -> NDArray[np.bool_]:
        """Who speaks against its answer: shape (V,)."""
        return np.asarray(self.weight <= 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request to which K answers are possible.

    `vector` (d,) and `words` are the request's; `rows` (K,) are the answers' rows in the bank,
    `titles` (K, d) the vectors of what they are called; `names` (K,) the log-probabilities of a
    reader that knows no more than that; `said` what other readers of this bank have answered.
    """

    vector: FloatArray
    words: Sequence[str]
    rows: Rows
    titles: FloatArray
    names: FloatArray
    voters: Voters
    said: dict[str, FloatArray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A remembered record: `target` maps rows of answers to how right they are (summing to 1, or
    less where it is not known); `refused` is the row of the answer that was wrong."""

    vector: FloatArray
    words: Sequence[str]
    target: Mapping[int, float]
    refused: int | None = None
    weight: float = 1.0


class Reader(Protocol):
    """An expert of one bank."""

    def opinion(self, question: Question) -> FloatArray:
        """Log-probabilities (nats), shape (K,), normalised."""

    def learn(self, lesson: Lesson, sign: float) -> None:
        """Take a lesson in (sign 1), or back (sign -1)."""


class Kernel:
    """The nearest remembered cases vote for their answer, the refused ones against it.

        q(a) = (pseudo * names(a) + pos(a)) * exp(-3 neg(a) / (neg(a) + .05))

    pos and neg are sums of weight * exp((cosine - 1) / tau) (Nadaraya 1964, Watson 1964), the names
    a Dirichlet prior. The penalty saturates: no number of refusals silences an answer for good.
    Raises InvalidSetting unless both constants are positive.
    """

    def __init__(self, tau: float, pseudo: float) -> None:
        if tau <= 0 or pseudo <= 0:
            raise InvalidSetting(
                f"tau={tau!r} and pseudo={pseudo!r} must be positive", value=(tau, pseudo)
            )
        self._tau, self._pseudo = tau, pseudo

    def opinion(self, question: Question) -> FloatArray:
        return self.votes(question.voters, question.names)

    def votes(self, voters: Voters, prior: FloatArray) -> FloatArray:
        """`prior`: log-probabilities, shape (K,)."""
        mass = voters.size * np.exp((voters.cosine - 1) / self._tau)
        count = len(prior)
        place = voters.place + count * voters.against
        pos, neg = np.bincount(place, mass, 2 * count).reshape(2, count)
        with np.errstate(divide="ignore"):
            base = np.logaddexp(np.log(self._pseudo) + prior, np.log(pos))
        return normalised(base - 3 * neg / (neg + 0.05))

    def learn(self, lesson: Lesson, sign: float) -> None:
        """Nothing: what it needs is recalled."""


class Recent:
    """A kernel over the last `window` lessons alone, so that a change is noticed."""

    def __init__(self, tau: float, pseudo: float, window: int) -> None:
        self._kernel = Kernel(tau, pseudo)
        self._next = 0
        self._rows = np.full(window, -1, dtype=np.intp)
        self._weights = np.zeros(window)
        self._vectors: FloatArray | None = None

    def opinion(self, question: Question) -> FloatArray:
        if self._vectors is None:
            return self._kernel.votes(NOBODY, question.names)
        place = placed(self._rows, question.rows)
        heard = place >= 0
        voters = Voters(
            place=place[heard],
            cosine=(self._vectors @ question.vector.astype(np.float32))[heard],  # not copied
            weight=self._weights[heard],
        )
        return self._kernel.votes(voters, question.names)

    def learn(self, lesson: Lesson, sign: float) -> None:
        if self._vectors is None:
            # Half the bytes to read at every request.
            self._vectors = np.zeros((len(self._rows), len(lesson.vector)), dtype=np.float32)
        row, weight = _hard(lesson)
        if sign > 0:
            self._rows[self._next], self._weights[self._next] = row, weight
            self._vectors[self._next] = lesson.vector
            self._next = (self._next + 1) % len(self._rows)
        else:  # what had to leave for it does not come back: the window is of lessons, not of days
            same = (self._rows == row) & (self._weights == weight)
            same &= (self._vectors == lesson.vector.astype(np.float32)).all(1)
            # One of those that are alike, the newest: the others were not taken back.
            at = max(np.flatnonzero(same), key=lambda i: (i - self._next) % len(same), default=None)
            if at is not None:
                self._rows[at] = -1


class _OfMeans:
    """A reader of the mean of each answer's lessons. Those of the answers last asked for are kept,
    as the next request mostly asks for the same: making them is most of what it costs."""

    def __init__(self) -> None:
        self._asked: _Asked | None = None

    def _means(self, rows: Rows, titles: FloatArray) -> FloatArray:
        """Shape (K, d)."""
        raise NotImplementedError

    def _sizes(self, means: FloatArray) -> FloatArray:
        """One number of each mean, shape (K,)."""
        raise NotImplementedError

    def _for(self, question: Question) -> _Asked:
        asked, rows, titles = self._asked, question.rows, question.titles
        if asked is None or asked.titles is not titles or not np.array_equal(asked.rows, rows):
            means = self._means(rows, titles)
            asked = self._asked = _Asked(rows, titles, means, self._sizes(means))
        return asked

    def _keep_up(self, rows: Sequence[int]) -> None:
        """There were lessons of these rows."""
        asked = self._asked
        if asked is not None and len(rows) <= _FEW:
            at = np.flatnonzero(np.logical_or.reduce([asked.rows == row for row in rows]))
            asked.means[at] = self._means(asked.rows[at], asked.titles[at])
            asked.sizes[at] = self._sizes(asked.means[at])
        else:
            self._asked = None


@dataclass(slots=True)
class _Asked:
    rows: Rows
    titles: FloatArray
    means: FloatArray
    sizes: FloatArray


_FEW = 3
"""Rows whose means are worth bringing up to date one by one."""


class Centroid(_OfMeans):
    """Nearest class mean, each shrunk towards its answer's name (Rocchio, 1971)."""

    def __init__(self, dim: int, *, shrink: float = 2.0, temperature: float = 20.0) -> None:
        super().__init__()
        self._sums: FloatArray = np.zeros((0, dim))
        self._shrink, self._temperature = shrink, temperature

    def opinion(self, question: Question) -> FloatArray:
        asked = self._for(question)
        cosines = asked.means @ question.vector / np.maximum(asked.sizes, 1e-9)
        return normalised(self._temperature * cosines)

    def learn(self, lesson: Lesson, sign: float) -> None:
        self._sums = grown(self._sums, lesson)
        step = sign * lesson.weight * lesson.vector
        for row, right in lesson.target.items():
            self._sums[row] += right * step
        if lesson.refused is not None:
            self._sums[lesson.refused] -= 0.5 * step
        self._keep_up([*lesson.target, *([] if lesson.refused is None else [lesson.refused])])

    def _means(self, rows: Rows, titles: FloatArray) -> FloatArray:
        return taken(self._sums, rows) + self._shrink * titles

    def _sizes(self, means: FloatArray) -> FloatArray:
        return np.asarray(np.linalg.norm(means, axis=1))


class Ridge:
    """Regularised least squares to one-hot answers, by recursive least squares (Plackett, 1950)."""

    def __init__(
        self, dim: int, *, penalty: float = 1.0, temperature: float = 8.0, names: float = 0.3
    ) -> None:
        self._inverse = np.eye(dim) / penalty
        self._answers: FloatArray = np.zeros((0, dim))
        self._temperature, self._names = temperature, names

    def opinion(self, question: Question) -> FloatArray:
        fitted = taken(self._answers, question.rows) @ question.vector
        return normalised(self._temperature * fitted + self._names * question.names)

    def learn(self, lesson: Lesson, sign: float) -> None:
        if not lesson.target:
            return
        self._answers = grown(self._answers, lesson)
        x, weight = lesson.vector, sign * lesson.weight
        along = self._inverse @ x
        gain = weight * along / (1 + weight * (x @ along))
        error = -(self._answers @ x)
        for row, right in lesson.target.items():
            error[row] += right
        self._answers += np.outer(error, gain)
        subtract_outer(self._inverse, gain, along)


class Discriminant(_OfMeans):
    """Linear discriminant analysis (Fisher, 1936): Gaussian classes with one covariance, their
    means shrunk to the names. The inverse scatter follows by Sherman and Morrison (1950)."""

    def __init__(self, dim: int, *, shrink: float = 1.0, penalty: float = 2.0) -> None:
        super().__init__()
        self._sums: FloatArray = np.zeros((0, dim))
        self._counts: FloatArray = np.zeros(0)
        self._inverse: FloatArray = np.eye(dim) / penalty
        # Of each class those that the scatter holds: each lesson where it most likely belongs.
        self._own: FloatArray = np.zeros((0, dim))
        self._owned: FloatArray = np.zeros(0)
        self._seen, self._shrink = 0.0, shrink

    def opinion(self, question: Question) -> FloatArray:
        asked = self._for(question)
        near = asked.means @ (self._inverse @ question.vector)
        return normalised((self._seen + 30) * (near - asked.sizes / 2))

    def learn(self, lesson: Lesson, sign: float) -> None:
        if not lesson.target:
            return
        self._sums, self._counts = grown(self._sums, lesson), grown(self._counts, lesson)
        self._own, self._owned = grown(self._own, lesson), grown(self._owned, lesson)
        for row, right in lesson.target.items():
            self._sums[row] += sign * lesson.weight * right * lesson.vector
            self._counts[row] += sign * lesson.weight * right
        self._seen += sign * lesson.weight
        row = max(lesson.target, key=lambda r: lesson.target[r])
        self._scatter(lesson.vector, row, sign * lesson.weight * lesson.target[row])
        self._keep_up(list(lesson.target))

    def _scatter(self, vector: FloatArray, row: int, weight: float) -> None:
        """Welford's (1962) update of the scatter around the class mean: whatever the order, it is
        the scatter of what was learned."""
        before, total = self._owned[row], self._owned[row] + weight
        if before > _NONE and total > _NONE:  # the first of a class is its mean
            off = vector - self._own[row] / before
            part = weight * before / total
            along = self._inverse @ off
            scale = part / (1 + part * (off @ along))
            subtract_outer(self._inverse, along, scale * along)
            if self._asked is not None:
                self._asked.sizes -= scale * (self._asked.means @ along) ** 2
        self._own[row] += weight * vector
        self._owned[row] += weight

    def _means(self, rows: Rows, titles: FloatArray) -> FloatArray:
        counts = taken(self._counts, rows)[:, None] + self._shrink
        return np.asarray((taken(self._sums, rows) + self._shrink * titles) / counts)

    def _sizes(self, means: FloatArray) -> FloatArray:
        """How far they spread."""
        return np.asarray(((means @ self._inverse) * means).sum(1))


_NONE = 1e-9
"""What is left of a class's weight when all of it was taken back."""


class Words:
    """Naive Bayes over words, pairs of words and the first three (Maron, 1961): what an embedding
    of the meaning leaves out."""

    def __init__(self, *, pseudo: float = 1.2) -> None:
        # Of each word the rows of the answers it came with, and how often: side by side in RAM, as
        # a request's words may have been seen with a thousand.
        self._counts: dict[str, tuple[array[int], array[float]]] = {}
        self._answers: FloatArray = np.zeros(0)
        self._pseudo = pseudo

    def opinion(self, question: Question) -> FloatArray:
        seen = taken(self._answers, question.rows) + 0.5
        base = seen / seen.sum()
        # Relative to an answer never seen with the word: all of those are alike.
        votes = [self._counts[word] for word in question.words if word in self._counts]
        rows = np.frombuffer(b"".join([rows for rows, _ in votes]), dtype=np.int64)
        count = np.frombuffer(b"".join([counts for _, counts in votes]), dtype=np.float64)
        place = placed(rows, question.rows)
        heard = (place >= 0) & (count > 0)
        place, count = place[heard], count[heard]
        said = np.log1p(count / (self._pseudo * base[place]))
        return normalised(0.5 * np.log(base) + np.bincount(place, said, len(base)))

    def learn(self, lesson: Lesson, sign: float) -> None:
        self._answers = grown(self._answers, lesson)
        for row, right in lesson.target.items():
            amount = sign * lesson.weight * right
            self._answers[row] += amount
            for word in lesson.words:
                rows, counts = self._counts.setdefault(word, (array("q"), array("d")))
                if row in rows:
                    counts[rows.index(row)] += amount
                else:
                    rows.append(row)
                    counts.append(amount)


class Product:
    """A log-linear pool of others (Genest and Zidek, 1986), each to its power."""

    def __init__(self, **powers: float) -> None:
        self._powers = {name.replace("_", "."): power for name, power in powers.items()}

    def opinion(self, question: Question) -> FloatArray:
        said = question.said
        return normalised(sum((p * said[n] for n, p in self._powers.items()), np.zeros(1)))

    def learn(self, lesson: Lesson, sign: float) -> None:
        """Nothing: its parts do."""


def readers(dim: int) -> dict[str, Reader]:
    """The experts of a user's own scope. A new one is a class, and a line here.

    Few products: what others would say the pool learns.
    """
    return {
        "kernel.02": Kernel(0.02, 1e-6),
        "kernel.05": Kernel(0.05, 1e-3),
        "kernel.1": Kernel(0.1, 1e-2),
        "recent": Recent(0.05, 1e-4, 300),
        "ridge": Ridge(dim),
        "centroid": Centroid(dim),
        "lda": Discriminant(dim),
        "words": Words(),
        "kernel*lda": Product(kernel_05=1, lda=1),
        "ridge*words": Product(ridge=1, words=0.3),
        "all": Product(words=0.5, lda=0.5, ridge=0.5, centroid=0.5, kernel_05=0.5),
    }


NOBODY = Voters(place=np.zeros(0, dtype=np.intp), cosine=np.zeros(0), weight=np.zeros(0))


def normalised(scores: FloatArray) -> FloatArray:
    """Log-softmax of `scores`."""
    if not len(scores):
        return np.zeros(0)
    shifted = scores - scores.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def taken(table: FloatArray, rows: Rows) -> FloatArray:
    """Rows of a table that may not have grown to them yet: zeros, then."""
    if not len(rows) or rows.max() < len(table):
        return np.asarray(table[rows])
    found = np.zeros((len(rows), *table.shape[1:]))
    known = rows < len(table)
    found[known] = table[rows[known]]
    return found


def placed(rows: Rows, asked: Rows) -> Rows:
    """Where each of `rows` is among the rows asked for; -1 for those that are not."""
    where = np.full(max(rows.max(initial=-1), asked.max(initial=-1)) + 2, -1, dtype=np.intp)
    where[asked] = np.arange(len(asked))
    return np.asarray(where[rows])  # row -1 is the last place, which is nobody's


def subtract_outer(matrix: FloatArray, a: FloatArray, b: FloatArray) -> None:
    """matrix -= outer(a, b), a block at a time: a whole product would be allocated each time."""
    for start in range(0, len(matrix), _BLOCK):
        stop = start + _BLOCK
        matrix[start:stop] -= a[start:stop, None] * b


_BLOCK = 48
"""Rows of a block: with 384 columns it stays in the cache."""


def grown(table: FloatArray, lesson: Lesson) -> FloatArray:
    """The table with room for the lesson's answers."""
    need = 1 + max([*lesson.target, -1 if lesson.refused is None else lesson.refused])
    if need <= len(table):
        return table
    more = np.zeros((need - len(table), *table.shape[1:]))
    return np.concatenate([table, more])


def _hard(lesson: Lesson) -> tuple[int, float]:
    """What was said outright: the row of an answer, and a weight, negative if it was refused."""
    if lesson.refused is not None:
        return lesson.refused, -lesson.weight
    return max(lesson.target, key=lambda row: lesson.target[row]), lesson.weight
