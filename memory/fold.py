"""What a sequence of events adds up to. Pure: no clock, no disk, no vectors.

`fold(events)` is the definition of the memory's state; the live state is kept by the same `apply`.
Which record replaces which is decided here and nowhere else.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import cast

from tta.memory.events import promoters
from tta.memory.moves import MOVING, Moves, texts
from tta.memory.policy import CAP, Kept, normalised
from tta.memory.sighted import Sighted, sighting
from tta.memory.trust import Trust
from tta.memory.users import may_owe
from tta.protocols import Sightings, Weigher
from tta.types import ANY_TASK, Event, EventKind, Json, Record, RecordKind

Slot = bytes
"""Where records compete: only records of one slot replace each other. A digest, as there are as
many as records."""

_VOTING = (RecordKind.CASE, RecordKind.REJECTED)
_NOTHING: Mapping[str, float] = {}


@dataclass(slots=True)
class UserState:
    """All that is remembered of one user.

    `records` holds what is live, oldest first; `by` the same by (task, kind). `made` holds what
    each feedback not undone has made, replaced or not, so that undo can bring the replaced back.
    `settings` holds by feedback what was said of which task.
    `ledger` tells by task how cases and rejections came (+1) and went (-1). `ranks` numbers the
    feedback, in its order, whatever was forgotten between. `past` holds what is no longer recalled
    because there was more than the cap; it is still in the ledger: sums of it know more, and cost
    the same.
    `repeated` counts how often a record was taught, near-duplicates included, if more than once.
    `promoted` names the users who agreed on what this scope was taught for that.
    `documents` tells of each by name the event of its last reading, and the digest of what was
    read. `named` are the tasks that the caller named, or said to be what they are.

    `made`, `freed` and `named` go by the names that tasks came with, all else by what they are by
    now: the `moves` tell which tasks were merged or split.
    """

    records: dict[str, Record] = field(default_factory=dict)
    by: dict[tuple[str, RecordKind], dict[str, Record]] = field(default_factory=dict)
    made: dict[str, tuple[Record, ...]] = field(default_factory=dict)
    undone: set[str] = field(default_factory=set)
    sighted: Sighted = field(default_factory=Sighted)
    counts: Counter[EventKind] = field(default_factory=Counter)
    slots: dict[Slot, tuple[Record, ...]] = field(default_factory=dict)
    ledger: dict[str, list[tuple[int, Record]]] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict, compare=False)
    kept: dict[tuple[str, RecordKind], Kept] = field(default_factory=dict)
    past: dict[str, Record] = field(default_factory=dict)
    repeated: dict[str, int] = field(default_factory=dict)
    promoted: dict[str, tuple[str, ...]] = field(default_factory=dict)
    documents: dict[str, tuple[str, str]] = field(default_factory=dict)
    trust: Trust = field(default_factory=Trust)
    settings: dict[str, tuple[str, Mapping[str, Json]]] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)

    @property
    def sightings(self) -> Sightings:
        """Which patterns were answered in which task, as tasks are by now."""
        return self.sighted.now

    @property
    def moves(self) -> Moves:
        """Which tasks were merged or split."""
        return self.trust.moves

    def is_of(self, task: str, feedback: str, made: Sequence[Record]) -> bool:
        """Whether a piece of feedback, which made these records, was on an answer of a task."""
        heard = self.trust.heard.get(feedback)
        name = made[0].task if made else heard[0] if heard is not None else ANY_TASK
        return self.moves.home(name, feedback=feedback) == task

    def as_asked(self, event: Event) -> Event:
        """An answer under the name that its pattern came with; see `Moves.before`."""
        return self.moves.before(event, self.sighted.name(_text(event, "pattern")))

    @property
    def has_votes(self) -> bool:
        """Whether any case or rejection is live."""
        return any(held for (_, kind), held in self.by.items() if kind in _VOTING)


@dataclass(slots=True)
class State:
    """Users by name; a user who was forgotten, or never seen, is absent."""

    users: MutableMapping[str, UserState] = field(default_factory=dict)
    cap: int = CAP


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one event changed in one user's live records, and why. What has `passed` gave way to
    the cap, or is of another task by now: it is not among the `removed`. `others` are changes of
    wider scopes."""

    user: str
    added: tuple[Record, ...] = ()
    removed: tuple[Record, ...] = ()
    passed: tuple[Record, ...] = ()
    forgotten: bool = False
    others: tuple[Change, ...] = ()
    reason: str = ""


