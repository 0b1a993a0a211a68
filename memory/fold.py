"""What a sequence of events adds up to. Pure: no clock, no disk, no vectors.

`fold(events)` is the definition of the memory's state; the live state is kept by the same `apply`.
Which record replaces which is decided here and nowhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import cast

from tta.memory.events import FEEDBACK
from tta.memory.trust import Trust
from tta.protocols import Weigher
from tta.types import Event, EventKind, Record, RecordKind

Slot = tuple[str, ...]
"""Where records compete: only records of one slot replace each other."""

_VOTING = (RecordKind.CASE, RecordKind.REJECTED)


@dataclass(slots=True)
class UserState:
    """All that is remembered of one user.

    `records` holds what is live, oldest first; `by` the same by (task, kind). `made` holds what
    each feedback not undone has made, replaced or not, so that undo can bring the replaced back.
    `ledger` tells by task how cases and rejections came (+1) and went (-1). `documents` tells of
    each by name the event of its last reading, and the digest of what was read.
    """

    records: dict[str, Record] = field(default_factory=dict)
    by: dict[tuple[str, RecordKind], dict[str, Record]] = field(default_factory=dict)
    made: dict[str, tuple[Record, ...]] = field(default_factory=dict)
    undone: set[str] = field(default_factory=set)
    patterns: dict[str, str] = field(default_factory=dict)
    counts: Counter[EventKind] = field(default_factory=Counter)
    slots: dict[Slot, dict[str, Record]] = field(default_factory=dict)
    ledger: dict[str, list[tuple[int, Record]]] = field(default_factory=dict)
    documents: dict[str, tuple[str, str]] = field(default_factory=dict)
    trust: Trust = field(default_factory=Trust)

    @property
    def has_votes(self) -> bool:
        """Whether any case or rejection is live."""
        return any(held for (_, kind), held in self.by.items() if kind in _VOTING)


@dataclass(slots=True)
class State:
    """Users by name; a user who was forgotten, or never seen, is absent."""

    users: dict[str, UserState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one event changed in one user's live records, and why."""

    user: str
    added: tuple[Record, ...] = ()
    removed: tuple[Record, ...] = ()
    forgotten: bool = False
    reason: str = ""


def fold(events: Iterable[Event], weigher: Weigher | None = None) -> State:
    """The state after `events`, from nothing; weights of experts only with a `weigher`."""
    state = State()
    for event in events:
        apply(state, event, weigher)
    return state


def apply(state: State, event: Event, weigher: Weigher | None = None) -> Change:
    """Bring `state` one event further, in place. O(1), but for an undo: O(the user's records)."""
    if event.kind is EventKind.FORGOTTEN:
        gone = state.users.pop(event.user, UserState())
        removed = tuple(gone.records.values())
        return Change(user=event.user, removed=removed, forgotten=True, reason="forgotten")
    user = state.users.setdefault(event.user, UserState())
    user.counts[event.kind] += 1
    if event.kind is EventKind.ANSWERED:
        return _answered(user, event)
    if event.kind is EventKind.UNDONE:
        return _undo(user, event, weigher)
    if event.kind is EventKind.READ:
        return _read(user, event, weigher)
    return _learn(user, event, weigher)


def _answered(user: UserState, event: Event) -> Change:
    if pattern := _text(event, "pattern"):
        user.patterns[pattern] = event.task
    user.trust.answered(event.task, event.body)
    return Change(user=event.user, reason="answered")


def _learn(user: UserState, event: Event, weigher: Weigher | None) -> Change:
    made = records_of(event)
    user.made[event.id] = made
    removed = _enter(user, made)
    user.trust.learn(event.id, event.task, event.body.get("heard"), weigher)
    user.trust.cite(event.id, event.task, event.body.get("cited"))
    return Change(
        user=event.user, added=made, removed=tuple(removed), reason=_reason(event, made, removed)
    )


def _read(user: UserState, event: Event, weigher: Weigher | None) -> Change:
    """A document as it is now: what was read of it before goes."""
    name, digest = _text(event, "document"), _text(event, "digest")
    before, _ = user.documents.pop(name, ("", ""))
    gone = user.made.pop(before, ())
    for record in gone:
        _take_out(user, record)
    if not digest:
        return Change(user=event.user, removed=gone, reason="the document is gone")
    user.documents[name] = (event.id, digest)
    return replace(_learn(user, event, weigher), removed=gone, reason="the document was read")


def _undo(user: UserState, event: Event, weigher: Weigher | None) -> Change:
    feedback = _text(event, "feedback")
    if feedback not in user.made:
        return Change(user=event.user, reason="there was nothing to undo")
    user.undone.add(feedback)
    before, ledger = user.records, user.ledger
    tasks = {record.task for record in user.made.pop(feedback)}
    user.records, user.by, user.slots, user.ledger = {}, {}, {}, {}
    for made in user.made.values():
        _enter(user, made)
    # A new list where it differs, so that whoever has read the old one starts over.
    user.ledger.update({task: told for task, told in ledger.items() if task not in tasks})
    user.trust.undo(feedback, weigher)
    return Change(
        user=event.user,
        added=tuple(r for r in user.records.values() if r.id not in before),
        removed=tuple(r for r in before.values() if r.id not in user.records),
        reason="undone: as if this feedback had never been given",
    )


