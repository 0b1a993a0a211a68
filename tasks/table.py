"""The tasks of one user as a mixture: how likely each of them, or a new one, made a request.

Knows what was seen: patterns with their tasks, vectors, words and forms of answer. Refuses to know
where they are kept, and how a text is split or embedded.

A Dirichlet process of tasks, assigned one request at a time to the likeliest (as DP-means: Kulis &
Jordan, 2012). What stands for the density is the ratio of two distributions of likeness, that of
patterns of one task and that of patterns of others (Fellegi & Sunter, 1969). Both are learned from
what was seen, so there is no fixed threshold: a user who words each request anew makes it lower,
one whose requests repeat to the letter makes it higher.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp, log, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from tta.protocols import Sighting
from tta.tasks.words import BACKGROUND, expected, words

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tta.protocols import FloatArray
    from tta.types import Task

PRIOR = 20.0
"""As many observations as the prior of a distribution of likeness counts for."""
OWN = 5.0
"""As many observations as the user's mean likeness counts for in the mean of one task."""
CENTRED = 15.0
"""After as many patterns the mean of all is taken off by half: what all requests have in common
(the direction "instruction") says nothing of their task (Mu & Viswanath, 2018)."""
STRAY, STRAY_BARE = 0.05, 0.2
"""Share of the requests of a task whose pattern is like none of its others; of content alone that
is to be given one of a closed set of answers."""
ELSEWHERE = 0.5
"""As many requests of a task count for forms of answer that it has not had."""
COINCIDENCE, RAREST = 0.4, 1e-3
"""How probable a closed set is in a task that has not been seen: of two answers, and so on for each
further one; and how probable at least."""
LEAST_SPREAD = 0.063
LEXICAL = 0.4
"""How much of the likeness of instructions is that of their words; of bare content none is."""

SETTLED = 64
"""As many patterns of one task are read; a task's further ones are only counted, so that a memory
of very many requests opens as fast as one of few."""

Kind = tuple[bool, bool]
"""(bare, closed): whether there is no instruction, and whether the answers are a closed set."""

_SAME = {
    (False, False): (0.85, 0.12),
    (False, True): (0.85, 0.12),
    (True, False): (0.85, 0.14),
    (True, True): (0.5, 0.3),
}
_OTHER = {
    (False, False): (0.36, 0.17),
    (False, True): (0.36, 0.17),
    (True, False): (0.3, 0.2),
    (True, True): (0.2, 0.2),
}
"""Mean and spread of likeness before anything was seen; measured with all-MiniLM-L6-v2 on
instructions of superni and questions of BBH (orders 7 and 21)."""