def fold(events: Iterable[Event], weigher: Weigher | None = None, *, cap: int = CAP) -> State:
    """The state after `events`, from nothing; weights of experts only with a `weigher`.

    `cap`: cases, and refused answers, of each user and task that are recalled.
    """
    state = State(cap=cap)
    for event in events:
        apply(state, event, weigher)
    return state


def apply(state: State, event: Event, weigher: Weigher | None = None) -> Change:
    """Bring `state` one event further, in place. O(1), but for what changes the past, an undo or a
    merge or split of tasks: O(the user's records)."""
    if event.kind is EventKind.FORGOTTEN:
        return _forget(state, event.user)
    user = state.users.setdefault(event.user, UserState())
    user.counts[event.kind] += 1
    if event.kind is EventKind.ANSWERED:
        return _answered(user, event)
    if event.kind is EventKind.UNDONE:
        return _undo(user, event, weigher, state.cap)
    if event.kind is EventKind.READ:
        return _read(user, event, weigher, state.cap)
    if event.kind in MOVING:
        return _move(user, event, weigher, state.cap)
    return _learn(user, event, weigher, state.cap)


def _forget(state: State, name: str) -> Change:
    """Nothing of a user stays, nor what wider scopes were taught because that user agreed."""
    gone = state.users.pop(name, UserState())
    others = []
    for scope in may_owe(state.users, name):
        user = state.users[scope]
        events = [event for event, users in user.promoted.items() if name in users]
        if events:
            others.append(_retract(user, scope, events, state.cap, "who agreed was forgotten"))
            for event in events:
                del user.promoted[event]
                user.undone.discard(event)
                user.counts[EventKind.PROMOTED] -= 1
        if not +user.counts:
            del state.users[scope]
    removed = (*gone.records.values(), *gone.past.values())
    return Change(
        user=name, removed=removed, forgotten=True, others=tuple(others), reason="forgotten"
    )


def _answered(user: UserState, event: Event) -> Change:
    if pattern := _text(event, "pattern"):
        user.sighted.see(sighting(event, pattern), user.moves)
    # Of an older answer it is not known: then it counts as named.
    if event.body.get("named", True):
        user.named.add(event.task)
    user.trust.answered(event.task, event.body)
    return Change(user=event.user, reason="answered")


def _learn(user: UserState, event: Event, weigher: Weigher | None, cap: int) -> Change:
    made = records_of(event)
    user.ranks[event.id] = 1 + next(reversed(user.ranks.values()), 0)
    user.made[event.id] = made
    if event.kind is EventKind.PROMOTED:
        user.promoted[event.id] = tuple(promoters(event))
    if event.kind is EventKind.SETTING:
        user.settings[event.id] = (event.task, dict(event.body))
    user.moves.note(event)
    live = tuple(map(user.moves.record, made))
    removed, passed = _enter(user, live, cap)
    user.trust.learn(event.id, event.task, event.body.get("heard"), weigher)
    user.trust.cite(event.id, event.task, event.body.get("cited"))
    return Change(
        user=event.user,
        added=live,
        removed=tuple(removed),
        passed=tuple(passed),
        reason=_reason(event, made, removed),
    )


def _read(user: UserState, event: Event, weigher: Weigher | None, cap: int) -> Change:
    """A document as it is now: what was read of it before goes."""
    name, digest = _text(event, "document"), _text(event, "digest")
    before, _ = user.documents.pop(name, ("", ""))
    gone = user.made.pop(before, ())
    for record in gone:
        _take_out(user, record)
    if not digest:
        return Change(user=event.user, removed=gone, reason="the document is gone")
    user.documents[name] = (event.id, digest)
    return replace(_learn(user, event, weigher, cap), removed=gone, reason="the document was read")


