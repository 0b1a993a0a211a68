"""What a memory amounts to: which answers it knows, where it is thin, what it contradicts.

Knows how to read the state of one user. Knows nothing of journals, vectors or models.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from tta.memory.fold import UserState
from tta.memory.policy import normalised
from tta.types import ANY_TASK, Json, Record, RecordKind

FEW = 3
"""An answer with fewer cases is thin."""
_SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCoverage:
    """What is known of one task.

    `answers` counts the cases of each accepted answer, the most common first; `thin` names those
    with fewer than three; `refused` counts refused answers; `scripts` the writing systems of the
    requests ("latin", "cyrillic"); `repeats` what was taught again, and folded; `past` what gave
    way to the cap.
    """

    task: str
    cases: int
    answers: Mapping[str, int]
    thin: tuple[str, ...]
    refused: int
    scripts: Mapping[str, int]
    repeats: int
    past: int

    @property
    def tail(self) -> float:
        """The share of answers that are thin, 0 to 1."""
        return len(self.thin) / len(self.answers) if self.answers else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Coverage:
    """The tasks of one user, those with the most cases first."""

    user: str
    tasks: tuple[TaskCoverage, ...]
    rules: int
    notes: int

    def __repr__(self) -> str:
        cases = sum(task.cases for task in self.tasks)
        head = f"{self.user}: {cases} cases in {len(self.tasks)} tasks, {self.rules} rules,"
        return "\n".join([f"{head} {self.notes} notes", *map(_line, self.tasks)])

    def _repr_html_(self) -> str:
        rows = "".join(_row(task) for task in self.tasks)
        head = "".join(
            f"<th>{name}</th>" for name in ("task", "cases", "answers", "thin", "refused", "script")
        )
        return f"<table><caption>{escape(self.user)}</caption><tr>{head}</tr>{rows}</table>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """One request with several answers, near-duplicates of the request included.

    The newest wins where the request is the same to the letter: then all `older` are gone, and it
    is `resolved`. Else they are live side by side.
    """

    task: str
    request: str
    newest: Record
    older: tuple[Record, ...]
    resolved: bool


def coverage(user: str, state: UserState) -> Coverage:
    """Where the memory of a user is thick, and where thin."""
    tasks = dict.fromkeys(task for (task, kind), held in state.by.items() if held)
    found = [_task(task, state) for task in tasks]
    return Coverage(
        user=user,
        tasks=tuple(sorted((t for t in found if t.cases or t.refused), key=lambda t: -t.cases)),
        rules=_count(state, RecordKind.RULE),
        notes=_count(state, RecordKind.NOTE),
    )


def contradictions(state: UserState) -> list[Contradiction]:
    """Requests that were given several answers, oldest first; what was undone does not count."""
    told: dict[tuple[str, str], list[Record]] = {}
    moves = state.trust.moves
    for made in state.made.values():
        for case in map(moves.record, made):
            if case.kind is RecordKind.CASE:
                told.setdefault((case.task, normalised(case.request)), []).append(case)
    return [
        _contradiction(task, cases, state)
        for (task, _), cases in told.items()
        if len({case.answer for case in cases}) > 1
    ]


def clean(state: UserState) -> Iterator[dict[str, Json]]:
    """A data set: each request once, with its newest answer, what was refused for it, and where it
    comes from. What gave way to the cap is in it."""
    newest: dict[tuple[str, str], Record] = {}
    refused: dict[tuple[str, str], dict[str, None]] = {}
    for record in sorted(_known(state), key=lambda record: state.ranks[record.source]):
        key = (record.task, normalised(record.request))
        if record.kind is RecordKind.CASE:
            newest[key] = record
        elif record.kind is RecordKind.REJECTED:
            refused.setdefault(key, {})[record.answer] = None
    for key, case in newest.items():
        yield {
            "task": case.task,
            "request": case.request,
            "answer": case.answer,
            "refused": [answer for answer in refused.get(key, ()) if answer != case.answer],
            "times": state.repeated.get(case.id, 1),
            "user": case.user,
            "feedback": case.source,
            "time": case.created,
        }


def _task(task: str, state: UserState) -> TaskCoverage:
    cases = state.by.get((task, RecordKind.CASE), {}).values()
    refused = state.by.get((task, RecordKind.REJECTED), {})
    answers = dict(Counter(case.answer for case in cases).most_common())
    return TaskCoverage(
        task=task,
        cases=len(cases),
        answers=answers,
        thin=tuple(answer for answer, count in answers.items() if count < FEW),
        refused=len(refused),
        scripts=dict(Counter(script(case.request) for case in cases).most_common()),
        repeats=sum(state.repeated.get(case.id, 1) - 1 for case in cases),
        past=sum(record.task == task for record in state.past.values()),
    )


def script(text: str) -> str:
    """The writing system of most letters, by their Unicode names; "none" without a letter."""
    letters = (unicodedata.name(c, "unknown") for c in text if c.isalpha())
    common = Counter(name.split(" ")[0].split("-")[0].lower() for name in letters).most_common(1)
    return common[0][0] if common else "none"


def _contradiction(task: str, cases: Sequence[Record], state: UserState) -> Contradiction:
    newest = cases[-1]
    older = {case.id: case for case in cases if case.answer != newest.answer}
    return Contradiction(
        task=task,
        request=newest.request,
        newest=newest,
        older=tuple(older.values()),
        resolved=not any(name in state.records for name in older),
    )


def _known(state: UserState) -> Iterator[Record]:
    yield from state.records.values()
    yield from state.past.values()


def _count(state: UserState, kind: RecordKind) -> int:
    return sum(len(held) for (_, of), held in state.by.items() if of is kind)


def _named(task: TaskCoverage) -> str:
    return "(all tasks)" if task.task == ANY_TASK else task.task


def _line(task: TaskCoverage) -> str:
    scripts = ", ".join(task.scripts)
    thin = f", thin: {_some(task.thin)}" if task.thin else ""
    more = f", {task.repeats} repeated" * bool(task.repeats) + f", {task.past} past" * bool(
        task.past
    )
    return (
        f"  {_named(task)}: {task.cases} cases of {len(task.answers)} answers ({scripts}),"
        f" {task.refused} refused{more}{thin}"
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name if len(name) <= 30 else name[:29] + "…") for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _row(task: TaskCoverage) -> str:
    cells = (
        _named(task),
        task.cases,
        len(task.answers),
        _some(task.thin),
        task.refused,
        ", ".join(f"{name} {count}" for name, count in task.scripts.items()),
    )
    return "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"
