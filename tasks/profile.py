"""What is known of a task from the answers that were accepted in it.

Knows the ledgers of cases, newest last. Refuses to know how an answer is made to fit: what is
proposed here is an `output` like one that a caller might have passed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import RLock
from typing import TypeVar

from tta.protocols import Accepted, Profile
from tta.tasks.forms import Corrected, form_of
from tta.tasks.rewrite import Example, rewrite
from tta.types import Choices, Record, RecordKind

T = TypeVar("T")

CONSISTENT = 4
"""After as many accepted answers of one form, and at least two different ones, the next is held to
it; the first that is not of that form ends it."""
NEWEST = 2 * CONSISTENT
"""Accepted answers that are kept with their requests."""
LIKE = 0.75
"""More than this share of them has to be of the form: where answers of several forms take turns,
some come in a row by chance."""
CORRECTIONS = 2 * CONSISTENT
"""How many of the last corrections tell what the user changes."""
CLOSED_FROM = 12
"""Fewer accepted answers do not make a closed set."""
ELSEWHERE = 0.1
"""A set of answers is closed while the next is none of them with no more than this probability."""
MOST = 200
"""A closed set has no more answers."""


def profile(
    task: str,
    accepted: Mapping[str, int],
    newest: Sequence[Example],
    corrected: Sequence[Corrected] = (),
) -> Profile:
    """What the accepted answers of a task say: `accepted` counts all, `newest` are the last with
    their requests, as are those `corrected`."""
    cases = sum(accepted.values())
    once = sum(times == 1 for times in accepted.values())
    # Good (1953), after Turing: what is new is as likely as what was seen once; and one more, so
    # that it is never impossible.
    elsewhere = min(1.0, (once + 1) / (cases + 1))
    form = ""
    proposed: object = None
    if cases >= CLOSED_FROM and elsewhere <= ELSEWHERE and 1 < len(accepted) <= MOST:
        form, proposed = "answers", Choices(answers=tuple(sorted(accepted)))
    elif rule := rewrite(newest[-CONSISTENT:]):
        form, proposed = str(rule), rule
    else:
        form, proposed = _common([answer for _, answer in newest[-NEWEST:]], corrected)
    return Profile(
        task=task,
        cases=cases,
        answers=dict(sorted(accepted.items(), key=lambda pair: (-pair[1], pair[0]))),
        elsewhere=elsewhere,
        form=form,
        proposed=proposed,
    )


def _common(answers: Sequence[str], corrected: Sequence[Corrected]) -> tuple[str, object | None]:
    """The form that the newest have, where most of `answers` have it."""
    before, run = answers[:-CONSISTENT], answers[-CONSISTENT:]
    if len(run) < CONSISTENT:
        return "", None
    form, proposed = form_of(run, corrected)
    if form and before:
        like = len(run) + sum(form_of([answer, *run], corrected)[0] == form for answer in before)
        if like <= LIKE * len(answers):
            return "", None
    return form, proposed


class Profiles:
    """The profiles of all tasks, kept up with the memory's ledgers."""

    def __init__(self, accepted: Accepted) -> None:
        self._accepted = accepted
        self._read: dict[tuple[str, str], _Tally] = {}
        self._lock = RLock()

    def of(self, user: str, task: str) -> Profile:
        """The profile of one user's task as it is now."""
        ledger = self._accepted.ledger(user=user, task=task)
        with self._lock:
            tally = self._read.get((user, task))
            if tally is None or tally.ledger is not ledger:
                tally = self._read[user, task] = _Tally(ledger)
            tally.catch_up()
            newest, corrected = tally.newest.values(), tally.corrected.values()
            return profile(task, tally.accepted, tuple(newest), tuple(corrected))

    def forget(self, user: str) -> None:
        """Let go of what is held of a user."""
        with self._lock:
            self._read = {key: tally for key, tally in self._read.items() if key[0] != user}


@dataclass(slots=True)
class _Tally:
    ledger: Sequence[tuple[int, Record]]
    read: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    newest: dict[str, Example] = field(default_factory=dict)
    corrected: dict[str, Corrected] = field(default_factory=dict)
    """By the feedback that said it."""

    def catch_up(self) -> None:
        for sign, record in self.ledger[self.read :]:
            if record.kind is RecordKind.CASE:
                self._count(sign, record)
            elif sign > 0 and f"{record.source}+" in self.newest:
                self.corrected[record.source] = (record.answer, self.newest[f"{record.source}+"][1])
                _keep(self.corrected, CORRECTIONS)
        self.read = len(self.ledger)

    def _count(self, sign: int, record: Record) -> None:
        self.accepted[record.answer] += sign
        if not self.accepted[record.answer]:
            del self.accepted[record.answer]
        if sign < 0:
            self.newest.pop(record.id, None)
            self.corrected.pop(record.source, None)
            return
        self.newest[record.id] = (record.request, record.answer)
        _keep(self.newest, NEWEST)


def _keep(held: dict[str, T], most: int) -> None:
    while len(held) > most:
        del held[next(iter(held))]