@dataclass(slots=True)
class Spread:
    """A running normal distribution: count, sum and sum of squares, beginning with the prior's."""

    count: float
    total: float
    squares: float

    @classmethod
    def prior(cls, mean: float, spread: float) -> Spread:
        return cls(PRIOR, PRIOR * mean, PRIOR * (mean**2 + spread**2))

    def add(self, value: float, times: float = 1.0) -> None:
        self.count += times
        self.total += times * value
        self.squares += times * value**2

    @property
    def mean(self) -> float:
        return self.total / self.count

    @property
    def deviation(self) -> float:
        return sqrt(max(self.squares / self.count - self.mean**2, LEAST_SPREAD**2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request as the mixture sees it. `vector`: of its pattern, unit length, shape (dim,)."""

    pattern: str
    vector: FloatArray
    bare: bool
    form: str | None
    width: int

    @classmethod
    def of(cls, known: Task | Sighting, vector: FloatArray) -> Asked:
        """What a task was inferred from, or what was seen of one."""
        return cls(
            pattern=known.pattern,
            vector=vector,
            bare=known.bare,
            form=known.form,
            width=known.width,
        )

    @property
    def kind(self) -> Kind:
        return self.bare, self.width > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The likeliest task (None: a new one), its posterior, and the nats that speak for it against
    a new one. `similarity` is the cosine of the pattern to the mean of the nearest task."""

    task: str | None
    posterior: float
    similarity: float
    evidence: Mapping[str, float]


@dataclass(slots=True)
class Table:
    """All tasks of one user; `add` takes sightings in their order."""

    names: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    means: FloatArray = field(default_factory=lambda: np.zeros((8, 0), np.float32))
    counts: FloatArray = field(default_factory=lambda: np.zeros(8))
    likeness: FloatArray = field(default_factory=lambda: np.zeros((8, 2)))
    total: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
    patterns: int = 0
    vocabulary: dict[str, int] = field(default_factory=dict)
    common: list[int] = field(default_factory=list)
    used: NDArray[np.uint16] = field(default_factory=lambda: np.zeros((64, 8), np.uint16))
    forms: dict[str, Counter[int]] = field(default_factory=dict)
    asked: FloatArray = field(default_factory=lambda: np.zeros(8))
    newest: dict[int, Sighting] = field(default_factory=dict)
    same: dict[Kind, Spread] = field(
        default_factory=lambda: {kind: Spread.prior(*p) for kind, p in _SAME.items()}
    )
    other: dict[Kind, Spread] = field(
        default_factory=lambda: {kind: Spread.prior(*p) for kind, p in _OTHER.items()}
    )

    def judge(self, asked: Asked, repeats: Mapping[bool, int]) -> Verdict:
        """Which task a request belongs to; nothing is changed. `repeats`: how often a pattern, by
        whether it is bare, came again to the letter."""
        if not self.names:
            return Verdict(task=None, posterior=1.0, similarity=-1.0, evidence={})
        likeness, cosines = self._likeness(asked)
        pattern = self._by_pattern(likeness, asked.kind, repeats)
        form = self._by_form(asked)
        nats = pattern + form
        # The newest of equals.
        best = len(nats) - 1 - int(nats[::-1].argmax())
        # Of all tasks and a new one, each as probable as the others before the request is read.
        top = max(0.0, float(nats[best]))
        sums = exp(-top) + float(np.exp(nats - top).sum())
        known = nats[best] > 0
        return Verdict(
            task=self.names[best] if known else None,
            posterior=exp((float(nats[best]) if known else 0.0) - top) / sums,
            similarity=min(1.0, float(cosines.max())),
            evidence={"pattern": float(pattern[best]), "form": float(form[best])},
        )

    def kin(self, task: str, repeats: Mapping[bool, int]) -> list[tuple[str, float]]:
        """The other tasks, with the nats for being one with this by pattern and by form of answer,
        the likeliest first; by its mean, and the words of its newest pattern."""
        row = self.rows.get(task)
        if row is None:
            return []
        seen, mean = self.newest[row], self.means[row]
        asked = Asked(
            pattern=seen.pattern,
            vector=mean / max(float(np.linalg.norm(mean)), 1e-9),
            bare=seen.bare,
            form=seen.form,
            width=seen.width,
        )
        likeness, _ = self._likeness(asked)
        nats = self._by_pattern(likeness, asked.kind, repeats) + self._by_form(asked)
        order = [i for i in np.argsort(-nats, kind="stable").tolist() if i != row]
        return [(self.names[i], float(nats[i])) for i in order]

    def is_settled(self, task: str) -> bool:
        """Whether one more pattern would hardly change what is known of the task's."""
        row = self.rows.get(task)
        return row is not None and bool(self.counts[row] >= SETTLED)

    def tally(self, seen: Sighting) -> None:
        """Count a sighting of a settled task, whose pattern is not read."""
        self._had(seen.form, self.rows[seen.task])
        self.newest[self.rows[seen.task]] = seen

    def add(self, seen: Sighting, vector: FloatArray) -> None:
        """Take in a sighting: it teaches what patterns of one task are like, and of others."""
        asked = Asked.of(seen, vector)
        row = self.rows.get(seen.task)
        if self.names:
            self._observe(asked, row)
        if row is None:
            row = self._open(seen.task, len(vector))
        self._count(asked, row)
        self.newest[row] = seen

    # ------------------------------------------------------------------------------ evidence

    def _likeness(self, asked: Asked) -> tuple[FloatArray, FloatArray]:
        """How like each task's patterns this one is (-1 to 1), and the cosines to their means."""
        k = len(self.names)
        means, vector = self.means[:k], asked.vector
        common = self.total / (self.patterns + CENTRED)
        dots, shared = means @ vector, means @ common
        lengths = np.einsum("ij,ij->i", means, means)
        own = vector - common
        centred = (dots - shared) - (vector @ common - common @ common)
        norms = np.sqrt(np.maximum(lengths - 2 * shared + common @ common, 1e-9))
        cosines = centred / (norms * max(float(np.linalg.norm(own)), 1e-6))
        if not asked.bare:
            cosines = (1 - LEXICAL) * cosines + LEXICAL * self._overlap(asked.pattern)
        return cosines, dots / np.sqrt(np.maximum(lengths, 1e-9))

    def _overlap(self, pattern: str) -> FloatArray:
        """How much of what is special in the pattern's words each task's patterns have: shape
        (tasks,), 0 to 1. Words are weighed by the square of their inverse frequency among tasks."""
        k = len(self.names)
        found = words(pattern)
        if not found:
            return np.zeros(k)
        known = [self.vocabulary[word] for word in found if word in self.vocabulary]
        share = self.used[known, :k] / self.counts[:k]
        spread = share.sum(1)
        everywhere = k + BACKGROUND + 1
        imagined = np.array([self.common[i] for i in known])
        weights = np.log(everywhere / (spread + imagined + 0.5)) ** 2
        unknown = [expected(word) for word in found if word not in self.vocabulary]
        rest = sum(log(everywhere / (imagined + 0.5)) ** 2 for imagined in unknown)
        found_in: FloatArray = weights @ np.sqrt(share) / (weights.sum() + rest)
        return found_in

    def _by_pattern(
        self, likeness: FloatArray, kind: Kind, repeats: Mapping[bool, int]
    ) -> FloatArray:
        """Nats for each task against a new one, shape (tasks,)."""
        k = len(self.names)
        same, other = self.same[kind], self.other[kind]
        if times := repeats.get(kind[0], 0):
            same = Spread(same.count, same.total, same.squares)
            same.add(1.0, float(times))
        own = (OWN * same.mean + self.likeness[:k, 1]) / (OWN + self.likeness[:k, 0])
        below = np.minimum(likeness - own, 0.0) / same.deviation
        above = np.maximum(likeness - other.mean, 0.0) / other.deviation
        close = np.exp(-(below**2) / 2) / (same.deviation * (2 * np.pi) ** 0.5)
        far = np.exp(-(above**2) / 2) / (other.deviation * (2 * np.pi) ** 0.5)
        stray = STRAY_BARE if all(kind) else STRAY
        nats: FloatArray = np.log((1 - stray) * close + stray / 2) - np.log(far + 1e-9)
        return nats

    def _by_form(self, asked: Asked) -> FloatArray:
        """Nats for each task against a new one, by the form of answer that is asked for."""
        k = len(self.names)
        having = self.forms.get(asked.form or "", Counter())
        had, others = np.zeros(k), np.full(k, float(len(having)))
        for row, times in having.items():
            had[row], others[row] = times, len(having) - 1
        # How usual the form is elsewhere: many ask for yes or no, hardly two for one long list.
        chosen = max(COINCIDENCE ** (asked.width - 1), RAREST) if asked.width else 1.0
        usual = np.minimum(1.0, (others + chosen) / (k + 1))
        chance = (had + ELSEWHERE * usual) / (self.asked[:k] + ELSEWHERE)
        nats: FloatArray = np.log(chance / usual)
        return nats

    # ------------------------------------------------------------------------------ learning

    def _observe(self, asked: Asked, row: int | None) -> None:
        likeness, _ = self._likeness(asked)
        if row is not None:
            self.same[asked.kind].add(float(likeness[row]))
            self.likeness[row] += (1.0, likeness[row])
            likeness[row] = -np.inf
        nearest = float(likeness.max())
        if nearest > -1.5:
            self.other[asked.kind].add(nearest)

    def _open(self, name: str, dim: int) -> int:
        row = self.rows[name] = len(self.names)
        self.names.append(name)
        if not self.means.shape[1]:
            self.means, self.total = np.zeros((8, dim), np.float32), np.zeros(dim, np.float32)
        if row == len(self.means):
            self.means, self.likeness = _doubled(self.means), _doubled(self.likeness)
            self.counts, self.asked = _doubled(self.counts), _doubled(self.asked)
            self.used = np.pad(self.used, ((0, 0), (0, row)))
        return row

    def _count(self, asked: Asked, row: int) -> None:
        self.counts[row] += 1
        self.means[row] += (asked.vector - self.means[row]) / self.counts[row]
        self.total += asked.vector
        self.patterns += 1
        self._had(asked.form, row)
        if asked.bare:
            return
        places = [self._place(word) for word in words(asked.pattern)]
        self.used[places, row] += 1

    def _had(self, form: str | None, row: int) -> None:
        if form is not None:
            self.asked[row] += 1
            self.forms.setdefault(form, Counter())[row] += 1

    def _place(self, word: str) -> int:
        place = self.vocabulary.get(word)
        if place is None:
            place = self.vocabulary[word] = len(self.common)
            self.common.append(expected(word))
            if place == len(self.used):
                self.used = _doubled(self.used)
        return place


def _doubled(part: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([part, np.zeros_like(part)])
