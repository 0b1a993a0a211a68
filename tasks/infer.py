"""Which task a request belongs to.

Knows the tasks seen so far, by their patterns, and the answers that are asked for. Knows no records
and nothing of how feedback is learned from.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from threading import RLock

from tta.protocols import Embedder, Seen, Sightings
from tta.tasks.split import split
from tta.tasks.table import Asked, Table
from tta.types import Request, Task

_WORD = re.compile(r"[^\W_]+")
_BLOCK = 256
_SLUG_WORDS = 4
_SLUG_CHARACTERS = 40


class TaskInferer:
    """A request's explicit task, else the likeliest known one, else a new one.

    What is likely is said by the instruction, split from what it is asked of; where there is none,
    by the answers that are asked for: requests that share a closed set of them are mostly of one
    task. How alike two patterns of one task are is learned, also from tasks that are told.
    See `table` for the mixture.
    """

    def __init__(self, seen: Seen, embedder: Embedder) -> None:
        self._seen = seen
        self._embedder = embedder
        self._followed: dict[str, _Followed] = {}
        self._lock = RLock()

    def infer(self, request: Request, *, form: str = "", width: int = 0) -> Task:
        """The task of `request` in the scope of its user; at most one embedding call.

        `form` names the answers that are asked for ("" when open) and `width` says how many there
        are, if they are a closed set. The prompt is embedded along with its pattern, so that recall
        finds both in the cache.
        """
        found = split(request.prompt, closed=width > 0)
        plain = Task(name="", pattern=found.pattern, bare=found.bare, form=form, width=width)
        if request.task is not None:
            return replace(plain, name=request.task)
        sightings = self._seen.sightings(user=request.user)
        same = sightings.patterns.get(found.pattern)
        if same is not None:
            return replace(plain, name=same)
        return self._likeliest(request, plain, sightings)

    def kin(self, user: str, task: str) -> Sequence[tuple[str, float]]:
        """The other tasks of a user, with the nats for being one with this, by what is asked alone,
        the likeliest first."""
        sightings = self._seen.sightings(user=user)
        with self._lock:
            return self._table(user, sightings).kin(task, sightings.repeats)

    def closed(self, user: str, task: str) -> int:
        """How many answers there were to choose from, in the newest request of a task; 0 if it was
        an open one."""
        sightings = self._seen.sightings(user=user)
        with self._lock:
            table = self._table(user, sightings)
            return table.newest[table.rows[task]].width if task in table.rows else 0

    def forget(self, user: str) -> None:
        """Let go of what is held of a user."""
        with self._lock:
            self._followed.pop(user, None)

    def _likeliest(self, request: Request, plain: Task, sightings: Sightings) -> Task:
        vector = self._embedder.embed([plain.pattern, request.prompt])[0]
        asked = Asked.of(plain, vector)
        with self._lock:
            table = self._table(request.user, sightings)
            verdict = table.judge(asked, sightings.repeats)
            name = verdict.task or slug(plain.pattern, table.rows.keys() | sightings.gone)
        return replace(
            plain,
            name=name,
            new=verdict.task is None,
            similarity=verdict.similarity,
            posterior=verdict.posterior,
            evidence=verdict.evidence,
        )

    def _table(self, user: str, sightings: Sightings) -> Table:
        """The user's tasks, up to date; after a forgetting made anew."""
        followed = self._followed.get(user)
        if followed is None or followed.sightings is not sightings:
            followed = self._followed[user] = _Followed(sightings, Table())
        followed.catch_up(self._embedder)
        return followed.table


@dataclass(slots=True)
class _Followed:
    sightings: Sightings
    table: Table
    read: int = 0

    def catch_up(self, embedder: Embedder) -> None:
        """Take in what is new, a block at a time: what has settled is not embedded."""
        distinct = self.sightings.distinct
        while self.read < len(distinct):
            block = distinct[self.read : self.read + _BLOCK]
            wanted = [seen.pattern for seen in block if not self.table.is_settled(seen.task)]
            vectors = dict(zip(wanted, embedder.embed(wanted), strict=True)) if wanted else {}
            for seen in block:
                if self.table.is_settled(seen.task):
                    self.table.tally(seen)
                else:
                    self.table.add(seen, vectors[seen.pattern])
            self.read += len(block)


def slug(pattern: str, taken: Container[str]) -> str:
    """A readable name for a task: the pattern's first words, numbered when it is taken."""
    words = _WORD.findall(pattern)[:_SLUG_WORDS]
    base = "-".join(words)[:_SLUG_CHARACTERS].strip("-") or "task"
    name, n = base, 1
    while name in taken:
        n += 1
        name = f"{base}-{n}"
    return name
