"""Writing to a memory: answers, feedback and what takes it back become events, and events the fold.

Knows the order of things: what an event needs embedded is embedded first, the event is durable
before it is folded, and folded as it is indexed; what other processes wrote is folded by the same
path. Knows which lock is held for what. Knows nothing of how a memory is opened or erased.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

from tta.errors import InvalidSetting, UnknownFeedback, WrongUser
from tta.memory.cache import Cache
from tta.memory.events import LEARNED, UNDOABLE, check
from tta.memory.fold import Change, apply, records_of, returning
from tta.memory.moves import MOVING, rejoined, undone_event
from tta.memory.promote import agreed
from tta.memory.reading import Reading
from tta.types import EVERYONE, Event, EventKind, Learned, Record

_OF_NO_ANSWER = (EventKind.RULE, EventKind.SETTING, EventKind.READ, *MOVING)
_PAGE = 1000
"""Events that are folded while nobody reads: what they need is embedded before, page by page."""


class Writing(Reading):
    """The half of a memory that is written to. Every method may be called from any thread."""

    _cache: Cache | None
    _seq: int

    def __init__(self) -> None:
        # Whoever takes several takes them in this order: to write; to read the journal's tail; to
        # look at the state and its index, or to change them. The last is never held while the
        # journal is read or written, but to fetch whom only a snapshot there knows, nor while what
        # was just learned is embedded, unless everybody is to wait (see `_alone`).
        self._writes = threading.RLock()
        self._tail = threading.RLock()
        self._lock = threading.RLock()
        self._awaited: frozenset[str] = frozenset()
        self._told: dict[str, Change] = {}

    def record(self, event: Event) -> bool:
        """Keep an ANSWERED event; False if it was there. On the disk with the next feedback.

        Raises InvalidText, InvalidSetting, ConflictingId and the store's errors.
        """
        if event.kind is not EventKind.ANSWERED:
            raise InvalidSetting("Only answers are recorded; feedback is learned", value=event.kind)
        with self._writes:
            with self._lock:
                asked = self._user(event.user).as_asked(event)
            return self._append([asked]) == 1

    def learn(self, event: Event) -> Learned:
        """Keep feedback, or what was read, durably, and say what it changed.

        The same id twice is one event. Raises UnknownResponse, WrongUser, ConflictingId,
        InvalidText, InvalidSetting, and the store's errors; nothing is changed when it raises.
        """
        if event.kind not in LEARNED:
            raise InvalidSetting("Not a kind of feedback", value=event.kind)
        if event.kind not in _OF_NO_ANSWER and not event.response:
            raise InvalidSetting("Feedback names the response it is about", value=event)
        check(event)
        with self._writes:
            self._pull()
            changes = self._write([event], records_of(event))
            if event.id in changes:
                return _learned(event.id, changes[event.id])
            return Learned(feedback=event.id, reason=self._why_known(event))

    def _why_known(self, event: Event) -> str:
        with self._lock:
            if event.id in self._user(event.user).undone:
                return "already known, and undone since: nothing changed"
            return "already known: nothing changed"

    def undo(self, feedback_id: str, *, user: str) -> Learned:
        """Make the state what it would be had this feedback never been given.

        Raises UnknownFeedback, WrongUser, and the store's errors. Undoing twice changes nothing.
        """
        with self._writes:
            self._pull()
            event = self._journal.get(feedback_id)
            if event is None or event.kind not in UNDOABLE:
                raise UnknownFeedback(
                    f"No feedback {feedback_id!r} in this memory",
                    value=feedback_id,
                    hint="Use `Learned.feedback`, or an id of `tta memory list`.",
                )
            if event.user != user:
                raise WrongUser(
                    f"The feedback {feedback_id!r} belongs to another user than {user!r}",
                    value=feedback_id,
                )
            with self._lock:
                known = self._user(user)
                if feedback_id in known.undone:
                    return Learned(feedback=feedback_id, reason="already undone: nothing changed")
                events = [undone_event(event), *rejoined(event, known.trust.seen)]
                back = returning(known, feedback_id)
            return _learned(feedback_id, self._write(events, back)[events[0].id])

    def promote(
        self, *, to: str, among: Sequence[str], at_least: int = 3, task: str | None = None
    ) -> tuple[Learned, ...]:
        """Teach the scope `to` what users agree on: one event for each case, each to be undone.

        A case is promoted when at least `at_least` of the users `among` hold the same answer to the
        same request (near-duplicates are the same), more of them than hold another, and `to` does
        not hold it yet; of `task` when one is named. When one who agreed is forgotten, the case is
        erased from the wider scope. Raises InvalidSetting, and the store's errors.
        """
        if at_least < 1 or to in among or to == EVERYONE or not to:
            raise InvalidSetting(
                f"Nothing can be promoted to {to!r} by {at_least} of {list(among)!r}",
                value=(to, tuple(among), at_least),
                hint="Name a scope of its own, and at least one user who must agree.",
            )
        with self._writes:
            self._pull()
            with self._lock:
                users = {name: self._user(name) for name in dict.fromkeys(among)}
                found = agreed(users, self._user(to), at_least=at_least, task=task)
            events = [one.event(to) for one in found]
            changes = self._write(events, [r for event in events for r in records_of(event)])
            return tuple(_learned(event.id, changes[event.id]) for event in events)

    def import_all(self, events: Sequence[Event]) -> int:
        """Append events of an export, all or none; how many were new.

        That a user was forgotten is taken over where nothing is known of them: it erases nothing.
        Raises what `learn` raises; nothing is written when it raises.
        """
        with self._writes:
            self._pull()
            with self._lock:
                known = set(self.state.users)
            return self._append(list(_harmless(events, known)))

    def sync(self) -> int:
        """Take in what other processes wrote since; how many events. One short query."""
        return self._pull()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else reads or writes meanwhile."""
        with self._writes, self._tail, self._lock:
            yield

    def _write(self, events: list[Event], records: Iterable[Record]) -> Mapping[str, Change]:
        """Append and fold; by id what each event changed, nothing if all were there already.

        `records`: those that need a vector by that, as far as it is known.
        """
        # Embedded first: an embedder that fails must not leave half of a feedback behind.
        with self._follower.prepared(records):
            self._awaited = frozenset(event.id for event in events)
            try:
                return self._told if self._append(events) else {}
            finally:
                self._awaited, self._told = frozenset(), {}

    def _append(self, events: Sequence[Event]) -> int:
        """Append and fold; how many were new."""
        written = self._journal.append_all(events)
        with self._tail:
            # What comes right behind all that was folded need not be read again.
            if [seq for seq, _ in written.alone] == [self._seq + 1]:
                self._take(written.alone)
            else:
                self._pull()
        return written.fresh

    def _pull(self) -> int:
        """Fold every event not folded yet, ours and others'; how many.

        Not to be called by who holds `_lock` and not `_tail`.
        """
        count = 0
        with self._tail:
            events = self._journal.since(self._seq)
            while page := list(islice(events, _PAGE)):
                self._take(page)
                count += len(page)
            if self._follower.is_behind:
                with self._lock:
                    self._follower.catch_up()
        return count

    def _take(self, page: Sequence[tuple[int, Event]]) -> None:
        """Fold events; `_tail` is held."""
        # What another thread writes may be folded here, before that thread comes to it.
        vectors = self._follower.embed(r for _, event in page for r in records_of(event))
        with self._lock:
            for seq, event in page:
                self._fold(seq, event)
            self._follower.catch_up(vectors)

    def _fold(self, seq: int, event: Event) -> None:
        change = apply(self.state, event, self._weigher)
        self._seq = seq
        self._follower.note(change)
        if event.id in self._awaited:
            self._told[event.id] = change
        if change.forgotten and self._cache is not None:
            self._cache.forget()


def _learned(feedback: str, change: Change) -> Learned:
    return Learned(
        feedback=feedback, added=change.added, removed=change.removed, reason=change.reason
    )


def _harmless(events: Sequence[Event], known: set[str]) -> Iterator[Event]:
    """All but what would erase something of the users known by then."""
    for event in events:
        if event.kind is not EventKind.FORGOTTEN:
            known.add(event.user)
        if event.kind is not EventKind.FORGOTTEN or event.user not in known:
            yield event