def _enter(user: UserState, made: Sequence[Record]) -> list[Record]:
    """Make records live and tell the ledger; those that they replaced."""
    removed = [old for new in made for old in _add(user, new)]
    for sign, records in ((-1, removed), (1, made)):
        for record in records:
            if record.kind in _VOTING:
                user.ledger.setdefault(record.task, []).append((sign, record))
    return removed


def _add(user: UserState, new: Record) -> list[Record]:
    slot = user.slots.setdefault(_slot(new), {})
    replaced = [old for old in slot.values() if _replaces(new, old)]
    for old in replaced:
        _take_out(user, old)
    slot[new.id] = user.records[new.id] = new
    user.by.setdefault((new.task, new.kind), {})[new.id] = new
    return replaced


def _take_out(user: UserState, old: Record) -> None:
    """No longer live."""
    del user.records[old.id], user.by[old.task, old.kind][old.id]
    del user.slots[_slot(old)][old.id]


def _slot(record: Record) -> Slot:
    if record.kind is RecordKind.PASSAGE:
        return (RecordKind.PASSAGE, record.id)
    if record.kind is RecordKind.RULE:
        return (RecordKind.RULE, record.task, record.answer)
    if record.kind is RecordKind.NOTE:
        return (RecordKind.NOTE, record.task, record.request)
    return (RecordKind.CASE, record.task, record.request)


def _replaces(new: Record, old: Record) -> bool:
    """Whether `new` ends `old`; both are of one slot.

    A request has one accepted answer, the newest. An answer is accepted or refused, not both, and
    refused once. Of notes and rules a slot holds one.
    """
    if new.kind is RecordKind.CASE and old.kind is RecordKind.CASE:
        return True
    if new.kind in (RecordKind.CASE, RecordKind.REJECTED):
        return new.answer == old.answer
    return True


# ------------------------------------------------------------------- from feedback to records


def records_of(event: Event) -> tuple[Record, ...]:
    """What one piece of feedback says should be remembered. Ids derive from the feedback's."""
    if event.kind is EventKind.CORRECTION:
        return _case_against(event, _text(event, "text"), _text(event, "answer"))
    if event.kind is EventKind.EDIT:
        return _case_against(event, _text(event, "result"), _text(event, "answer"))
    if event.kind is EventKind.PREFERENCE:
        return _case_against(event, _text(event, "chosen"), _text(event, "rejected"))
    if event.kind is EventKind.RATING:
        return _rated(event)
    if event.kind is EventKind.NOTE:
        return (
            _record(event, "?", RecordKind.NOTE, _text(event, "pattern"), _text(event, "text")),
        )
    if event.kind is EventKind.RULE:
        return (_record(event, "!", RecordKind.RULE, "", _text(event, "text")),)
    if event.kind is EventKind.READ:
        return tuple(_passages(event))
    return ()


def _passages(event: Event) -> Iterator[Record]:
    """Each text once. Ids derive from document and text, so that what feedback said of a passage
    holds as long as the passage is the same."""
    name = _text(event, "document")
    for text in dict.fromkeys(cast(Sequence[str], event.body["passages"])):
        made = _record(event, "", RecordKind.PASSAGE, text, name)
        digest = blake2b(f"{name}\0{text}".encode(), digest_size=8).hexdigest()
        yield replace(made, id=f"{digest}#")


def _case_against(event: Event, right: str, wrong: str) -> tuple[Record, ...]:
    request = _text(event, "request")
    case = _record(event, "+", RecordKind.CASE, request, right)
    if not wrong.strip() or wrong.strip() == right.strip():
        return (case,)
    return (case, _record(event, "-", RecordKind.REJECTED, request, wrong))


def _rated(event: Event) -> tuple[Record, ...]:
    value = float(cast(float, event.body["value"]))
    request, answer = _text(event, "request"), _text(event, "answer")
    if value == 0.0 or not answer.strip():
        return ()
    if value > 0.0:
        return (_record(event, "+", RecordKind.CASE, request, answer, value),)
    instead = cast(Mapping[str, float], event.body.get("instead") or {})
    return (_record(event, "-", RecordKind.REJECTED, request, answer, -value, instead),)


def _record(
    event: Event,
    sign: str,
    kind: RecordKind,
    request: str,
    answer: str,
    weight: float = 1.0,
    instead: Mapping[str, float] | None = None,
) -> Record:
    return Record(
        id=event.id + sign,
        kind=kind,
        user=event.user,
        task=event.task,
        request=request,
        answer=answer,
        source=event.id,
        created=event.time,
        weight=weight,
        instead=instead or {},
    )


def _text(event: Event, name: str) -> str:
    return str(event.body.get(name, ""))


_MEANS = {
    RecordKind.CASE: "remembered as the accepted answer to this request",
    RecordKind.REJECTED: "what was refused now counts against itself",
    RecordKind.NOTE: "remembered for requests of this pattern",
    RecordKind.RULE: "a standing instruction from now on",
    RecordKind.PASSAGE: "to be found for requests that it bears on",
}


def _reason(event: Event, made: tuple[Record, ...], removed: list[Record]) -> str:
    if event.kind not in FEEDBACK or not made:
        return "a reward of 0 or an empty answer teaches nothing"
    reason = "; ".join(_MEANS[record.kind] for record in made)
    return f"{reason}; {len(removed)} older replaced" if removed else reason
