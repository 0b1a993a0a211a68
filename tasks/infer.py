"""Which task a request belongs to.

Knows the patterns seen so far and how near two of them are. Knows no records and no feedback.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass, field
from itertools import islice
from threading import RLock
from typing import TYPE_CHECKING

from tta.errors import InvalidSetting
from tta.protocols import Embedder, Patterns
from tta.tasks.mask import pattern as mask
from tta.types import Request, Task

if TYPE_CHECKING:
    from tta.protocols import FloatArray

THRESHOLD = 0.85
"""Least cosine between two instruction patterns for them to be one task."""

_WORD = re.compile(r"[^\W_]+")
_SLUG_WORDS = 4
_SLUG_CHARACTERS = 40


class TaskInferer:
    """A request's explicit task, else that of the nearest known instruction, else a new one.

    `threshold` is the least cosine (all-MiniLM-L6-v2) at which a pattern is given to the task of
    a known one. Raises InvalidSetting outside of [-1, 1].

    A text without an instruction, such as a bare question to be classified, is its own pattern:
    unless one like it was seen before, it opens a task of its own, and what is learned there does
    not reach the others. Name the task of such a stream: `chat(text, task="intents")`.
    """

    def __init__(
        self, patterns: Patterns, embedder: Embedder, *, threshold: float = THRESHOLD
    ) -> None:
        if not -1 <= threshold <= 1:
            raise InvalidSetting(
                f"threshold={threshold!r} is no cosine", value=threshold, hint="Use -1 to 1"
            )
        self._patterns = patterns
        self._embedder = embedder
        self._threshold = threshold
        self._tables: dict[str, _Table] = {}
        self._lock = RLock()

    def infer(self, request: Request) -> Task:
        """The task of `request` in the scope of its user; at most one embedding call.

        The prompt is embedded along with its pattern, so that recall finds both in the cache.
        """
        pattern = mask(request.prompt)
        if request.task is not None:
            return Task(name=request.task, pattern=pattern)
        known = self._patterns.patterns(user=request.user)
        same = known.get(pattern)
        if same is not None:
            return Task(name=same, pattern=pattern)
        return self._nearest(request, pattern, known)

    def _nearest(self, request: Request, pattern: str, known: dict[str, str]) -> Task:
        vector = self._embedder.embed([pattern, request.prompt])[0]
        with self._lock:
            table = self._tables.setdefault(request.user, _Table())
            table.follow(known, self._embedder)
            near, similarity = table.nearest(vector)
        task = known.get(near)
        if task is not None and similarity >= self._threshold:
            return Task(name=task, pattern=pattern, similarity=similarity)
        name = slug(pattern, set(known.values()))
        return Task(name=name, pattern=pattern, similarity=similarity, new=True)


@dataclass(slots=True)
class _Table:
    """The patterns of one user with their vectors; only what is new is read and embedded."""

    known: dict[str, str] = field(default_factory=dict)
    patterns: list[str] = field(default_factory=list)
    vectors: FloatArray | None = None

    def follow(self, known: dict[str, str], embedder: Embedder) -> None:
        """Catch up with `known`; after a forgetting, start over."""
        if known is not self.known:
            self.known, self.patterns, self.vectors = known, [], None
        new = list(islice(reversed(known), len(known) - len(self.patterns)))[::-1]
        if new:
            self._add(new, embedder.embed(new))

    def _add(self, new: list[str], fresh: FloatArray) -> None:
        import numpy as np

        old, used = self.vectors, len(self.patterns)
        if old is None or used + len(new) > len(old):
            # Doubled, so that a long stream of new patterns copies each row a few times at most.
            grown = np.empty((2 * (used + len(new)), fresh.shape[1]), np.float32)
            if old is not None:
                grown[:used] = old[:used]
            self.vectors = old = grown
        old[used : used + len(new)] = fresh
        self.patterns += new

    def nearest(self, vector: FloatArray) -> tuple[str, float]:
        """The nearest pattern (the newest of equals) and the cosine; ("", -1.0)."""
        if self.vectors is None:
            return "", -1.0
        cosines = self.vectors[: len(self.patterns)] @ vector
        best = len(cosines) - 1 - int(cosines[::-1].argmax())
        return self.patterns[best], min(1.0, float(cosines[best]))


def slug(pattern: str, taken: Container[str]) -> str:
    """A readable name for a task: the pattern's first words, numbered when it is taken."""
    words = _WORD.findall(pattern)[:_SLUG_WORDS]
    base = "-".join(words)[:_SLUG_CHARACTERS].strip("-") or "task"
    name, n = base, 1
    while name in taken:
        n += 1
        name = f"{base}-{n}"
    return name
