"""Tasks that feedback shows to be one are merged, and one that it shows to be two is split.

Knows when to look, and at what. Refuses to know how much answers say (`kin`), and where anything is
kept: what comes of it is an event like any other, which can be undone. What the user named is never
touched but by hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from math import log
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tta.protocols import Ledgers, Seen
from tta.tasks.infer import TaskInferer, slug
from tta.tasks.kin import Accepted, for_one, form, slotted, wording
from tta.tasks.mask import MARK
from tta.types import Event, EventKind, Json, Learned, Record, RecordKind

if TYPE_CHECKING:
    from tta.protocols import FloatArray

SURE, LIKELY = log(99), log(19)
"""Odds (nats) from which tasks are merged or split, and from which one more belongs to them."""
TOLD = 1.0
"""As much of it (nats) the answers themselves must tell: what is asked has been judged before."""
ALIKE = log(19)
"""Nats for it, by what is asked, where that differs only in what the answers repeat of it."""
NEAREST = 4
"""Tasks that are looked at, the likeliest by what is asked."""
FARTHEST = -6.0
"""Nats against it, by what is asked, from which a task is not looked at."""
NEWEST = 32
"""Cases that are read of each task."""
PAIRS = 3
"""Contradictions from which a task is tried to be split."""
AGAIN = 1.5
"""A task is looked at again once it has grown by so much."""
_TELLING = (EventKind.RATING, EventKind.CORRECTION, EventKind.EDIT, EventKind.PREFERENCE)


class Regrouped(Ledgers, Seen, Protocol):
    """A memory, as far as tasks are regrouped."""

    def learn(self, event: Event) -> Learned:
        """Keep an event durably."""

    def home(self, event: Event) -> str:
        """The task that an answer, or feedback, is of by now."""

    def event(self, event_id: str) -> Event | None:
        """The event of that id."""

    def is_named(self, *, user: str, task: str) -> bool:
        """Whether the user has ever said which task it is."""

    def taught(self, *, user: str, task: str) -> Mapping[str, str]:
        """The patterns of all that feedback was given on in a task, by feedback."""

    def usual(self, *, user: str, answers: Sequence[str]) -> tuple[Mapping[str, int], int]:
        """In how many tasks each of the answers was accepted, and in how many any was."""


class Regroup:
    """Looks at the task of each piece of feedback, less often the more is known of it."""

    def __init__(self, memory: Regrouped, tasks: TaskInferer) -> None:
        self._memory, self._tasks = memory, tasks
        self._due: dict[tuple[str, str], float] = {}
        self._forms: dict[str, dict[str, tuple[str, str]]] = {}

    def forget(self, user: str) -> None:
        """Let go of what is held of a user."""
        self._due = {key: due for key, due in self._due.items() if key[0] != user}
        self._forms.pop(user, None)

    def after(self, feedback: Event) -> tuple[Learned, ...]:
        """What is merged or split because of this feedback, which has been learned."""
        if feedback.kind not in _TELLING:
            return ()
        user, task = feedback.user, self._memory.home(feedback)
        known = len(self._memory.ledger(user=user, task=task))
        if known < self._due.get((user, task), 1) or self._memory.is_named(user=user, task=task):
            return ()
        self._due[user, task] = known * AGAIN
        events = [*self._merges(user, task)] or [*self._splits(user, task, feedback)]
        because: dict[str, Json] = {"because": feedback.id}
        return tuple(
            self._memory.learn(replace(event, body={**event.body, **because})) for event in events
        )

    def merge(self, user: str, task: str, into: str) -> Learned:
        """Merge two tasks because the user says so."""
        return self._memory.learn(_merged(user, task, into))

    def split(
        self, user: str, task: str, patterns: Sequence[str], into: str | None = None
    ) -> Learned:
        """Split a task because the user says so; without a name it is one of its patterns'."""
        return self._memory.learn(self._split(user, task, patterns, into))

    # ---------------------------------------------------------------------------------- one

    def _merges(self, user: str, task: str) -> Iterator[Event]:
        """The others of which each is likely, and all are surely, one with the task."""
        held = {task: self._cases(user, task)}
        near, total, known = self._near(user, task), 0.0, 0.0
        while near and len(held) <= NEAREST:
            other = max(near, key=lambda name: near[name])
            both = {**held, other: self._cases(user, other)}
            nats = near.pop(other)
            if _are_alike(held.values(), both[other]):
                nats = max(nats, ALIKE)
            found = self._for_one(user, both) if _share(held.values(), both[other]) else 0.0
            if found - known > TOLD and nats + found - known > LIKELY:
                held, total, known = both, total + nats + found - known, found
                new = self._near(user, other).items()
                near |= {name: max(n, near.get(name, n)) for name, n in new if name not in held}
        if total > SURE:
            # The one of which most is known, of equals the oldest.
            into = max(held, key=lambda n: (len(held[n]), -held[n][0].record.created))
            yield from (_merged(user, name, into) for name in held if name != into)

    def _near(self, user: str, task: str) -> dict[str, float]:
        """Tasks that this one may be, with the nats for it by what is asked."""
        near = islice(self._tasks.kin(user, task), NEAREST)
        return {
            name: nats
            for name, nats in near
            if nats > FARTHEST and not self._memory.is_named(user=user, task=name)
        }

    def _for_one(self, user: str, held: Mapping[str, Sequence[Accepted]]) -> float:
        """Nats for all of them being one, by what was accepted in them."""
        answers = [{case.record.answer for case in cases} for cases in held.values()]
        shared = [text for text in set().union(*answers) if sum(text in a for a in answers) > 1]
        known, tasks = self._memory.usual(user=user, answers=shared)
        others = tasks - len(held) + 1
        usual = {text: (times - len(held)) / others for text, times in known.items()}
        return for_one([*held.values()], self._vectors(held.values()), usual)

    def _vectors(self, parts: Iterable[Sequence[Accepted]]) -> FloatArray:
        return self._memory.vectors([case.record for part in parts for case in part])

    def _cases(self, user: str, task: str) -> list[Accepted]:
        """The newest cases of a task, oldest first."""
        closed = self._tasks.closed(user, task)
        records = _newest(self._memory.ledger(user=user, task=task))
        return [self._accepted(record, closed) for record in records]

    def _accepted(self, record: Record, closed: int) -> Accepted:
        if closed:
            return Accepted(record=record, form=record.answer, closed=closed)
        known = self._forms.setdefault(record.user, {})
        if record.id not in known:
            said = form(record.request, record.answer)
            asked = slotted(record.request, record.answer) if MARK in said else ""
            known[record.id] = said, asked
        said, asked = known[record.id]
        return Accepted(record=record, form=said, slotted=asked, closed=closed)

    # ---------------------------------------------------------------------------------- two

    def _splits(self, user: str, task: str, feedback: Event) -> Iterator[Event]:
        """Where what is asked in two wordings is surely answered in two ways."""
        cases = self._cases(user, task)
        newest = next((case for case in cases if case.record.source == feedback.id), None)
        # What was answered once only is no second way of answering.
        often = {form for form, times in Counter(c.form for c in cases).items() if times > 1}
        if newest is None or newest.form not in often:
            return
        against = [case for case in cases if case.form in often - {newest.form}]
        if not against:
            return
        vectors = dict(zip((c.record.id for c in cases), self._vectors([cases]), strict=True))
        said = vectors[newest.record.id]
        near = sorted(against, key=lambda case: -float(vectors[case.record.id] @ said))[:PAIRS]
        patterns = {case.record.source: self._pattern(case.record.source) for case in cases}
        second = patterns[feedback.id]
        # As improbable as it is that just these of all wordings are the two.
        prior = 2 * log(len(cases))
        for other in near:
            first = patterns[other.record.source]
            sides: tuple[list[Accepted], list[Accepted]] = ([], [])
            for case in cases:
                sides[_is_nearer(patterns[case.record.source], second, first)].append(case)
            told = np.stack([vectors[case.record.id] for side in sides for case in side])
            known = self._memory.sightings(user=user).patterns.items()
            leave = [p for p, t in known if t == task and _is_nearer(p, second, first)]
            if leave and -for_one(sides, told, {}) - prior > SURE:
                yield self._split(user, task, leave)
                return

    def _split(
        self, user: str, task: str, patterns: Sequence[str], into: str | None = None
    ) -> Event:
        """What came by some patterns of a task is a task of its own from now on."""
        sightings = self._memory.sightings(user=user)
        taken = {*sightings.patterns.values(), *sightings.gone}
        told = self._memory.taught(user=user, task=task)
        body: dict[str, Json] = {
            "into": into or slug(patterns[0], taken),
            "patterns": list(patterns),
            "taught": [feedback for feedback, pattern in told.items() if pattern in set(patterns)],
        }
        return Event(kind=EventKind.SPLIT, user=user, task=task, body=body)

    def _pattern(self, feedback: str) -> str:
        event = self._memory.event(feedback)
        return str(event.body.get("pattern", "")) if event is not None else ""


