"""The tasks of one user as she sees them: `chat.tasks`.

Knows the memory and the profiles made of it; changes nothing but by an event, which can be undone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from tta.protocols import Profile, Profiled, Seen
from tta.types import Event, EventKind, Learned


class Taught(Seen, Protocol):
    """A memory: what was seen, and what the user said of a task."""

    def is_free(self, *, user: str, task: str) -> bool:
        """Whether the user wants the open answers of a task to be held to no form."""

    def learn(self, event: Event) -> Learned:
        """Keep an event durably."""


class TaskBook(Mapping[str, Profile]):
    """Each task that was answered or taught, with what is known of it: a mapping by name, in the
    order in which they came."""

    def __init__(self, memory: Taught, profiles: Profiled, user: str) -> None:
        self._memory, self._profiles, self._user = memory, profiles, user

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

    def __repr__(self) -> str:
        return "\n".join(map(_line, self.values())) or "<no tasks yet>"


def _line(profile: Profile) -> str:
    held = "free" if profile.free else profile.form or "open"
    return (
        f"{profile.task}: {profile.cases} accepted, {len(profile.answers)} different,"
        f" none of these {100 * profile.elsewhere:.0f} %, {held}"
    )