def _move(user: UserState, event: Event, weigher: Weigher | None, cap: int) -> Change:
    """Two tasks are one from now on, or one is two."""
    user.ranks[event.id] = 1 + next(reversed(user.ranks.values()), 0)
    user.made[event.id] = ()
    user.moves.add(event)
    what = f"what came by {len(texts(event, 'patterns'))} of the instructions of "
    what = what if event.kind is EventKind.SPLIT else ""
    reason = f"{what}{event.task} is {event.body['into']} from now on"
    user.sighted.again(user.moves)
    user.trust.again(weigher)
    return _again(user, event.user, cap, reason)


def _undo(user: UserState, event: Event, weigher: Weigher | None, cap: int) -> Change:
    feedback = _text(event, "feedback")
    user.named.update(texts(event, "tasks"))
    if feedback not in user.made:
        return Change(user=event.user, reason="there was nothing to undo")
    led_to = user.moves.led_to(feedback)
    user.undone.update((feedback, *led_to))
    user.settings.pop(feedback, None)
    moved = [user.moves.made.pop(name, None) for name in (feedback, *led_to)]
    for name in led_to:
        del user.made[name]
    user.trust.undo(feedback, weigher)
    if any(moved):
        user.sighted.again(user.moves)
        user.trust.again(weigher)
    reason = "undone: as if this feedback had never been given"
    return _retract(user, event.user, [feedback], cap, reason)


def _retract(user: UserState, name: str, feedback: Sequence[str], cap: int, reason: str) -> Change:
    """Everything again, in order, without that feedback."""
    for event in feedback:
        user.made.pop(event, None)
    return _again(user, name, cap, reason)


def returning(user: UserState, feedback: str) -> Sequence[Record]:
    """What is likely to be live again once a piece of feedback is undone."""
    slots = {_slot(user.moves.record(record)) for record in user.made.get(feedback, ())}
    made = (record for records in user.made.values() for record in records)
    gone = (r for r in made if r.id not in user.records and r.id not in user.past)
    return [record for record in gone if _slot(user.moves.record(record)) in slots]


def _again(user: UserState, name: str, cap: int, reason: str) -> Change:
    """All that is live from all that was made, in order."""
    before, past, ledger = user.records, user.past, user.ledger
    user.records, user.by, user.slots, user.ledger = {}, {}, {}, {}
    user.kept, user.past, user.repeated = {}, {}, {}
    for made in user.made.values():
        _enter(user, tuple(map(user.moves.record, made)), cap)
    # A new list only where it differs: whoever has read the old one starts over.
    same = [task for task, told in user.ledger.items() if ledger.get(task) == told]
    user.ledger.update({task: ledger[task] for task in same})
    known, now = before | past, user.records | user.past
    return Change(
        user=name,
        added=tuple(r for r in user.records.values() if r.id not in before),
        removed=tuple(r for r in known.values() if r.id not in now),
        passed=(
            *(r for r in user.past.values() if r.id not in past),
            *(r for r in user.records.values() if _is_elsewhere(r, before)),
            *(r for r in user.past.values() if _is_elsewhere(r, past)),
        ),
        reason=reason,
    )


def _is_elsewhere(record: Record, before: Mapping[str, Record]) -> bool:
    """Whether it was there, in another task; rules have no place to be moved to."""
    old = before.get(record.id)
    return old is not None and old.task != record.task and record.kind is not RecordKind.RULE


def _enter(user: UserState, made: Sequence[Record], cap: int) -> tuple[list[Record], list[Record]]:
    """Make records live and tell the ledger; those that they replaced, and that gave way."""
    removed = [old for new in made for old in _add(user, new)]
    for sign, records in ((-1, removed), (1, made)):
        for record in records:
            if record.kind in _VOTING:
                user.ledger.setdefault(record.task, []).append((sign, record))
    keys = [(record.task, record.kind) for record in made if record.kind in _VOTING]
    return removed, [_let_pass(user, key, cap) for key in keys if len(user.by[key]) > cap]


