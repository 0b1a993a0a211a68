"""Which tasks were merged into others, and which patterns were split off: names, and nothing else.

Whatever is said of a task is kept under the name that it came with; what that name stands for by
now is told here. So a merge, or a split, is taken back by letting go of it.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from tta.protocols import Move, Sighting
from tta.types import Event, EventKind, Json, Record

MOVING = (EventKind.MERGED, EventKind.SPLIT)


@dataclass(slots=True)
class Moves:
    """Those in force, by event, in their order."""

    made: dict[str, Move] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.made)

    def home(self, task: str, *, pattern: str = "", feedback: str = "") -> str:
        """The task that something belongs to by now, from the one that it came with."""
        for move in self.made.values():
            if task == move.task and move.takes(pattern, feedback):
                task = move.into
        return task

    def record(self, record: Record) -> Record:
        """The record under the name of its task by now."""
        task = self.home(record.task, feedback=record.source)
        return record if task == record.task else replace(record, task=task)

    def sighting(self, seen: Sighting) -> Sighting:
        """The sighting under the name of its task by now."""
        task = self.home(seen.task, pattern=seen.pattern)
        return seen if task == seen.task else replace(seen, task=task)

    def sources(self, task: str) -> list[str]:
        """The names that what is of a task may have come with, its own first."""
        names = [task]
        for move in reversed(self.made.values()):
            if move.into in names and move.task not in names:
                names.append(move.task)
        return names

    def add(self, event: Event) -> None:
        """A merge or a split, from now on."""
        split = event.kind is EventKind.SPLIT
        self.made[event.id] = Move(
            task=event.task,
            into=str(event.body["into"]),
            patterns=frozenset(texts(event, "patterns")) if split else None,
            because=str(event.body.get("because", "")),
            taught=set(texts(event, "taught")) if split else set(),
        )

    def note(self, event: Event) -> None:
        """Feedback on what was answered before a split goes where its pattern went."""
        pattern = event.body.get("pattern")
        for move in self.made.values():
            if move.patterns is not None and pattern in move.patterns:
                move.taught.add(event.id)

    def led_to(self, feedback: str) -> list[str]:
        """What was merged or split because of a piece of feedback."""
        return [name for name, move in self.made.items() if move.because == feedback]

    def gone(self) -> set[str]:
        """The names that stand for other tasks."""
        return {move.task for move in self.made.values() if move.patterns is None}

    def by_hand(self) -> Iterator[str]:
        """The tasks that were merged or split by hand."""
        for move in self.made.values():
            if not move.because:
                yield from (move.task, move.into)

    def before(self, event: Event, known: str | None) -> Event:
        """The event under the name that its pattern came with, if that is of its task by now: what
        takes a move back then takes it back for this event too. `known`: that name."""
        pattern = str(event.body.get("pattern", ""))
        if known is None or event.body.get("named") or not self.made:
            return event
        moved = self.home(known, pattern=pattern) == event.task
        return replace(event, task=known) if moved else event


def undone_event(event: Event) -> Event:
    """What takes `event` back. That tasks are not one, or not two, is then said by the user."""
    body: dict[str, Json] = {"feedback": event.id}
    if event.kind in MOVING:
        body["tasks"] = [event.task, str(event.body["into"])]
    return Event(kind=EventKind.UNDONE, user=event.user, task=event.task, body=body)


def rejoined(event: Event, seen: Container[str]) -> list[Event]:
    """After a split was taken back: what has come by new patterns meanwhile follows."""
    into = str(event.body.get("into", ""))
    if event.kind is not EventKind.SPLIT or into not in seen:
        return []
    return [Event(kind=EventKind.MERGED, user=event.user, task=into, body={"into": event.task})]


def texts(event: Event, name: str) -> Sequence[str]:
    """A list of texts in an event's body."""
    return cast(Sequence[str], event.body.get(name) or ())
