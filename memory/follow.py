"""The index as the fold's follower: every live record has its vector there, and nothing else has.

Knows which records have vectors, where each belongs, and what is still to be written. Knows nothing
of the journal, nor of how an index searches.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from tta.errors import InvalidSetting, StoreError
from tta.memory.fold import Change, State, UserState
from tta.memory.index import ChromaIndex, MemoryIndex
from tta.memory.shelf import Place
from tta.memory.snapshot import Held
from tta.protocols import Embedder
from tta.types import Record, RecordKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]
    Vectors = Mapping[str, FloatArray]

_log = logging.getLogger(__name__)

PAST = "past"
"""The shelf of what gave way to the cap: not searched, but those who sum learn from it."""
_PAGE = 10_000
"""Records embedded at a time: a million vectors are gigabytes."""
_NOTHING: Vectors = {}
_WITH_VECTOR = frozenset(
    {RecordKind.CASE, RecordKind.REJECTED, RecordKind.NOTE, RecordKind.PASSAGE}
)


class Follower:
    """Keeps an index in step with `state`; without an index it does nothing."""

    def __init__(self, state: State, embedder: Embedder | None) -> None:
        self.index: MemoryIndex | ChromaIndex | None = None
        self._state = state
        self._embedder = embedder
        self._behind: list[Change] = []
        self._ready = _NOTHING
        self._doubted: dict[str, None] = {}

    def needed(self) -> MemoryIndex | ChromaIndex:
        """The index; raises InvalidSetting if there is none."""
        if self.index is None:
            raise InvalidSetting(
                "This memory was opened without an embedder", hint="Pass `embedder=` to Memory.open"
            )
        return self.index

    @property
    def is_behind(self) -> bool:
        """Whether something that was folded is not indexed."""
        return bool(self._behind or self._doubted)

    def note(self, change: Change) -> None:
        """This was folded; it is indexed at the next `catch_up`."""
        moves = change.added or change.removed or change.passed or change.forgotten
        if self.index is not None and moves:
            self._behind += [change, *change.others]

    def catch_up(self, vectors: Vectors = _NOTHING) -> None:
        """Index what was folded. What fails here is tried again at the next call.

        `vectors`: those that `embed` gave; all others are embedded now.
        """
        if self.index is None:
            return
        for user in list(self._doubted):
            self._put(self._missing(user), vectors)
            del self._doubted[user]
        if not self._behind:
            return
        todo, moved, gone, lost = _net(self._behind)
        for user in lost:
            self.index.release(user)
        for user, ids in gone.items():
            self.index.remove(user, ids)
        self._put(todo, vectors)
        for user, ids in moved.items():
            self.index.move(user, ids, [self._known_place(user, name) for name in ids])
        self._behind.clear()

    def doubt(self, user: str) -> None:
        """What the index holds of a user may be anything; it is put right at the next `catch_up`,
        or before it is read."""
        if self.index is not None:
            self._doubted[user] = None

    def _known_place(self, user: str, name: str) -> Place:
        place = self.place_of(user, name)
        assert place is not None
        return place

    @contextmanager
    def prepared(self, records: Iterable[Record]) -> Iterator[None]:
        """Embed them now, for whichever thread indexes them first until the block ends: an embedder
        may fail before a write only. One thread at a time."""
        self._ready = self.embed(records)
        try:
            yield
        finally:
            self._ready = _NOTHING

    def embed(self, records: Iterable[Record]) -> Vectors:
        """The vectors of the records' requests, by text; one call for those not at hand. Nothing
        without an index."""
        return _NOTHING if self.index is None else self._embed(records, self._ready)

    def search(
        self, user: str, vector: FloatArray, k: int, *, kind: str, labels: set[str] | None
    ) -> Sequence[tuple[str, float]]:
        """(record id, cosine) of the best; see `MemoryIndex.search`."""
        # A feedback's rank is its own, and what it refuses it refuses of the text of its case.
        beside = RecordKind.CASE if kind == RecordKind.REJECTED else None
        return self._index_of(user).search(
            user, vector, k, shelf=kind, labels=labels, beside=beside
        )

    def _index_of(self, user: str) -> MemoryIndex | ChromaIndex:
        """The index, once it has been given what a snapshot holds of the user."""
        self._state.users.get(user)
        if self._doubted:
            self.catch_up()
        return self.needed()

    def held(self, records: Sequence[Record]) -> FloatArray:
        """Vectors of the records' requests, shape (len(records), dim); zeros for those not held."""
        embedder = self._embedder
        self.needed()
        assert embedder is not None
        found = np.zeros((len(records), embedder.dim), dtype=np.float32)
        by_user: dict[str, list[int]] = {}
        for row, record in enumerate(records):
            by_user.setdefault(record.user, []).append(row)
        for user, rows in by_user.items():
            theirs = self._index_of(user).vectors(user, [records[row].id for row in rows])
            if len(by_user) == 1:
                found = theirs
            else:
                found[rows] = theirs
        return found

    def completed(self, found: FloatArray, records: Sequence[Record]) -> FloatArray:
        """What `held` gave, those not held embedded."""
        lost = [row for row in np.flatnonzero(found[:, 0] == 0).tolist() if not found[row].any()]
        if lost and self._embedder is not None:
            found[lost] = self._embedder.embed([records[i].request for i in lost])
        return found

    # ------------------------------------------------------------------------ where things go

    def rank(self, record: Record) -> int:
        """Where the record stands in the order of feedback, oldest first."""
        return self._state.users[record.user].ranks[record.source]

    def place_of(self, user: str, name: str) -> Place | None:
        """Where the vector of a record's id belongs; None if no such record is live."""
        state = self._state.users.get(user, UserState())
        record = state.records.get(name) or state.past.get(name)
        return None if record is None else _place(record, state)

    def adopt(self, user: str, state: UserState, held: Held) -> None:
        """A user's state and vectors come from a snapshot."""
        if self.index is not None:
            known = state.records | state.past
            places = [_place(known[name], state) for name in held.ids]
            self.index.adopt(user, held.ids, held.rows, places)

    def _put(self, records: Sequence[Record], vectors: Vectors = _NOTHING) -> None:
        for start in range(0, len(records), _PAGE):
            self._put_page(records[start : start + _PAGE], vectors)

    def _put_page(self, records: Sequence[Record], vectors: Vectors) -> None:
        vectors = self._embed(records, vectors)
        by_user: dict[str, list[Record]] = {}
        for record in records:
            if record.kind in _WITH_VECTOR:
                by_user.setdefault(record.user, []).append(record)
        for user, theirs in by_user.items():
            rows = np.stack([vectors[record.request] for record in theirs])
            places = [_place(record, self._state.users[user]) for record in theirs]
            self.needed().put(user, [record.id for record in theirs], rows, places)

    def _embed(self, records: Iterable[Record], ready: Vectors) -> Vectors:
        texts = {record.request for record in records if record.kind in _WITH_VECTOR}
        missing = sorted(texts - ready.keys())
        if not missing or self._embedder is None:
            return ready
        return {**ready, **dict(zip(missing, self._embedder.embed(missing), strict=True))}

    # ------------------------------------------------------------------------- beginning anew

    def begin(self, *, renew: bool) -> None:
        """Reconcile; an index that turns out damaged is made anew if `renew`."""
        try:
            self.reconcile()
        except StoreError as problem:
            if not renew:
                raise
            _log.warning("The index is damaged (%s): it is made anew from the journal", problem)
            self.needed().reset()
            self.reconcile()

    def reconcile(self) -> int:
        """Make the index hold exactly the live records; how many records have a vector."""
        index = self.needed()
        self._behind.clear()
        index.keep(tuple(self._state.users))
        self._put([record for user in self._state.users for record in self._missing(user)])
        self._doubted.clear()
        return sum(len(_live(state)) for state in self._state.users.values())

    def _missing(self, user: str) -> list[Record]:
        """What the index lacks of a user; it is rid of what it should not have."""
        live = _live(self._state.users.get(user, UserState()))
        held = set(self.needed().known(user))
        self.needed().remove(user, sorted(held - live.keys()))
        return [record for name, record in live.items() if name not in held]


