"""What is known of a task from the answers that were accepted in it.

Knows the ledgers of cases, newest last. Refuses to know how an answer is made to fit: what is
proposed here is an `output` like one that a caller might have passed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import RLock

from tta.protocols import Accepted, Profile
from tta.types import Choices, Record, RecordKind, Regex

CONSISTENT = 4
"""After as many accepted answers of one form, and at least two different ones, the next is held to
it; the first that is not of that form ends it."""
CLOSED_FROM = 12
"""Fewer accepted answers do not make a closed set."""
ELSEWHERE = 0.1
"""A set of answers is closed while the next is none of them with no more than this probability."""
MOST = 200
"""A closed set has no more answers."""

Form = tuple[str, Callable[[Sequence[str]], object | None]]
"""A name, and what to hold the next answer to if all of these answers are of the form."""


def profile(task: str, accepted: Mapping[str, int], newest: Sequence[str]) -> Profile:
    """What the accepted answers of a task say: `accepted` counts all, `newest` are the last."""
    cases = sum(accepted.values())
    once = sum(times == 1 for times in accepted.values())
    # Good (1953), after Turing: what is new is as likely as what was seen once; and one more, so
    # that it is never impossible.
    elsewhere = min(1.0, (once + 1) / (cases + 1))
    form = ""
    proposed: object = None
    if cases >= CLOSED_FROM and elsewhere <= ELSEWHERE and 1 < len(accepted) <= MOST:
        form, proposed = "answers", Choices(answers=tuple(sorted(accepted)))
    elif len(newest) >= CONSISTENT:
        form, proposed = _form(newest[-CONSISTENT:])
    return Profile(
        task=task,
        cases=cases,
        answers=dict(sorted(accepted.items(), key=lambda pair: (-pair[1], pair[0]))),
        elsewhere=elsewhere,
        form=form,
        proposed=proposed,
    )


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
            return profile(task, tally.accepted, tuple(tally.newest.values()))

    def forget(self, user: str) -> None:
        """Let go of what is held of a user."""
        with self._lock:
            self._read = {key: tally for key, tally in self._read.items() if key[0] != user}


@dataclass(slots=True)
class _Tally:
    ledger: Sequence[tuple[int, Record]]
    read: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    newest: dict[str, str] = field(default_factory=dict)

    def catch_up(self) -> None:
        for sign, record in self.ledger[self.read :]:
            if record.kind is RecordKind.CASE:
                self._count(sign, record)
        self.read = len(self.ledger)

    def _count(self, sign: int, record: Record) -> None:
        self.accepted[record.answer] += sign
        if not self.accepted[record.answer]:
            del self.accepted[record.answer]
        if sign < 0:
            self.newest.pop(record.id, None)
            return
        self.newest[record.id] = record.answer
        if len(self.newest) > 2 * CONSISTENT:
            del self.newest[next(iter(self.newest))]


# -------------------------------------------------------------------------- forms of answers


def _form(answers: Sequence[str]) -> tuple[str, object | None]:
    """The first form that all these answers have, with what to hold the next one to."""
    texts = [answer.strip() for answer in answers]
    if len(set(texts)) > 1:
        for name, proposes in _FORMS:
            if (proposed := proposes(texts)) is not None:
                return name, proposed
    return "", None


def _json(texts: Sequence[str]) -> object | None:
    """A schema with the keys, in their order, and the types that all objects have."""
    try:
        objects = [json.loads(text) for text in texts]
    except ValueError:
        return None
    if not all(isinstance(found, dict) and found for found in objects):
        return None
    keys = list(objects[0])
    if any(list(found) != keys for found in objects):
        return None
    properties = {key: _typed([found[key] for found in objects]) for key in keys}
    return {
        "type": "object",
        "properties": properties,
        "required": keys,
        "additionalProperties": False,
    }


def _typed(values: Iterable[object]) -> dict[str, object]:
    types = {_JSON_TYPES.get(type(value), "") for value in values}
    return {"type": types.pop()} if len(types) == 1 and "" not in types else {}


_JSON_TYPES: dict[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number"}


def _matching(pattern: str) -> Callable[[Sequence[str]], object | None]:
    whole = re.compile(pattern)

    def proposes(texts: Sequence[str]) -> object | None:
        return Regex(pattern) if all(whole.fullmatch(text) for text in texts) else None

    return proposes


_FORMS: tuple[Form, ...] = (
    ("JSON", _json),
    ("date YYYY-MM-DD", _matching(r"[0-9]{4}-[01][0-9]-[0-3][0-9]")),
    ("date DD.MM.YYYY", _matching(r"[0-3][0-9]\.[01][0-9]\.[0-9]{4}")),
    ("date MM/DD/YYYY", _matching(r"[01][0-9]/[0-3][0-9]/[0-9]{4}")),
    ("time HH:MM", _matching(r"[0-2][0-9]:[0-5][0-9]")),
    ("integer", _matching(r"-?[0-9]{1,18}")),
    ("two decimals", _matching(r"-?[0-9]{1,15}\.[0-9]{2}")),
    ("number", _matching(r"-?[0-9]{1,15}(?:\.[0-9]{1,9})?")),
    ("capitals", _matching(r"[A-Z][A-Z0-9 .,:;!?'-]{1,400}")),
)
"""What is worth holding an answer to: a form that an answer in words is hardly ever in by chance.
What is read most strictly stands first."""
