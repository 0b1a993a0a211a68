"""The tasks of one user as she sees them: `chat.tasks`.

Knows the memory and what can be read from it of a task; changes nothing but by an event, which can
be undone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from tta.decoding import AHEAD, budget, prior, thinking, totals
from tta.errors import InvalidSetting
from tta.protocols import Profile, Profiled, Seen
from tta.request import check_name
from tta.types import Event, EventKind, Json, Learned, Settings, Standing


class Taught(Seen, Protocol):
    """A memory: what was seen, what feedback said, and what the user said of a task."""

    def settings(self, *, user: str, task: str) -> Settings:
        """What the user said of a task."""

    def standing(self, *, user: str, task: str) -> Standing:
        """What is known of the experts in a task."""

    def learn(self, event: Event) -> Learned:
        """Keep an event durably."""


class TaskBook(Mapping[str, Profile]):
    """Each task that was answered or taught, with what is known of it: a mapping by name, in the
    order in which they came. What is set of a task is durable, and `chat.undo` takes it back."""

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

    def held(self, task: str) -> object | None:
        """What open answers of a task are held to: an `output`, or None."""
        if self._memory.settings(user=self._user, task=task).free:
            return None
        return self._profiles.of(self._user, task).proposed

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

    def _repr_html_(self) -> str:
        from tta.display import tasks_html

        return tasks_html(self)

    def __repr__(self) -> str:
        return "\n".join(map(_line, self.values())) or "<no tasks yet>"


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
