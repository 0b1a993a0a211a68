"""Vectors by id, one collection per user: in RAM, or in Chroma with RAM before it.

Knows when to write; how RAM is searched is `shelf.py`'s, how Chroma is spoken to `chroma.py`'s.
Knows nothing of records or texts: whatever is lost here is rebuilt from the journal, so writes are
batched, and made by a thread of their own.

Chroma keeps ids and vectors, and is not searched: where each belongs, `place` tells. Its graph took
.4 ms of the processor for each of 60,000 vectors, and more of each the more there are, and holds
all of them a second time in RAM; what the cells of `sketch.py` take is a twentieth of that.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tta.errors import StoreError
from tta.memory.chroma import Chroma, is_server
from tta.memory.shelf import Place, Shelf
from tta.memory.snapshot import Held, Snapshot

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]

_log = logging.getLogger(__name__)

_SHARE = 100
"""A write to Chroma is due when one in so many vectors waits for it, or `flush_every` if that is
more: it takes an embedded Chroma seconds to open where there are many."""
_WAITING = 20_000
"""Vectors that wait at most, but for those that come at once: then one waits for the thread."""
_LARGE = 50_000
"""Vectors from which an embedded Chroma is let go of after each writing: it has all of them in
RAM."""


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
        rows = [part for shelf in shelves for part in shelf.matrix.parts(len(shelf.names))]
        empty = np.zeros((0, self._dim), dtype=np.float32)
        return Held(self.known(user), np.concatenate([empty, *rows]))

    def has(self, user: str, name: str) -> bool:
        """Whether an id is held for a user."""
        return any(name in shelf.row for shelf in self._shelves.get(user, {}).values())

    def count(self) -> int:
        """How many vectors are held in all."""
        return sum(len(s.names) for theirs in self._shelves.values() for s in theirs.values())

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
        beside: str | None = None,
    ) -> Sequence[tuple[str, float]]:
        """(id, cosine) of the `k` best of a shelf, best first, of equals the lower rank.

        Only of `labels` when given. The answer depends on what is held, not on how it came there.
        `beside`: a shelf of which ranks that are here as well have the vectors that they have here;
        searched for the same vector before, it saves reading them again.
        """
        theirs = self._shelves.get(user, {})
        if shelf not in theirs or k <= 0:
            return ()
        other = None if beside is None else theirs.get(beside)
        return theirs[shelf].search(vector, k, labels, beside=other)

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
    `snapshot`: what Chroma holds by the last snapshot. Embedded, it is believed until Chroma, which
    takes seconds to open, is written to; then the two are compared, and Chroma is put right. A
    server is not compared: others write what they learned since, and each what it lacks itself.
    `forgotten`: called before a writing to a server, gives what is called after it, and tells the
    users whom other processes erased meanwhile; their vectors must not stay.
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
        snapshot: Snapshot | None = None,
        forgotten: Callable[[], Callable[[], Collection[str]]] = lambda: tuple,
    ) -> None:
        """Raises IndexInUse (embedded, and open elsewhere) or StoreError (no server there)."""
        lazily = snapshot is not None and not is_server(where)
        self._client = Chroma(where, lazily=lazily)
        self._memory = memory
        self._meta = {"embedder": embedder, "dim": dim}
        self._flush_every = flush_every
        self._place = place
        self._forgotten = forgotten
        self._ram = MemoryIndex(dim)
        self._pending: dict[str, dict[str, FloatArray | None]] = {}
        self._strays: dict[str, set[str]] = {}
        self._writer: _Writer | None = None
        self._believed = snapshot if lazily else None
        # Of all others Chroma holds nothing that need be read; None before that is known.
        self._there = None if snapshot is None else set(snapshot.users())
        try:
            if not lazily:
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
        """Keep unit vectors, shape (len(ids), dim). On disk after the next writing."""
        self._load(user).difference_update(ids)
        self._ram.put(user, ids, vectors, places)
        rows = np.array(vectors, dtype=np.float32)
        self._await(user, dict(zip(ids, rows, strict=True)))

    def adopt(
        self, user: str, ids: Sequence[str], vectors: FloatArray, places: Sequence[Place]
    ) -> None:
        """Hold what a snapshot says that Chroma holds."""
        self._strays[user] = set()
        self._ram.adopt(user, ids, vectors, places)

    def move(self, user: str, ids: Sequence[str], places: Sequence[Place]) -> None:
        """Held ids get another place; Chroma does not know places."""
        self._load(user)
        self._ram.move(user, ids, places)

    def remove(self, user: str, ids: Sequence[str]) -> None:
        """Let go of ids; those not held are no error."""
        strays = self._load(user)
        gone = [name for name in ids if name in strays or self._ram.has(user, name)]
        strays.difference_update(gone)
        self._ram.remove(user, gone)
        self._await(user, dict.fromkeys(gone))

    def _await(self, user: str, changes: dict[str, FloatArray | None]) -> None:
        if changes:
            self._pending.setdefault(user, {}).update(changes)
        waiting = sum(map(len, self._pending.values()))
        if waiting < max(self._flush_every, self._ram.count() // _SHARE):
            return
        if self._writer is None or self._writer.over or waiting > _WAITING:
            self._settle()
            # Before the thread begins, which asks how much is waiting behind it.
            due, self._pending = self._pending, {}
            self._writer = _Writer(partial(self._write, self._forgotten()), due)

    def _write(
        self,
        forgotten: Callable[[], Collection[str]],
        changes: Mapping[str, dict[str, FloatArray | None]],
    ) -> None:
        client = self._chroma()
        for user, theirs in changes.items():
            client.write(self._name(user), self._meta, theirs)
        if not client.embedded:
            # Others erase in the journal first: whom it has by now, they may have erased on the
            # server before this was written.
            client.delete([self._name(user) for user in forgotten() if user in changes])
        idle = sum(map(len, list(self._pending.values()))) < self._flush_every
        if client.embedded and idle and self._ram.count() > _LARGE:
            client.let_go()

    def _settle(self) -> None:
        """Wait for what is being written: nobody else may speak to Chroma meanwhile."""
        writer, self._writer = self._writer, None
        problem = None if writer is None else writer.problem()
        if writer is None or problem is None:
            return
        # The journal has it and RAM has it; what was not written stays pending.
        for user, theirs in writer.changes.items():
            self._pending[user] = theirs | self._pending.get(user, {})
        if not isinstance(problem, StoreError):
            raise problem
        _log.warning("The index could not be written; it is tried again", exc_info=problem)

    def known(self, user: str) -> Sequence[str]:
        """The ids held for a user."""
        return (*self._load(user), *self._ram.known(user))

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
        beside: str | None = None,
    ) -> Sequence[tuple[str, float]]:
        """(id, cosine), best first; see `MemoryIndex.search`."""
        self._load(user)
        return self._ram.search(user, vector, k, shelf=shelf, labels=labels, beside=beside)

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
        self._settle()
        self._chroma().delete([self._name(user)])
        self._client.blank()
        self._pending[user] = dict(zip(*held, strict=True))

    def release(self, user: str) -> None:
        """Forget what this process holds of a user whom another process has erased."""
        self._settle()
        self._pending.pop(user, None)
        self._strays.pop(user, None)
        if self._there is not None:
            self._there.discard(user)
        self._ram.drop(user)

    def keep(self, users: Sequence[str]) -> None:
        """Erase the collections of all others (a forgetting that was interrupted)."""
        self._settle()
        self._keep(users)
        self._there = set(users)

    def _keep(self, users: Sequence[str]) -> None:
        names = {self._name(user) for user in users}
        self._client.delete([name for name in self._collections() if name not in names])

    def reset(self) -> None:
        """Erase all vectors of this memory."""
        self._settle()
        self._believed = None
        self._pending.clear()
        self._strays.clear()
        self._ram.reset()
        self._client.wipe(collection_name(self._memory))

    def flush(self) -> None:
        """Write what is pending; it is written when this returns."""
        self._settle()
        if self._pending:
            changes, self._pending = self._pending, {}
            try:
                self._write(self._forgotten(), changes)
            except BaseException:
                self._pending = changes
                raise

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
        if believed is None or self._there is None:
            return self._client
        try:
            self._drop_other_vectors()
            self._keep([*self._there, *self._strays])
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
        held = believed.held(user)
        there = {name for ids, _ in self._client.read(self._name(user)) for name in ids}
        changes: dict[str, FloatArray | None] = dict.fromkeys(there.difference(held.ids))
        changes |= {name: row for name, row in zip(*held, strict=True) if name not in there}
        # What was learned since is newer, and is written after this.
        self._client.write(self._name(user), self._meta, changes)

    # ------------------------------------------------------------------------- helpers

    def _name(self, user: str) -> str:
        return collection_name(self._memory, user)

    def _collections(self) -> Mapping[str, Mapping[str, Any]]:
        return self._client.collections(collection_name(self._memory))

    def _load(self, user: str) -> set[str]:
        """The ids in Chroma that belong nowhere; all others are in RAM, read the first time."""
        if user not in self._strays:
            self._strays[user] = set()
            if self._there is not None and user not in self._there:
                return self._strays[user]
            try:
                self._settle()
                for ids, vectors in self._chroma().read(self._name(user)):
                    self._take_in(user, {name: self._place(user, name) for name in ids}, vectors)
            except BaseException:
                self._strays.pop(user)
                self._ram.drop(user)
                raise
        return self._strays[user]

    def _take_in(self, user: str, places: Mapping[str, Place | None], vectors: FloatArray) -> None:
        self._strays[user].update(name for name, place in places.items() if place is None)
        live = [(name, place, row) for row, (name, place) in enumerate(places.items()) if place]
        if live:
            names, where, rows = zip(*live, strict=True)
            self._ram.put(user, names, vectors[list(rows)], where)


class _Writer:
    """A thread that writes changes to Chroma."""

    def __init__(
        self,
        write: Callable[[Mapping[str, dict[str, FloatArray | None]]], None],
        changes: Mapping[str, dict[str, FloatArray | None]],
    ) -> None:
        self.changes = changes
        self._write = write
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="tta_index")
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether it has finished, one way or the other."""
        return not self._thread.is_alive()

    def problem(self) -> BaseException | None:
        """Why it failed, if it did; waits for it."""
        self._thread.join()
        return self._problem

    def _run(self) -> None:
        try:
            self._write(self.changes)
        except BaseException as problem:
            self._problem = problem


def collection_name(memory: str, user: str | None = None) -> str:
    """Where the vectors of a memory's user lie; without a user, what all its names start with."""
    digest = "" if user is None else hashlib.sha256(user.encode()).hexdigest()[:32]
    return f"tta-{memory}-{digest}"