def _let_pass(user: UserState, key: tuple[str, RecordKind], cap: int) -> Record:
    name = user.kept[key].surplus(cap) or next(iter(user.by[key]))
    record = user.records[name]
    _take_out(user, record)
    user.past[name] = record
    return record


def _add(user: UserState, new: Record) -> list[Record]:
    """Make it live; those that it replaced: of the same text first, then near-duplicates."""
    slot = _slot(new)
    there = [old for old in user.slots.get(slot, ()) if _replaces(new, old)]
    replaced = sorted(there, key=lambda old: old.request != new.request)
    times = 1 + sum(_times(user, old) for old in replaced if _says_the_same(new, old))
    for old in replaced:
        _take_out(user, old)
    user.slots[slot] = (*user.slots.get(slot, ()), new)
    user.records[new.id] = new
    user.by.setdefault((new.task, new.kind), {})[new.id] = new
    if new.kind in _VOTING:
        user.kept.setdefault((new.task, new.kind), Kept()).add(new.answer, new.id)
        if times > 1:
            user.repeated[new.id] = times
    return replaced


def _times(user: UserState, record: Record) -> int:
    return user.repeated.get(record.id, 1)


def _take_out(user: UserState, old: Record) -> None:
    """No longer live."""
    del user.records[old.id], user.by[old.task, old.kind][old.id]
    slot = _slot(old)
    left = tuple(record for record in user.slots.pop(slot) if record is not old)
    if left:
        user.slots[slot] = left
    user.repeated.pop(old.id, None)
    if old.kind in _VOTING:
        user.kept[old.task, old.kind].remove(old.answer, old.id)


def _slot(record: Record) -> Slot:
    kind, text = record.kind, record.request
    if kind is RecordKind.PASSAGE:
        text = record.id
    elif kind is RecordKind.RULE:
        text = record.answer
    elif kind in _VOTING:
        kind, text = RecordKind.CASE, normalised(record.request)
    return blake2b(f"{kind}\0{record.task}\0{text}".encode(), digest_size=12).digest()


def _says_the_same(new: Record, old: Record) -> bool:
    """Whether they are near-duplicates, being of one slot."""
    return new.kind is old.kind and new.answer == old.answer


def _replaces(new: Record, old: Record) -> bool:
    """Whether `new` ends `old`; both are of one slot.

    A request has one accepted answer, the newest. An answer is accepted or refused, not both, and
    refused once. Of near-duplicates, notes and rules a slot holds one.
    """
    if new.kind not in _VOTING or _says_the_same(new, old):
        return True
    if new.request != old.request:
        return False
    return new.answer == old.answer or new.kind is old.kind is RecordKind.CASE


# ------------------------------------------------------------------- from feedback to records


def records_of(event: Event) -> tuple[Record, ...]:
    """What one piece of feedback says should be remembered. Ids derive from the feedback's."""
    if event.kind is EventKind.CORRECTION:
        return _case_against(event, _text(event, "text"), _text(event, "answer"))
    if event.kind is EventKind.EDIT:
        return _case_against(event, _text(event, "result"), _text(event, "answer"))
    if event.kind is EventKind.PROMOTED:
        return (
            _record(event, "+", RecordKind.CASE, _text(event, "request"), _text(event, "text")),
        )
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
        # Many records share these: one object each, not one a record.
        user=sys.intern(str(event.user)),
        task=sys.intern(str(event.task)),
        request=request,
        answer=sys.intern(str(answer)),
        source=event.id,
        created=event.time,
        weight=weight,
        instead=instead or _NOTHING,
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
    if event.kind is EventKind.SETTING:
        said = ", ".join(f"{name} = {value!r}" for name, value in event.body.items())
        return f"set for this task: {said}"
    if not made:
        return "a reward of 0 or an empty answer teaches nothing"
    reason = "; ".join(_MEANS[record.kind] for record in made)
    return f"{reason}; {len(removed)} older replaced" if removed else reason
