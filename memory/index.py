"""Vectors by id, one collection per user: in RAM, or in Chroma with RAM before it.

Knows when to write and what to search; how RAM is searched is `shelf.py`'s, how Chroma is spoken
to `chroma.py`'s. Knows nothing of records or texts: whatever is lost here is rebuilt from the
journal, so writes are batched.

Up to `exact_limit` vectors of a user and kind are searched exactly in RAM; beyond, by Chroma's HNSW
(Malkov and Yashunin, 2018). Chroma holds ids and vectors only: where each belongs, `place` tells.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tta.errors import StoreError
from tta.memory.chroma import Chroma
from tta.memory.shelf import Place, Shelf
from tta.memory.snapshot import Held, Snapshot

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]

_log = logging.getLogger(__name__)

EXACT_LIMIT = 100_000
"""Vectors of one user and kind that are searched exactly; of more, Chroma's HNSW finds some four
times as many as asked for, and the best of these are taken."""


class MemoryIndex:
    """An `Index` that lives as long as its process."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._shelves: dict[str, dict[str, Shelf]] = {}

    def put(
        self, user: str, ids: Sequence[str], vectors: FloatArray, places: Sequence[Place]
    ) -> None:
        """Keep unit vectors, shape (len(ids), dim); a known id gets its new vector and place."""
        theirs = self._shelves.setdefault(user, {})
        for name, place in zip(ids, places, strict=True):
            for other, held in theirs.items():
                if other != place.shelf:
                    held.remove(name)
        for shelf in dict.fromkeys(place.shelf for place in places):
            rows = [i for i, place in enumerate(places) if place.shelf == shelf]
            if shelf not in theirs:
                theirs[shelf] = Shelf(self._dim)
            theirs[shelf].put(
                [ids[i] for i in rows], np.asarray(vectors)[rows], [places[i] for i in rows]
            )

    def adopt(
        self, user: str, ids: Sequence[str], vectors: FloatArray, places: Sequence[Place]
    ) -> None:
        """As `put` for a user of whom nothing is held; not copied if of one shelf after another."""
        theirs = self._shelves[user] = {}
        start = 0
        for name, run in groupby(places, key=lambda place: place.shelf):
            stop = start + sum(1 for _ in run)
            shelf = theirs.setdefault(name, Shelf(self._dim))
            take = shelf.put if shelf.names else shelf.adopt
            take(ids[start:stop], vectors[start:stop], places[start:stop])
            start = stop

    def held(self, user: str) -> Held:
        """All vectors of a user, shelf by shelf."""
        shelves = self._shelves.get(user, {}).values()
        rows = [shelf.matrix[: len(shelf.names)] for shelf in shelves]
        empty = np.zeros((0, self._dim), dtype=np.float32)
        return Held(self.known(user), np.concatenate([empty, *rows]))

    def ranks(
        self, user: str, ids: Sequence[str], *, shelf: str, labels: Collection[str] | None
    ) -> Mapping[str, int]:
        """Those of `ids` that are on a shelf, under one of `labels` when given, with their rank."""
        theirs = self._shelves.get(user, {})
        return theirs[shelf].ranks(ids, labels) if shelf in theirs else {}

    def count(self, user: str, shelf: str) -> int:
        """How many vectors of a user are on a shelf."""
        theirs = self._shelves.get(user, {})
        return len(theirs[shelf].names) if shelf in theirs else 0

    def known(self, user: str) -> Sequence[str]:
        """The ids held for a user."""
        return [name for shelf in self._shelves.get(user, {}).values() for name in shelf.names]

    def search(
        self,
        user: str,
        vector: FloatArray,
        k: int,
        *,
        shelf: str,
        labels: Collection[str] | None = None,
    ) -> Sequence[tuple[str, float]]:
        """(id, cosine) of the `k` best of a shelf, best first, of equals the lower rank.

        Only of `labels` when given. The answer depends on what is held, not on how it came there.
        """
        theirs = self._shelves.get(user, {})
        if shelf not in theirs or k <= 0:
            return ()
        return theirs[shelf].search(vector, k, labels)

    def vectors(self, user: str, ids: Sequence[str]) -> FloatArray:
        """The vectors of `ids`, shape (len(ids), dim); zeros for ids that are not held."""
        found = np.zeros((len(ids), self._dim), dtype=np.float32)
        for shelf in self._shelves.get(user, {}).values():
            shelf.vectors(ids, into=found)
        return found

    def move(self, user: str, ids: Sequence[str], places: Sequence[Place]) -> None:
        """Held ids get another place."""
        self.put(user, ids, self.vectors(user, ids), places)

    def remove(self, user: str, ids: Sequence[str]) -> None:
        """Let go of ids; those not held are no error."""
        for shelf in self._shelves.get(user, {}).values():
            for name in ids:
                shelf.remove(name)

    def drop(self, user: str) -> None:
        """Let go of all that is held for a user."""
        self._shelves.pop(user, None)

    release = drop

    def renew(self, user: str) -> None:
        """Nothing of what was removed stays in RAM."""

    def keep(self, users: Sequence[str]) -> None:
        """Let go of all others."""
        for user in self._shelves.keys() - set(users):
            del self._shelves[user]

    def reset(self) -> None:
        """Let go of everything."""
        self._shelves.clear()

    def flush(self) -> None:
        """Nothing is pending in RAM."""

    def close(self) -> None:
        self._shelves.clear()


