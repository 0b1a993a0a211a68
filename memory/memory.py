"""The memory that a step talks to: journal, fold and index kept as one.

Knows the order of things: an event is durable before it is folded, and folded before it is indexed;
what other processes wrote is folded by the same path. Knows nothing of models, prompts, or how a
text becomes a vector.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from tta.errors import (
    CorruptStore,
    InvalidSetting,
    StoreReadOnly,
    UnknownFeedback,
    WrongUser,
)
from tta.memory import database
from tta.memory.chroma import Chroma, is_server
from tta.memory.events import FEEDBACK, LEARNED, check
from tta.memory.fold import Change, State, UserState, apply, records_of
from tta.memory.follow import Follower
from tta.memory.index import ChromaIndex, MemoryIndex, collection_name
from tta.memory.journal import Journal
from tta.memory.trust import Trust
from tta.protocols import Embedder, Weigher
from tta.types import ANY_TASK, Event, EventKind, Learned, Record, RecordKind, Standing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]


_NOTHING: list[tuple[int, Record]] = []


class Memory:
    """Records and patterns of any number of users. Every method may be called from any thread.

    Get one by `Memory.open`. `state` is the fold of `events()`, always.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        embedder: Embedder | None,
        where: Path | None,
        index: str | None,
        weigher: Weigher | None = None,
    ) -> None:
        self._journal = journal
        self._weigher = weigher
        self._embedder = embedder
        self._folder = None if where is None else where / "index"
        self._server = index
        self._lock = threading.RLock()
        self._seq = 0
        self.state = State()
        self._follower = Follower(self.state, embedder)

    @classmethod
    def open(
        cls,
        where: str | Path | None,
        *,
        embedder: Embedder | None,
        index: str | None = None,
        weigher: Weigher | None = None,
        create: bool = True,
        flush_every: int = 64,
    ) -> Memory:
        """Open or create a memory.

        `where`: None keeps all in RAM; a folder holds `journal.sqlite` and Chroma's `index/`; a
        SQLAlchemy URL is a shared journal, whose vectors are in RAM, embedded anew at each opening,
        unless `index` names a Chroma server (`http://host:port`).
        `embedder`: None opens the journal only, all but `nearest` and `rebuild` works, also while
        another process holds the embedded index.
        `weigher`: how feedback moves the weights of experts; without one none are kept.
        `flush_every`: vectors that may wait in RAM for Chroma; a crash costs embedding them again.

        Raises IndexInUse, StoreReadOnly, StoreLocked, NewerFormat, CorruptStore, InvalidSetting.
        """
        if index is not None and not is_server(index):
            raise InvalidSetting(
                f"index={index!r} is no address of a Chroma server",
                value=index,
                hint="Pass http://host:port, of a server started with `chroma run`",
            )
        folder = None if where is None or "://" in str(where) else Path(where)
        journal = Journal.open(_url(where, folder, create))
        memory = cls(journal, embedder=embedder, where=folder, index=index, weigher=weigher)
        try:
            memory._start(flush_every)
        except BaseException:
            memory.close()
            raise
        return memory

    def _start(self, flush_every: int) -> None:
        self._pull()
        if self._server is None:
            self._server = self._journal.setting("index")
        else:
            # So that a `forget` that was given no index still finds the vectors.
            self._journal.set("index", self._server)
        if self._embedder is not None:
            self._follower.index = self._open_index(self._embedder, flush_every)
            self._journal.set("embedder", self._embedder.id)
            self._journal.set("dim", str(self._embedder.dim))
            self._follower.begin(renew=self._server is None)

    def _open_index(self, embedder: Embedder, flush_every: int) -> MemoryIndex | ChromaIndex:
        where = self._index_place()
        if where is None:
            return MemoryIndex(embedder.dim)
        return ChromaIndex(
            where,
            memory=self._name(),
            embedder=embedder.id,
            dim=embedder.dim,
            place=self._follower.place_of,
            flush_every=flush_every,
        )

    def _index_place(self) -> str | Path | None:
        return self._server or self._folder

    def _name(self) -> str:
        return self._journal.setting("memory") or ""

    # ------------------------------------------------------------------------------ writing

    def record(self, event: Event) -> bool:
        """Keep an ANSWERED event; False if it was there. On the disk with the next feedback.

        Raises InvalidText, InvalidSetting, ConflictingId and the store's errors.
        """
        if event.kind is not EventKind.ANSWERED:
            raise InvalidSetting("Only answers are recorded; feedback is learned", value=event.kind)
        with self._lock:
            fresh = self._journal.append(event)
            self._pull()
            return fresh

    def learn(self, event: Event) -> Learned:
        """Keep feedback, or what was read, durably, and say what it changed.

        The same id twice is one event. Raises UnknownResponse, WrongUser, ConflictingId,
        InvalidText, InvalidSetting, and the store's errors; nothing is changed when it raises.
        """
        if event.kind not in LEARNED:
            raise InvalidSetting("Not a kind of feedback", value=event.kind)
        if event.kind not in (EventKind.RULE, EventKind.READ) and not event.response:
            raise InvalidSetting("Feedback names the response it is about", value=event)
        check(event)
        with self._lock:
            self._pull()
            # Embedded first: an embedder that fails must not leave half of a feedback behind.
            with self._follower.prepared(records_of(event)):
                if not self._journal.append(event):
                    return Learned(feedback=event.id, reason=self._why_known(event))
                return _learned(event.id, self._pull()[event.id])

    def _why_known(self, event: Event) -> str:
        if event.id in self._user(event.user).undone:
            return "already known, and undone since: nothing changed"
        return "already known: nothing changed"

    def undo(self, feedback_id: str, *, user: str) -> Learned:
        """Make the state what it would be had this feedback never been given.

        Raises UnknownFeedback, WrongUser, and the store's errors. Undoing twice changes nothing.
        """
        with self._lock:
            self._pull()
            event = self._journal.get(feedback_id)
            if event is None or event.kind not in FEEDBACK:
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
            if feedback_id in self._user(user).undone:
                return Learned(feedback=feedback_id, reason="already undone: nothing changed")
            undone = Event(
                kind=EventKind.UNDONE, user=user, task=event.task, body={"feedback": feedback_id}
            )
            self._journal.append(undone)
            return _learned(feedback_id, self._pull()[undone.id])

    def forget(self, user: str) -> int:
        """Erase all text and vectors of a user, from every file; how many events there were.

        Raises IndexInUse before anything is erased, if another process holds the embedded index.
        """
        with self._lock:
            self._pull()
            with self._chroma_for_forgetting() as chroma:
                try:
                    gone = self._journal.erase(user)
                finally:
                    self._pull()
                    if user not in self.state.users:
                        self._drop(user, chroma)
            return gone

    @contextmanager
    def _chroma_for_forgetting(self) -> Iterator[Chroma | None]:
        """Chroma, if vectors lie there and this memory has not opened its index."""
        place = self._index_place()
        if self._follower.index is not None or place is None or not _is_there(place):
            yield None
            return
        with closing(Chroma(place)) as chroma:
            yield chroma

    def _drop(self, user: str, chroma: Chroma | None) -> None:
        if self._follower.index is not None:
            self._follower.index.drop(user)
        if chroma is not None:
            chroma.delete([collection_name(self._name(), user)])

    def import_all(self, events: Sequence[Event]) -> int:
        """Append events of an export, all or none; how many were new.

        Raises what `learn` raises; nothing is written when it raises.
        """
        with self._lock:
            fresh = self._journal.append_all(list(events))
            self._pull()
            return fresh

    # ------------------------------------------------------------------------------ reading

    def records(
        self, *, user: str, task: str | None = None, kind: RecordKind | None = None
    ) -> Sequence[Record]:
        """Live records of one user, oldest first; of `task` and of ANY_TASK when one is named."""
        with self._lock:
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
        to 200,000 vectors of a user. Raises InvalidSetting if the memory was opened without an
        embedder.
        """
        with self._lock:
            self._follower.catch_up()
            labels = None if task is None else {task, ANY_TASK}
            found = self._follower.needed().search(user, vector, k, shelf=kind, labels=labels)
            held = self._user(user).records
            return tuple((held[name], score) for name, score in found)

    def vectors(self, records: Sequence[Record]) -> FloatArray:
        """The unit vectors of the `request` of records, shape (len(records), dim), float32.

        From the index; what it does not hold is embedded. Raises InvalidSetting if the memory was
        opened without an embedder.
        """
        with self._lock:
            self._follower.catch_up()
            return self._follower.vectors(records)

    def _of(self, user: str, task: str, kind: RecordKind) -> list[Record]:
        by = self._user(user).by
        lists = [by[name, kind] for name in {task, ANY_TASK} if by.get((name, kind))]
        found = [record for records in lists for record in records.values()]
        return sorted(found, key=self._follower.rank) if len(lists) > 1 else found

    def patterns(self, *, user: str) -> dict[str, str]:
        """Each pattern's newest task, oldest pattern first. It grows with the memory, uncopied;
        after a forgetting it is another object."""
        with self._lock:
            return self._user(user).patterns

    def ledger(self, *, user: str, task: str) -> Sequence[tuple[int, Record]]:
        """How the cases and rejections of a task came (+1) and went (-1); see `Ledgers`."""
        with self._lock:
            return self._user(user).ledger.get(task, _NOTHING)

    def standing(self, *, user: str, task: str) -> Standing:
        """What is known of the experts in a task."""
        with self._lock:
            known = self._user(user)
            standing = known.trust.standing(task, self._weigher)
            # Also what says nothing of the experts was feedback: an answer of nobody's, for one.
            return replace(standing, experienced=standing.experienced or known.has_votes)

    def trust(self, user: str) -> Trust:
        """All that is known of a user's experts, by task; not to be changed."""
        with self._lock:
            return self._user(user).trust

    def event(self, event_id: str) -> Event | None:
        """The event of that id, from the journal."""
        with self._lock:
            return self._journal.get(event_id)

    def events(self, user: str | None = None) -> Iterator[Event]:
        """The journal, oldest first; of one user when named."""
        return (event for _, event in self._journal.since(0, user=user))

    def users(self) -> Sequence[str]:
        """Everyone of whom anything is known."""
        with self._lock:
            return tuple(self.state.users)

    def sync(self) -> int:
        """Take in what other processes wrote since; how many events. One short query."""
        with self._lock:
            return len(self._pull())

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
            return self._user(user).trust.worth(task)

    def rebuild(self) -> int:
        """Throw all vectors away and embed every record again; how many records.

        Raises InvalidSetting if the memory was opened without an embedder.
        """
        with self._lock:
            index = self._follower.needed()
            self._pull()
            index.reset()
            count = self._follower.reconcile()
            index.flush()
            return count

    def close(self) -> None:
        """Write what is pending and release the files; closing twice is no error."""
        with self._lock:
            try:
                if self._follower.index is not None:
                    self._follower.index.close()
            finally:
                self._follower.index = None
                self._journal.close()

    def __enter__(self) -> Memory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Memory users={len(self.state.users)} events={self._seq}>"

    # ------------------------------------------------------------------- the journal's tail

    def _user(self, user: str) -> UserState:
        return self.state.users.get(user) or UserState()

    def _pull(self) -> dict[str, Change]:
        """Fold every event not folded yet, ours and others'; the changes by event id."""
        changes: dict[str, Change] = {}
        for seq, event in self._journal.since(self._seq):
            changes[event.id] = change = apply(self.state, event, self._weigher)
            self._seq = seq
            self._follower.note(seq, event, change)
        self._follower.catch_up()
        return changes


def _learned(feedback: str, change: Change) -> Learned:
    return Learned(
        feedback=feedback, added=change.added, removed=change.removed, reason=change.reason
    )


def _is_there(place: str | Path) -> bool:
    return is_server(place) or Path(place).exists()


def _url(where: str | Path | None, folder: Path | None, create: bool) -> str:
    if where is None:
        return database.IN_MEMORY
    if folder is None:
        return str(where)
    if folder.exists() and not folder.is_dir():
        raise CorruptStore(f"A memory is a folder, and {folder} is a file", value=str(folder))
    journal = folder / "journal.sqlite"
    if not create and not journal.exists():
        raise CorruptStore(
            f"There is no memory at {folder}", value=str(folder), hint="Check the path."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise StoreReadOnly(
            f"The folder {folder} cannot be made ({problem})", value=str(folder)
        ) from problem
    return f"sqlite:///{journal.absolute()}"
