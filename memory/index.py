"""Vectors by id, one collection per user: in RAM, or in Chroma with RAM before it.

Knows when to write and what to keep in RAM; how RAM is searched is `shelf.py`'s, how Chroma is
spoken to `chroma.py`'s. Knows nothing of records or texts: whatever is lost here is rebuilt from
the journal, so writes are batched.

Up to `ram_limit` vectors of a user are searched exactly in RAM; beyond, by Chroma's HNSW (Malkov
and Yashunin, 2018). Chroma holds ids and vectors only: where each belongs, `place` tells.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tta.errors import StoreError
from tta.memory.chroma import Chroma
from tta.memory.shelf import Place, Shelf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]

_log = logging.getLogger(__name__)

RAM_LIMIT = 200_000
"""Vectors of one user kept in RAM: 390 MB at 384 dimensions, with their sketch."""


class MemoryIndex:
    """An `Index` that lives as long as its process."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._shelves: dict[str, dict[str, Shelf]] = {}

    def put(
        self, user: str, ids: Sequence[str], vectors: FloatArray, places: Sequence[Place]
    ) -> None:
        """Keep unit vectors, shape (len(ids), dim); a known id gets its new vector.

        An id stays on the shelf on which it was put first.
        """
        theirs = self._shelves.setdefault(user, {})
        for shelf in dict.fromkeys(place.shelf for place in places):
            rows = [i for i, place in enumerate(places) if place.shelf == shelf]
            if shelf not in theirs:
                theirs[shelf] = Shelf(self._dim)
            theirs[shelf].put(
                [ids[i] for i in rows], np.asarray(vectors)[rows], [places[i] for i in rows]
            )

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

    def remove(self, user: str, ids: Sequence[str]) -> None:
        """Let go of ids; those not held are no error."""
        for shelf in self._shelves.get(user, {}).values():
            for name in ids:
                shelf.remove(name)

    def drop(self, user: str) -> None:
        """Let go of all that is held for a user."""
        self._shelves.pop(user, None)

    release = drop

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
        ram_limit: int = RAM_LIMIT,
    ) -> None:
        """Raises IndexInUse (embedded, and open elsewhere) or StoreError (no server there)."""
        self._client = Chroma(where)
        self._memory = memory
        self._meta = {"embedder": embedder, "dim": dim}
        self._flush_every, self._ram_limit = flush_every, ram_limit
        self._dim, self._place = dim, place
        self._ram = MemoryIndex(dim)
        self._beyond: set[str] = set()
        self._pending: dict[str, dict[str, FloatArray | None]] = {}
        self._loaded: dict[str, dict[str, Place | None]] = {}
        try:
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
        self._load(user).update(zip(ids, places, strict=True))
        if self._in_ram(user):
            self._ram.put(user, ids, vectors, places)
        rows = np.array(vectors, dtype=np.float32)
        self._await(user, dict(zip(ids, rows, strict=True)))

    def remove(self, user: str, ids: Sequence[str]) -> None:
        """Let go of ids; those not held are no error."""
        held = self._load(user)
        gone = [name for name in ids if name in held]
        for name in gone:
            held.pop(name, None)
        self._ram.remove(user, gone)
        self._await(user, dict.fromkeys(gone))

    def _await(self, user: str, changes: dict[str, FloatArray | None]) -> None:
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

    def search(
        self,
        user: str,
        vector: FloatArray,
        k: int,
        *,
        shelf: str,
        labels: Collection[str] | None = None,
    ) -> Sequence[tuple[str, float]]:
        """(id, cosine), best first; as `MemoryIndex.search`, in RAM."""
        held = self._load(user)
        if self._in_ram(user):
            return self._ram.search(user, vector, k, shelf=shelf, labels=labels)
        self.flush()
        names = [
            name
            for name, place in held.items()
            if place and place.shelf == shelf and (labels is None or place.label in labels)
        ]
        if k <= 0 or not names:
            return ()
        return self._client.query(self._name(user), vector, min(k, len(names)), names)

    def vectors(self, user: str, ids: Sequence[str]) -> FloatArray:
        """The vectors of `ids`, shape (len(ids), dim); zeros for ids that are not held."""
        held = self._load(user)
        if self._in_ram(user):
            return self._ram.vectors(user, ids)
        self.flush()
        found = np.zeros((len(ids), self._dim), dtype=np.float32)
        rows = {name: row for row, name in enumerate(ids) if name in held}
        for names, vectors in self._client.fetch(self._name(user), list(rows)):
            found[[rows[name] for name in names]] = vectors
        return found

    def drop(self, user: str) -> None:
        """Erase the user's collection; embedded, no byte of a vector stays in any file."""
        self.release(user)
        self._client.delete([self._name(user)])

    def release(self, user: str) -> None:
        """Forget what this process holds of a user whom another process has erased."""
        self._pending.pop(user, None)
        self._loaded.pop(user, None)
        self._beyond.discard(user)
        self._ram.drop(user)

    def keep(self, users: Sequence[str]) -> None:
        """Erase the collections of all others (a forgetting that was interrupted)."""
        names = {self._name(user) for user in users}
        self._client.delete([name for name in self._collections() if name not in names])

    def reset(self) -> None:
        """Erase all vectors of this memory."""
        self._pending.clear()
        self._loaded.clear()
        self._beyond.clear()
        self._ram.reset()
        self._client.wipe(collection_name(self._memory))

    def flush(self) -> None:
        """Write what is pending."""
        for user in list(self._pending):
            changes = self._pending[user]
            self._client.write(self._name(user), self._meta, changes)
            del self._pending[user]

    def close(self) -> None:
        """Flush, and let another process open the index."""
        try:
            if not self._client.closed:
                self.flush()
        finally:
            self._client.close()

    # ------------------------------------------------------------------------- helpers

    def _name(self, user: str) -> str:
        return collection_name(self._memory, user)

    def _collections(self) -> Mapping[str, Mapping[str, Any]]:
        return self._client.collections(collection_name(self._memory))

    def _load(self, user: str) -> dict[str, Place | None]:
        """The ids held for a user with their places, read from Chroma the first time."""
        if user not in self._loaded:
            held = self._loaded[user] = {}
            try:
                for ids, vectors in self._client.read(self._name(user)):
                    places = {name: self._place(user, name) for name in ids}
                    held.update(places)
                    if self._in_ram(user):
                        self._keep_in_ram(user, places, vectors)
            except BaseException:
                self.release(user)
                raise
        return self._loaded[user]

    def _in_ram(self, user: str) -> bool:
        """Whether all vectors of a user are in RAM; once there were too many, none are."""
        if user not in self._beyond and len(self._loaded[user]) > self._ram_limit:
            self._beyond.add(user)
            self._ram.drop(user)
        return user not in self._beyond

    def _keep_in_ram(
        self, user: str, places: Mapping[str, Place | None], vectors: FloatArray
    ) -> None:
        live = [(name, place, row) for row, (name, place) in enumerate(places.items()) if place]
        if live:
            names, where, rows = zip(*live, strict=True)
            self._ram.put(user, names, vectors[list(rows)], where)


def collection_name(memory: str, user: str | None = None) -> str:
    """Where the vectors of a memory's user lie; without a user, what all its names start with."""
    digest = "" if user is None else hashlib.sha256(user.encode()).hexdigest()[:32]
    return f"tta-{memory}-{digest}"