class ChromaIndex:
    """An `Index` over Chroma, embedded in a folder or behind `http://host:port`.

    `memory` names the memory, so that several may share a server; `embedder` and `dim` name the
    vectors. Collections of other vectors are dropped, with a warning: `known` then lacks their ids.
    `place` tells of (user, id) where a vector read from Chroma belongs; with None it is not found.
    `snapshot`: what Chroma holds by the last snapshot. It is believed until Chroma, which takes
    seconds to open, is written to; then the two are compared, and Chroma is put right.
    """

    def __init__(
        self,
        where: str | Path,
        *,
        memory: str,
        embedder: str,
        dim: int,
        place: Callable[[str, str], Place | None],
        flush_every: int = 64,
        exact_limit: int = EXACT_LIMIT,
        snapshot: Snapshot | None = None,
    ) -> None:
        """Raises IndexInUse (embedded, and open elsewhere) or StoreError (no server there)."""
        self._client = Chroma(where, lazily=snapshot is not None)
        self._memory = memory
        self._meta = {"embedder": embedder, "dim": dim}
        self._flush_every, self._exact_limit = flush_every, exact_limit
        self._place = place
        self._ram = MemoryIndex(dim)
        self._pending: dict[str, dict[str, FloatArray | None]] = {}
        self._loaded: dict[str, set[str]] = {}
        self._believed = snapshot
        self._there = set() if snapshot is None else set(snapshot.users())
        try:
            if snapshot is None:
                self._drop_other_vectors()
        except BaseException:
            self._client.close()
            raise

    def _drop_other_vectors(self) -> None:
        other = {
            name: metadata.get("embedder")
            for name, metadata in self._collections().items()
            if any(metadata.get(key) != value for key, value in self._meta.items())
        }
        if other:
            _log.warning(
                "The index holds vectors of %s, the embedder is %r: all are embedded again",
                set(other.values()),
                self._meta["embedder"],
            )
            self._client.delete(list(other))

    # ------------------------------------------------------------------------ the Index

    def put(
        self, user: str, ids: Sequence[str], vectors: FloatArray, places: Sequence[Place]
    ) -> None:
        """Keep unit vectors, shape (len(ids), dim). On disk at the next flush."""
        self._load(user).update(ids)
        self._ram.put(user, ids, vectors, places)
        rows = np.array(vectors, dtype=np.float32)
        self._await(user, dict(zip(ids, rows, strict=True)))

    def adopt(
        self, user: str, ids: Sequence[str], vectors: FloatArray, places: Sequence[Place]
    ) -> None:
        """Hold what a snapshot says that Chroma holds."""
        self._loaded[user] = set(ids)
        self._ram.adopt(user, ids, vectors, places)

    def move(self, user: str, ids: Sequence[str], places: Sequence[Place]) -> None:
        """Held ids get another place; Chroma does not know places."""
        self._load(user)
        self._ram.move(user, ids, places)

    def remove(self, user: str, ids: Sequence[str]) -> None:
        """Let go of ids; those not held are no error."""
        held = self._load(user)
        gone = [name for name in ids if name in held]
        held.difference_update(gone)
        self._ram.remove(user, gone)
        self._await(user, dict.fromkeys(gone))

    def _await(self, user: str, changes: dict[str, FloatArray | None]) -> None:
        if changes:
            self._pending.setdefault(user, {}).update(changes)
        if sum(map(len, self._pending.values())) < self._flush_every:
            return
        try:
            self.flush()
        except StoreError:
            # The journal has it and RAM has it; what was not written stays pending.
            _log.warning("The index could not be written; it is tried again", exc_info=True)

    def known(self, user: str) -> Sequence[str]:
        """The ids held for a user."""
        return tuple(self._load(user))

    def held(self, user: str) -> Held:
        """All vectors of a user."""
        self._load(user)
        return self._ram.held(user)

    def search(
        self,
        user: str,
        vector: FloatArray,
        k: int,
        *,
        shelf: str,
        labels: Collection[str] | None = None,
    ) -> Sequence[tuple[str, float]]:
        """(id, cosine), best first; as `MemoryIndex.search`, exact up to `exact_limit` vectors."""
        self._load(user)
        if k > 0 and self._ram.count(user, shelf) > self._exact_limit:
            found = self._search_chroma(user, vector, k, shelf, labels)
            if len(found) == k:
                return found
        return self._ram.search(user, vector, k, shelf=shelf, labels=labels)

    def _search_chroma(
        self, user: str, vector: FloatArray, k: int, shelf: str, labels: Collection[str] | None
    ) -> list[tuple[str, float]]:
        """Of the nearest four times `k` in Chroma, and of what it does not hold yet, the best."""
        pending = self._pending.get(user, {})
        near = self._chroma().query(self._name(user), vector, 4 * k)
        found = [(name, score) for name, score in near if name not in pending]
        found += [(n, float(row @ vector)) for n, row in pending.items() if row is not None]
        ranks = self._ram.ranks(user, [name for name, _ in found], shelf=shelf, labels=labels)
        right = sorted((-score, ranks[name], name) for name, score in found if name in ranks)
        return [(name, -minus) for minus, _, name in right[:k]]

    def vectors(self, user: str, ids: Sequence[str]) -> FloatArray:
        """The vectors of `ids`, shape (len(ids), dim); zeros for ids that are not held."""
        self._load(user)
        return self._ram.vectors(user, ids)

    def drop(self, user: str) -> None:
        """Erase the user's collection; embedded, no byte of a vector stays in any file."""
        self.release(user)
        self._chroma().delete([self._name(user)])
        self._client.blank()

    def renew(self, user: str) -> None:
        """Write a user's collection anew, so that no byte of what was removed stays in any file."""
        held = self.held(user)
        self._chroma().delete([self._name(user)])
        self._client.blank()
        self._pending[user] = dict(zip(*held, strict=True))

    def release(self, user: str) -> None:
        """Forget what this process holds of a user whom another process has erased."""
        self._pending.pop(user, None)
        self._loaded.pop(user, None)
        self._there.discard(user)
        self._ram.drop(user)

    def keep(self, users: Sequence[str]) -> None:
        """Erase the collections of all others (a forgetting that was interrupted)."""
        names = {self._name(user) for user in users}
        self._client.delete([name for name in self._collections() if name not in names])

    def reset(self) -> None:
        """Erase all vectors of this memory."""
        self._believed = None
        self._pending.clear()
        self._loaded.clear()
        self._ram.reset()
        self._client.wipe(collection_name(self._memory))

    def flush(self) -> None:
        """Write what is pending."""
        if not self._pending:
            return
        client = self._chroma()
        for user in list(self._pending):
            client.write(self._name(user), self._meta, self._pending[user])
            del self._pending[user]

    def close(self) -> None:
        """Flush, and let another process open the index."""
        try:
            if not self._client.closed:
                self.flush()
        finally:
            self._client.close()

    # ------------------------------------------------------------------- what was believed

    def _chroma(self) -> Chroma:
        """Chroma, and once before anything else compared with what was believed of it."""
        believed, self._believed = self._believed, None
        if believed is None:
            return self._client
        try:
            self._drop_other_vectors()
            self.keep([*self._there, *self._loaded])
            wrong = [u for u in self._there if self._counted(u) != believed.count(u)]
        except StoreError as problem:
            if not self._client.embedded:
                raise
            _log.warning("The index is damaged (%s): it is made anew", problem)
            self._client.wipe(collection_name(self._memory))
            wrong = list(self._there)
        for user in wrong:
            self._put_right(user, believed)
        return self._client

    def _counted(self, user: str) -> int:
        return self._client.count(self._name(user))

    def _put_right(self, user: str, believed: Snapshot) -> None:
        """Chroma is given what it lacks of a user, and rid of what it should not have."""
        held = believed.load(user)[1]
        there = {name for ids, _ in self._client.read(self._name(user)) for name in ids}
        changes: dict[str, FloatArray | None] = dict.fromkeys(there.difference(held.ids))
        changes |= {name: row for name, row in zip(*held, strict=True) if name not in there}
        # What was learned since is newer, and is pending.
        self._pending[user] = changes | self._pending.get(user, {})

    # ------------------------------------------------------------------------- helpers

    def _name(self, user: str) -> str:
        return collection_name(self._memory, user)

    def _collections(self) -> Mapping[str, Mapping[str, Any]]:
        return self._client.collections(collection_name(self._memory))

    def _load(self, user: str) -> set[str]:
        """The ids held for a user, read from Chroma the first time."""
        if user not in self._loaded:
            held = self._loaded[user] = set()
            if self._believed is not None and user not in self._there:
                return held
            try:
                for ids, vectors in self._chroma().read(self._name(user)):
                    held.update(ids)
                    self._take_in(user, {name: self._place(user, name) for name in ids}, vectors)
            except BaseException:
                self.release(user)
                raise
        return self._loaded[user]

    def _take_in(self, user: str, places: Mapping[str, Place | None], vectors: FloatArray) -> None:
        live = [(name, place, row) for row, (name, place) in enumerate(places.items()) if place]
        if live:
            names, where, rows = zip(*live, strict=True)
            self._ram.put(user, names, vectors[list(rows)], where)


def collection_name(memory: str, user: str | None = None) -> str:
    """Where the vectors of a memory's user lie; without a user, what all its names start with."""
    digest = "" if user is None else hashlib.sha256(user.encode()).hexdigest()[:32]
    return f"tta-{memory}-{digest}"
