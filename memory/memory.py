"""The memory that a step talks to: journal, fold and index kept as one.

Knows how they are opened, made anew, closed, and rid of a user; reading is `reading.py`'s, writing
`writing.py`'s. Knows nothing of models, prompts, or how a text becomes a vector.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np

from tta.errors import InvalidSetting
from tta.memory.cache import EVERY, Cache
from tta.memory.chroma import Chroma, is_server
from tta.memory.fold import State, UserState, apply
from tta.memory.follow import Follower
from tta.memory.index import ChromaIndex, MemoryIndex, collection_name
from tta.memory.journal import Journal
from tta.memory.place import is_there, journal_url
from tta.memory.policy import CAP
from tta.memory.snapfile import FilePlace
from tta.memory.snapshot import Gone, Snapshot, Written, made
from tta.memory.snaptable import TablePlace
from tta.memory.users import Users, may_owe
from tta.memory.writing import Writing
from tta.protocols import Embedder, Weigher

_log = logging.getLogger(__name__)

_PROBE = "Where is my parcel?"
_ALIKE = 0.999
"""Cosine of one text's vectors below which they are of different embedders: more than batches,
threads and devices do."""


class Memory(Writing):
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
        cap: int = CAP,
        snapshot_every: int = EVERY,
    ) -> None:
        super().__init__()
        self._journal = journal
        self._weigher = weigher
        self._embedder = embedder
        self._folder = None if where is None else where / "index"
        self._server = index
        place = TablePlace(journal) if where is None else FilePlace(where, journal)
        self._cache = (
            Cache(place, embedder=embedder, weigher=weigher, cap=cap, every=snapshot_every)
            if journal.lasts
            else None
        )
        self._snapshot: Snapshot | None = None
        self._seq = 0
        self.state = State(cap=cap)
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
        cap: int | None = None,
        flush_every: int = 64,
        snapshot_every: int = EVERY,
    ) -> Memory:
        """Open or create a memory.

        `where`: None keeps all in RAM; a folder holds `journal.sqlite` and Chroma's `index/`; a
        SQLAlchemy URL is a shared journal, whose vectors are in RAM, and embedded at the opening
        as far as no snapshot has them, unless `index` names a Chroma server (`http://host:port`).
        `embedder`: None opens the journal only, all but `nearest` and `rebuild` works, also while
        another process holds the embedded index.
        `weigher`: how feedback moves the weights of experts; without one none are kept.
        `cap`: cases, and as many refused answers, that are recalled of each user and task; see
        `policy.py` for which. It is kept with the memory; None for what was kept, or 100,000.
        `flush_every`: vectors that may wait in RAM for Chroma, or one in a hundred if that is more;
        a crash costs embedding them again.
        `snapshot_every`: events after which opening or closing writes down what they add up to, so
        that the next opening need not read them again: in the folder, or in the journal's database.

        Raises IndexInUse, StoreReadOnly, StoreLocked, NewerFormat, CorruptStore, InvalidSetting.
        """
        if index is not None and not is_server(index):
            raise InvalidSetting(
                f"index={index!r} is no address of a Chroma server",
                value=index,
                hint="Pass http://host:port, of a server started with `chroma run`",
            )
        if cap is not None and cap < 1:
            raise InvalidSetting(f"cap must be at least 1, was {cap!r}", value=cap)
        folder = None if where is None or "://" in str(where) else Path(where)
        journal = Journal.open(journal_url(where, folder, create=create))
        memory = cls(
            journal,
            embedder=embedder,
            where=folder,
            index=index,
            weigher=weigher,
            cap=_settled(journal, cap),
            snapshot_every=snapshot_every,
        )
        try:
            memory._start(flush_every)
        except BaseException:
            memory.close()
            raise
        return memory

    def _start(self, flush_every: int) -> None:
        if self._server is None:
            self._server = self._journal.setting("index")
        else:
            # So that a `forget` that was given no index still finds the vectors.
            self._journal.set("index", self._server)
        self._snapshot = None if self._cache is None else self._cache.read(self._journal)
        kept = self._index_place() is not None or self._snapshot is not None
        renew = kept and self._embedder is not None and self._changed(self._embedder)
        if renew and self._cache is not None:
            self._cache.clear()
            self._snapshot = None
        if self._snapshot is not None:
            self._seq = self._snapshot.seq
            self.state.users = Users(self._snapshot.users(), self._wake)
        if self._embedder is None:
            self._pull()
        elif self._believed is not None:
            # What came since is folded and indexed as if it came now.
            self._open_index(self._embedder, flush_every)
            self._pull()
            if self._server is not None:
                # A forgetting that was interrupted may have left vectors there.
                self._follower.needed().keep(tuple(self.state.users))
        else:
            self._pull()
            self._open_index(self._embedder, flush_every)
            if renew:
                self._follower.needed().reset()
            self._follower.begin(renew=self._server is None)
        self._keep()

    def _changed(self, embedder: Embedder) -> bool:
        """Whether the embedder has the id that it had, and gives other vectors all the same."""
        now = embedder.embed([_PROBE])[0]
        told = self._journal.setting("probe")
        before = {} if told is None else json.loads(told)
        self._journal.set("probe", json.dumps({embedder.id: [round(float(x), 5) for x in now]}))
        then = before.get(embedder.id)
        if then is None or (len(then) == len(now) and float(now @ np.array(then)) > _ALIKE):
            return False
        _log.warning(
            "The embedder %r gives other vectors than before: all are embedded again", embedder.id
        )
        return True

    def answered_by(self, model: str) -> None:
        """The model that answers from now on; a warning when it was another.

        Cases, notes and rules are the user's and stay. What is known of the model's own opinions
        is forgotten at its first answer in a task; how far it is trusted follows the feedback.
        """
        before = self._journal.setting("model")
        if before is not None and before != model:
            _log.warning(
                "This memory was taught with the model %r, and %r answers now: what was taught"
                " stays, how far the model is trusted will follow the feedback",
                before,
                model,
            )
        self._journal.set("model", model)

    @property
    def _believed(self) -> Snapshot | None:
        """The snapshot, if its vectors are the embedder's."""
        if self._cache is None or self._snapshot is None:
            return None
        return self._snapshot if self._cache.fits_embedder(self._snapshot) else None

    def _wake(self, user: str) -> UserState:
        """A user whom only the snapshot knew."""
        assert self._snapshot is not None
        try:
            state, held = self._snapshot.load(user)
        except Gone:
            self._follower.doubt(user)
            return self._refolded(user, self._snapshot.seq)
        if self._believed is not None:
            self._follower.adopt(user, state, held)
        return state

    def _refolded(self, user: str, until: int) -> UserState:
        """What the events of a user up to that number add up to, less what is erased by now."""
        alone = State(cap=self.state.cap)
        for seq, event in self._journal.since(user=user):
            if seq > until:
                break
            apply(alone, event, self._weigher)
        return alone.users.get(user, UserState())

    def _open_index(self, embedder: Embedder, flush_every: int) -> None:
        where = self._index_place()
        if where is None:
            self._follower.index = MemoryIndex(embedder.dim)
        else:
            self._follower.index = ChromaIndex(
                where,
                memory=self._name(),
                embedder=embedder.id,
                dim=embedder.dim,
                place=self._follower.place_of,
                flush_every=flush_every,
                snapshot=self._believed,
                forgotten=lambda: partial(self._journal.forgotten, self._seq),
            )
        self._journal.set("embedder", embedder.id)
        self._journal.set("dim", str(embedder.dim))

    def _keep(self) -> None:
        """Write a snapshot if it is due. What it says of the index must be in the index."""
        index = self._follower.index
        if self._cache is None or index is None or self._embedder is None:
            return
        if self._cache.is_due(self._seq):
            if self._index_place() is None:
                self._changed(self._embedder)  # no vectors were kept: now it must be known by them
            self._pull()
            index.flush()
            self._cache.write(self._journal, self._written(index), seq=self._seq)

    def _written(self, index: MemoryIndex | ChromaIndex) -> Iterator[Written]:
        users = self.state.users
        for user in list(users):
            if isinstance(users, Users) and users.asleep(user) and self._believed is not None:
                yield self._believed.copied(user)
            else:
                yield made(user, users[user], index.held(user))

    def _index_place(self) -> str | Path | None:
        return self._server or self._folder

    def _name(self) -> str:
        return self._journal.setting("memory") or ""

    # ------------------------------------------------------------------------------ forgetting

    def forget(self, user: str) -> int:
        """Erase all text and vectors of a user, from every file; how many events there were.

        What wider scopes were taught because this user agreed is erased there too.

        Raises IndexInUse before anything is erased, if another process holds the embedded index.
        """
        with self._alone():
            self._pull()
            scopes = self._taught_by(user)
            with self._chroma_for_forgetting() as chroma:
                try:
                    if self._cache is not None:
                        self._cache.forget()
                    gone = self._journal.erase(user)
                finally:
                    self._pull()
                    if user not in self.state.users:
                        for scope in (user, *scopes):
                            self._drop(scope, chroma)
            return gone

    def _taught_by(self, user: str) -> list[str]:
        """Scopes to which something was promoted because this user agreed."""
        return [
            scope
            for scope in may_owe(self.state.users, user)
            if any(user in users for users in self.state.users[scope].promoted.values())
        ]

    @contextmanager
    def _chroma_for_forgetting(self) -> Iterator[Chroma | None]:
        """Chroma, if vectors lie there and this memory has not opened its index."""
        place = self._index_place()
        if self._follower.index is not None or place is None or not is_there(place):
            yield None
            return
        with closing(Chroma(place)) as chroma:
            yield chroma

    def _drop(self, user: str, chroma: Chroma | None) -> None:
        """Erase the vectors of one who was forgotten, and what others have in excess."""
        index = self._follower.index
        if index is not None and user in self.state.users:
            index.renew(user)
        elif index is not None:
            index.drop(user)
        if chroma is not None:
            chroma.delete([collection_name(self._name(), user)])

    def rebuild(self) -> int:
        """Throw all vectors away and embed every record again; how many records.

        Raises InvalidSetting if the memory was opened without an embedder.
        """
        with self._alone():
            index = self._follower.needed()
            self._pull()
            index.reset()
            count = self._follower.reconcile()
            index.flush()
            return count

    def close(self) -> None:
        """Write what is pending and release the files; closing twice is no error."""
        with self._alone():
            try:
                if self._follower.index is not None:
                    self._keep()
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


def _settled(journal: Journal, cap: int | None) -> int:
    """The cap of this memory, from now on."""
    if cap is not None:
        journal.set("cap", str(cap))
    return int(journal.setting("cap") or CAP)
