"""What many users agree on, so that a wider scope may learn it.

Knows when cases of several users say the same. Knows nothing of who may ask for that, or of how it
is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tta.memory.fold import UserState
from tta.memory.policy import normalised
from tta.types import Event, EventKind, Record, RecordKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The newest of the cases that agree, and whose they are."""

    case: Record
    users: tuple[str, ...]

    def event(self, scope: str) -> Event:
        """What teaches it to `scope`."""
        return Event(
            kind=EventKind.PROMOTED,
            user=scope,
            task=self.case.task,
            body={
                "request": self.case.request,
                "text": self.case.answer,
                "users": list(self.users),
            },
        )


def agreed(
    users: Mapping[str, UserState], wider: UserState, *, at_least: int, task: str | None
) -> list[Agreement]:
    """What to promote, in the order in which it was first taught to the users as they are named."""
    held: dict[tuple[str, str], dict[str, dict[str, Record]]] = {}
    for name, state in users.items():
        for case in _cases(state, task):
            answers = held.setdefault((case.task, normalised(case.request)), {})
            answers.setdefault(case.answer, {})[name] = case
    known = {(c.task, normalised(c.request), c.answer) for c in _cases(wider, task)}
    found = []
    for (of, request), answers in held.items():
        answer, cases = max(answers.items(), key=lambda pair: len(pair[1]))
        others = len(set().union(*(a.keys() for a in answers.values())) - cases.keys())
        if len(cases) >= at_least and len(cases) > others and (of, request, answer) not in known:
            newest = max(cases.values(), key=lambda case: case.created)
            found.append(Agreement(case=newest, users=tuple(sorted(cases))))
    return found


def _cases(state: UserState, task: str | None) -> Iterator[Record]:
    for (of, kind), records in state.by.items():
        if kind is RecordKind.CASE and task in (None, of):
            yield from records.values()
