"""Looking into a memory: records, the nearest of them, what is known of tasks and experts.

Knows how a question is answered from the fold and its index. Changes nothing, and knows nothing of
how either is kept up.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tta.memory.fold import State, UserState
from tta.memory.follow import Follower
from tta.memory.journal import Journal
from tta.memory.trust import Trust
from tta.memory.view import Contradiction, Coverage, clean, contradictions, coverage
from tta.protocols import Move, Sightings, Weigher
from tta.types import ANY_TASK, DEFAULT_USER, Event, Json, Record, RecordKind, Settings, Standing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]

_NOTHING: list[tuple[int, Record]] = []


class Reading:
    """The half of a memory that is read. Every method may be called from any thread."""

    state: State
    _journal: Journal
    _follower: Follower
    _weigher: Weigher | None
    _lock: threading.RLock

    def records(
        self, *, user: str, task: str | None = None, kind: RecordKind | None = None
    ) -> Sequence[Record]:
        """Live records of one user, oldest first; of `task` and of ANY_TASK when one is named."""
        with self._lock:
            task = None if task is None else self._home(user, task)
            if task is not None and kind is not None:
                return tuple(self._of(user, task, kind))
            return tuple(
                record
                for record in self._user(user).records.values()
                if (kind is None or record.kind is kind)
                and (task is None or record.task in (task, ANY_TASK))
            )

    def nearest(
        self, vector: FloatArray, k: int, *, user: str, task: str | None, kind: RecordKind
    ) -> Sequence[tuple[Record, float]]:
        """The `k` records whose `request` is most similar (cosine), best first.

        Of `task` and of ANY_TASK when one is named, else of all tasks.
        `vector`: unit length, shape (dim,). Of equally similar ones the older comes first. Exact up
        to 100,000 records of a user and kind; of more nearly all are found.
        Raises InvalidSetting if the memory was opened without an embedder.
        """
        with self._lock:
            self._follower.catch_up()
            labels = None if task is None else {self._home(user, task), ANY_TASK}
            found = self._follower.search(user, vector, k, kind=kind, labels=labels)
            held = self._user(user).records
            return tuple((held[name], score) for name, score in found)

    def vectors(self, records: Sequence[Record]) -> FloatArray:
        """The unit vectors of the `request` of records, shape (len(records), dim), float32.

        From the index; what it does not hold is embedded. Raises InvalidSetting if the memory was
        opened without an embedder.
        """
        with self._lock:
            self._follower.catch_up()
            found = self._follower.held(records)
        return self._follower.completed(found, records)

    def _of(self, user: str, task: str, kind: RecordKind) -> list[Record]:
        by = self._user(user).by
        lists = [by[name, kind] for name in {task, ANY_TASK} if by.get((name, kind))]
        found = [record for records in lists for record in records.values()]
        return sorted(found, key=self._follower.rank) if len(lists) > 1 else found

    def sightings(self, *, user: str) -> Sightings:
        """Which patterns were answered in which task; see there. It grows with the memory,
        uncopied."""
        with self._lock:
            return self._user(user).sightings

    def settings(self, *, user: str, task: str) -> Settings:
        """What the user said of a task; of each thing the last word stands."""
        with self._lock:
            known, task = self._user(user), self._home(user, task)
            said: dict[str, Any] = {}
            for name, body in known.settings.values():
                if known.moves.home(name) == task:
                    said |= body
            return Settings(**said)

    def ledger(self, *, user: str, task: str) -> Sequence[tuple[int, Record]]:
        """How the cases and rejections of a task came (+1) and went (-1); see `Ledgers`."""
        with self._lock:
            return self._user(user).ledger.get(self._home(user, task), _NOTHING)

    def standing(self, *, user: str, task: str) -> Standing:
        """What is known of the experts in a task."""
        with self._lock:
            known = self._user(user)
            standing = known.trust.standing(self._home(user, task), self._weigher)
            # Also what says nothing of the experts was feedback: an answer of nobody's, for one.
            return replace(
                standing,
                experienced=standing.experienced or known.has_votes,
                settings=self.settings(user=user, task=task),
            )

    def trust(self, user: str) -> Trust:
        """All that is known of a user's experts, by task; not to be changed."""
        with self._lock:
            return self._user(user).trust

    def documents(self, user: str) -> Mapping[str, tuple[str, str]]:
        """What a user has had read, by name: (event, digest of what was read), the last reading
        last; not to be changed."""
        with self._lock:
            return self._user(user).documents

    def passages(self, user: str, ids: Sequence[str]) -> Mapping[str, str]:
        """The texts of passages by id; "" for those that are not there (any more)."""
        with self._lock:
            held = self._user(user).by.get((ANY_TASK, RecordKind.PASSAGE), {})
            return {name: held[name].request if name in held else "" for name in ids}

    def worth(self, user: str, task: str) -> Mapping[str, float]:
        """By how much feedback multiplies what each passage counts in a task; see `Trust`."""
        with self._lock:
            return self._user(user).trust.worth(self._home(user, task))

    def home(self, event: Event) -> str:
        """The task that an answer, or feedback, is of by now."""
        with self._lock:
            moves = self._user(event.user).moves
            pattern = str(event.body.get("pattern", ""))
            return moves.home(event.task, pattern=pattern, feedback=event.id)

    def moves(self, user: str) -> Mapping[str, Move]:
        """The merges and splits of tasks in force, by event, oldest first; not to be changed."""
        with self._lock:
            return self._user(user).moves.made

    def is_named(self, *, user: str, task: str) -> bool:
        """Whether the user has ever said which task it is, or anything of the task as such."""
        with self._lock:
            known = self._user(user)
            said = {*known.moves.by_hand(), *(name for name, _ in known.settings.values())}
            names = known.moves.sources(task)
            ruled = known.by.get((task, RecordKind.RULE))
            return bool(ruled) or any(name in known.named or name in said for name in names)

    def taught(self, *, user: str, task: str) -> Mapping[str, str]:
        """The patterns of all that feedback was given on in a task, by feedback, oldest first."""
        with self._lock:
            known = self._user(user)
            names = [name for name, made in known.made.items() if known.is_of(task, name, made)]
        events = [self._journal.get(name) for name in names]
        return {
            event.id: str(event.body.get("pattern", ""))
            for event in events
            if event is not None and self.home(event) == task
        }

    def usual(self, *, user: str, answers: Collection[str]) -> tuple[Mapping[str, int], int]:
        """In how many tasks each of the answers was accepted, and in how many any was."""
        with self._lock:
            kept = self._user(user).kept
            tasks = [known.seen for (_, kind), known in kept.items() if kind is RecordKind.CASE]
            return {text: sum(text in seen for seen in tasks) for text in answers}, len(tasks)

    def event(self, event_id: str) -> Event | None:
        """The event of that id, from the journal."""
        return self._journal.get(event_id)

    def events(self, user: str | None = None) -> Iterator[Event]:
        """The journal, oldest first; of one user when named."""
        return (event for _, event in self._journal.since(0, user=user))

    def users(self) -> Sequence[str]:
        """Everyone of whom anything is known."""
        with self._lock:
            return tuple(self.state.users)

    def coverage(self, user: str = DEFAULT_USER) -> Coverage:
        """Which answers a user's memory knows, and where it is thin; shown as a table."""
        with self._lock:
            return coverage(user, self._user(user))

    def contradictions(self, user: str = DEFAULT_USER) -> Sequence[Contradiction]:
        """Requests of a user that were given several answers, resolved or not, oldest first."""
        with self._lock:
            return tuple(contradictions(self._user(user)))

    def export(self, user: str = DEFAULT_USER) -> Sequence[Mapping[str, Json]]:
        """A user's cases as a clean data set: no request twice, none with two answers, each with
        what was refused for it and the feedback that it comes from. `tta.memory.export` has the
        journal itself, and rows for TRL."""
        with self._lock:
            return tuple(clean(self._user(user)))

    def _home(self, user: str, task: str) -> str:
        """A task that is a part of another by now is read as that."""
        return self._user(user).moves.home(task)

    def _user(self, user: str) -> UserState:
        return self.state.users.get(user) or UserState()