def _merged(user: str, task: str, into: str) -> Event:
    """All of a task is of another from now on."""
    return Event(kind=EventKind.MERGED, user=user, task=task, body={"into": into})


def _newest(ledger: Sequence[tuple[int, Record]]) -> list[Record]:
    """The last cases that came and did not go."""
    gone: set[str] = set()
    found: list[Record] = []
    for sign, record in islice(reversed(ledger), 4 * NEWEST):
        if record.kind is not RecordKind.CASE or len(found) == NEWEST:
            continue
        if sign < 0:
            gone.add(record.id)
        elif record.id not in gone:
            found.append(record)
    return found[::-1]


def _is_nearer(pattern: str, one: str, other: str) -> bool:
    return wording(pattern, one) > wording(pattern, other)


def _share(groups: Iterable[Sequence[Accepted]], cases: Sequence[Accepted]) -> bool:
    """Whether any answer, or form of answer, was accepted on both sides."""
    known = {case.form for group in groups for case in group}
    return any(case.form in known for case in cases)


def _are_alike(groups: Iterable[Sequence[Accepted]], cases: Sequence[Accepted]) -> bool:
    """Whether most of what is asked on either side is asked on the other too, but for what the
    answers repeat of it, and is answered in that form there."""
    held = [case for group in groups for case in group]
    return all(_found(one, other) > len(one) / 2 for one, other in ((held, cases), (cases, held)))


def _found(cases: Sequence[Accepted], others: Sequence[Accepted]) -> int:
    known = {(case.slotted, case.form) for case in others if case.slotted}
    return sum((case.slotted, case.form) in known for case in cases)
