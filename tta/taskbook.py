"""The tasks of one user as she sees them: `chat.tasks`.

Knows the memory and the profiles made of it; changes nothing but by an event, which can be undone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from tta.errors import InvalidSetting
from tta.protocols import Move, Profile, Profiled, Seen
from tta.request import check_name
from tta.types import Event, EventKind, Learned


class Taught(Seen, Protocol):
    """A memory: what was seen, and what the user said of a task."""

    def is_free(self, *, user: str, task: str) -> bool:
        """Whether the user wants the open answers of a task to be held to no form."""

    def moves(self, user: str) -> Mapping[str, Move]:
        """The merges and splits in force, by event."""

    def learn(self, event: Event) -> Learned:
        """Keep an event durably."""


class Regrouping(Protocol):
    """Merges and splits tasks."""

    def merge(self, user: str, task: str, into: str) -> Learned:
        """All of a task is of another from now on."""

    def split(
        self, user: str, task: str, patterns: Sequence[str], into: str | None = None
    ) -> Learned:
        """What came by some patterns of a task is a task of its own from now on."""


class TaskBook(Mapping[str, Profile]):
    """Each task that was answered or taught, with what is known of it: a mapping by name, in the
    order in which they came."""

    def __init__(
        self, memory: Taught, profiles: Profiled, regrouping: Regrouping, user: str
    ) -> None:
        self._memory, self._profiles, self._user = memory, profiles, user
        self._regrouping = regrouping

    def __iter__(self) -> Iterator[str]:
        sightings = self._memory.sightings(user=self._user)
        return iter(tuple(dict.fromkeys(seen.task for seen in sightings.distinct)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, task: str) -> Profile:
        if task not in tuple(self):
            raise KeyError(task)
        return self.profile(task)

    def profile(self, task: str) -> Profile:
        """What is known of a task; of one that was never seen, nothing."""
        found = self._profiles.of(self._user, task)
        return replace(found, free=self._memory.is_free(user=self._user, task=task))

    def held(self, task: str) -> object | None:
        """What open answers of a task are held to: an `output`, or None."""
        profile = self.profile(task)
        return None if profile.free else profile.proposed

    def patterns(self, task: str) -> tuple[str, ...]:
        """The instructions that were taken for this task, oldest first."""
        known = self._memory.sightings(user=self._user).patterns
        return tuple(pattern for pattern, name in known.items() if name == task)

    def hold(self, task: str, held: bool = True) -> Learned:
        """Whether open answers of a task are held to the form of those accepted (they are, unless
        said otherwise). Durable; `chat.undo` takes it back."""
        body = {"free": not held}
        return self._memory.learn(
            Event(kind=EventKind.FREED, user=self._user, task=task, body=body)
        )

    def merge(self, task: str, *, into: str) -> Learned:
        """Two tasks are one, called `into`, with all that was ever said of either; rules too.

        Durable; `chat.undo` gives both back as they would be. So does naming `task=` again: that
        says that it is a task of its own. Raises InvalidSetting for unknown tasks, and one alone.
        """
        self._check(task)
        self._check(into)
        if task == into:
            raise InvalidSetting(f"{task!r} cannot be merged with itself", value=task)
        return self._regrouping.merge(self._user, task, into)

    def split(self, task: str, patterns: Sequence[str], *, into: str | None = None) -> Learned:
        """What was asked by `patterns`, some of `chat.tasks.patterns(task)`, is a task of its own,
        called `into` or after the first of them; rules stay where they are.

        Durable; `chat.undo` joins them again, and so does naming `task=` for one of the patterns.
        Raises InvalidSetting for an unknown task or pattern, a name that is taken, and where one
        side would have no pattern.
        """
        self._check(task)
        known = self.patterns(task)
        strange = [patterns] if isinstance(patterns, str) else sorted(set(patterns) - set(known))
        if strange:
            raise InvalidSetting(
                f"{strange[0]!r} is no pattern of the task {task!r}",
                value=strange[0],
                hint=f"Pass a list of some of chat.tasks.patterns({task!r})",
            )
        if not 0 < len(set(patterns)) < len(known):
            raise InvalidSetting(
                f"One side would have none of the {len(known)} patterns of {task!r}",
                value=tuple(patterns),
            )
        taken = {*self, *self._memory.sightings(user=self._user).gone}
        if into is not None and check_name("task", into) in taken:
            raise InvalidSetting(
                f"{into!r} is a task already", value=into, hint="Leave into= out, or merge"
            )
        return self._regrouping.split(self._user, task, patterns, into)

    def origin(self, task: str) -> str:
        """Which tasks were merged into it, or which it was split off from; "" as a rule."""
        moves = [m for m in self._memory.moves(self._user).values() if m.into == task]
        merged = ", ".join(move.task for move in moves if move.patterns is None)
        split = ", ".join(move.task for move in moves if move.patterns is not None)
        return f"{merged and f', merged from {merged}'}{split and f', split from {split}'}"

    def _check(self, task: str) -> None:
        if task not in tuple(self):
            raise InvalidSetting(
                f"There is no task {task!r}", value=task, hint=f"There are: {', '.join(self)}"
            )

    def __repr__(self) -> str:
        lines = [_line(profile) + self.origin(profile.task) for profile in self.values()]
        return "\n".join(lines) or "<no tasks yet>"


def _line(profile: Profile) -> str:
    held = "free" if profile.free else profile.form or "open"
    return (
        f"{profile.task}: {profile.cases} accepted, {len(profile.answers)} different,"
        f" none of these {100 * profile.elsewhere:.0f} %, {held}"
    )
