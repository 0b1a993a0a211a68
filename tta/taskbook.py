"""The tasks of one user as she sees them: `chat.tasks`.

Knows the memory and what can be read from it of a task; changes nothing but by an event, which can
be undone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from tta.decoding import AHEAD, budget, prior, thinking, totals
from tta.errors import InvalidSetting
from tta.protocols import Move, Profile, Profiled, Seen
from tta.request import check_name
from tta.tasks import Joined, Placed
from tta.types import Event, EventKind, Json, Learned, Settings, Standing


class Taught(Seen, Protocol):
    """A memory: what was seen, what feedback said, and what the user said of a task."""

    def settings(self, *, user: str, task: str) -> Settings:
        """What the user said of a task."""

    def standing(self, *, user: str, task: str) -> Standing:
        """What is known of the experts in a task."""

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
    order in which they came. What is set of a task is durable, and `chat.undo` takes it back."""

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
        standing = self._memory.standing(user=self._user, task=task)
        settings = standing.settings
        learned = totals(standing.weights) if standing.weights.cells else {}
        experts = {**learned, **settings.experts}
        return replace(
            self._profiles.of(self._user, task),
            prior=prior(standing),
            samples=budget(standing),
            steps=thinking(standing),
            experts=dict(sorted(experts.items(), key=lambda pair: -pair[1])),
            settings=settings,
        )

    def held(self, task: str, request: str) -> object | None:
        """What the open answer to a request of a task is held to: an `output`, or None."""
        if self._memory.settings(user=self._user, task=task).free:
            return None
        proposed = self._profiles.of(self._user, task).proposed
        return proposed.output(request) if isinstance(proposed, Joined | Placed) else proposed

    def patterns(self, task: str) -> tuple[str, ...]:
        """The instructions that were taken for this task, oldest first."""
        known = self._memory.sightings(user=self._user).patterns
        return tuple(pattern for pattern, name in known.items() if name == task)

    def hold(self, task: str, held: bool = True) -> Learned:
        """Whether open answers of a task are held to the form of those accepted (they are, unless
        said otherwise)."""
        return self._set(task, {"free": not held})

    def spend(self, task: str, samples: int | None) -> Learned:
        """How many samples are drawn at most for an open answer where a call does not say: they
        end when the answer is settled. None: as many as feedback has shown to pay."""
        return self._set(task, {"samples": samples})

    def think(self, task: str, steps: bool | None = None) -> Learned:
        """Whether the model thinks step by step before it answers, where a call does not say.
        None: where that has paid off, which is tried on every fourth answer; until anything is
        said it does not."""
        return self._set(task, {"steps": steps})

    def trust(self, task: str, experts: Mapping[str, float]) -> Learned:
        """Experts and the weight that each has from now on, 0 to 1 and together at most 1,
        whatever feedback says; those not named share the rest, and feedback goes on to be counted
        for all. `{}`: as feedback says. An expert of weight 0 is heard only where no other speaks.
        Raises InvalidSetting for an expert that this task does not have."""
        known = {*self.profile(task).experts, *AHEAD, "frozen"}
        if unknown := sorted(set(experts) - known):
            raise InvalidSetting(
                f"{task!r} has no expert {unknown!r}",
                value=unknown,
                hint=f"Use {', '.join(sorted(known))}",
            )
        return self._set(task, {"experts": dict(experts)})

    def _set(self, task: str, body: Mapping[str, Json]) -> Learned:
        check_name("task", task)
        return self._memory.learn(
            Event(kind=EventKind.SETTING, user=self._user, task=task, body=body)
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

    def _repr_html_(self) -> str:
        from tta.display import tasks_html

        return tasks_html(self)

    def __repr__(self) -> str:
        lines = [_line(profile) + self.origin(profile.task) for profile in self.values()]
        return "\n".join(lines) or "<no tasks yet>"


def _line(profile: Profile) -> str:
    held = "free" if profile.free else profile.form or "open"
    trusted = next(iter(profile.experts.items()), None)
    said = [
        f"{profile.task}: {profile.cases} accepted, {len(profile.answers)} different,"
        f" none of these {100 * profile.elsewhere:.0f} %, {held}",
        *([_budget(profile)] if profile.prior != (1, 1) or profile.settings.samples else []),
        *([f"{trusted[0]} {trusted[1]:.2f}"] if trusted else []),
        *([f"steps: {profile.steps}"] if profile.steps.wanted is not False else []),
    ]
    return "; ".join(said)


def _budget(profile: Profile) -> str:
    right, wrong = profile.prior
    plural = "s" if profile.samples > 1 else ""
    first = f"the first is right with probability {right / (right + wrong):.2f}"
    return f"{profile.samples} sample{plural} ({first})"