def _live(state: UserState) -> dict[str, Record]:
    """The records that have a vector, by id."""
    known = (*state.records.values(), *state.past.values())
    return {record.id: record for record in known if record.kind in _WITH_VECTOR}


def _place(record: Record, state: UserState) -> Place:
    rank = state.ranks[record.source]
    shelf = record.kind if record.id in state.records else PAST
    return Place(shelf=shelf, label=record.task, rank=rank)


def _net(
    changes: Sequence[Change],
) -> tuple[list[Record], dict[str, list[str]], dict[str, list[str]], set[str]]:
    """What a run of changes comes to: records to put, ids whose place is another, ids to remove,
    users to release."""
    put: dict[tuple[str, str], Record] = {}
    moved: dict[tuple[str, str], None] = {}
    gone: dict[tuple[str, str], None] = {}
    lost: set[str] = set()
    for change in changes:
        if change.forgotten:
            lost.add(change.user)
            put = {key: record for key, record in put.items() if key[0] != change.user}
            moved = {key: None for key in moved if key[0] != change.user}
            gone = {key: None for key in gone if key[0] != change.user}
            continue
        for record in change.removed:
            put.pop((record.user, record.id), None)
            moved.pop((record.user, record.id), None)
            gone[record.user, record.id] = None
        for record in change.added:
            put[record.user, record.id] = record
            gone.pop((record.user, record.id), None)
        for record in change.passed:
            moved[record.user, record.id] = None
    return list(put.values()), _by_user(moved.keys() - put.keys()), _by_user(gone), lost


def _by_user(keys: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {}
    for user, name in sorted(keys):
        ids.setdefault(user, []).append(name)
    return ids
