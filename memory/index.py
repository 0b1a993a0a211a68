"""Vectors by id, one collection per user: in RAM, or in Chroma with RAM before it.

Knows numpy and when to write; how Chroma is spoken to is `chroma.py`'s. Knows nothing of records or
texts: whatever is lost here is rebuilt from the journal, so writes are batched.

Up to `ram_limit` vectors of a user are searched exactly in RAM; beyond, by Chroma's HNSW (Malkov
and Yashunin, 2018).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tta.errors import StoreError
from tta.memory.chroma import Chroma

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]

_log = logging.getLogger(__name__)


class MemoryIndex:
    """An `Index` that lives as long as its process."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._rows: dict[str, _Rows] = {}

    def put(self, user: str, ids: Sequence[str], vectors: FloatArray) -> None:
        """Keep unit vectors, shape (len(ids), dim); a known id gets its new vector."""
        rows = self._rows.setdefault(user, _Rows(self._dim))
        for name, vector in zip(ids, vectors, strict=True):
            rows.put(name, vector)

    def known(self, user: str) -> Sequence[str]:
        """The ids held for a user."""
        return tuple(self._rows[user].names) if user in self._rows else ()

    def search(
        self, user: str, vector: FloatArray, k: int, *, among: Sequence[str] | None = None
    ) -> Sequence[tuple[str, float]]:
        """(id, cosine), best first, of equals the earlier of `among`; ids not held are skipped."""
        if user not in self._rows or k <= 0:
            return ()
        return self._rows[user].search(vector, k, among)

    def remove(self, user: str, ids: Sequence[str]) -> None:
        """Let go of ids; those not held are no error."""
        if user in self._rows:
            for name in ids:
                self._rows[user].remove(name)

    def drop(self, user: str) -> None:
        """Let go of all that is held for a user."""
        self._rows.pop(user, None)

    release = drop

    def keep(self, users: Sequence[str]) -> None:
        """Let go of all others."""
        for user in self._rows.keys() - set(users):
            del self._rows[user]

    def reset(self) -> None:
        """Let go of everything."""
        self._rows.clear()

    def flush(self) -> None:
        """Nothing is pending in RAM."""

    def close(self) -> None:
        self._rows.clear()


class _Rows:
    """The vectors of one user: row i of `matrix` belongs to `names[i]`."""

    def __init__(self, dim: int) -> None:
        self.names: list[str] = []
        self.row: dict[str, int] = {}
        self.matrix = np.empty((16, dim), dtype=np.float32)

    def put(self, name: str, vector: FloatArray) -> None:
        row = self.row.get(name)
        if row is None:
            row = self.row[name] = len(self.names)
            self.names.append(name)
            if row == len(self.matrix):
                grown = np.empty((2 * row, self.matrix.shape[1]), dtype=np.float32)
                grown[:row] = self.matrix
                self.matrix = grown
        self.matrix[row] = vector

    def remove(self, name: str) -> None:
        row = self.row.pop(name, None)
        if row is None:
            return
        last = self.names.pop()
        if last != name:
            self.names[row] = last
            self.row[last] = row
            self.matrix[row] = self.matrix[len(self.names)]
        self.matrix[len(self.names)] = 0.0

    def search(
        self, vector: FloatArray, k: int, among: Sequence[str] | None
    ) -> list[tuple[str, float]]:
        names = [n for n in among if n in self.row] if among is not None else self.names
        if not names:
            return []
        # Gathered in the order of `among`: the result must not depend on where rows came to lie.
        taken = self.matrix[[self.row[name] for name in names]]
        scores = taken @ np.asarray(vector, dtype=np.float32)
        best = np.argsort(-scores, kind="stable")[:k]
        return [(names[i], float(scores[i])) for i in best]


class ChromaIndex:
    """An `Index` over Chroma, embedded in a folder or behind `http://host:port`.

    `memory` names the memory, so that several may share a server; `embedder` and `dim` name the
    vectors. Collections of other vectors are dropped, with a warning: `known` then lacks their ids.
    """

    def __init__(
        self,
        where: str | Path,
        *,
        memory: str,
        embedder: str,
        dim: int,
        flush_every: int = 64,
        ram_limit: int = 50_000,
    ) -> None:
        """Raises IndexInUse (embedded, and open elsewhere) or StoreError (no server there)."""
        self._client = Chroma(where)
        self._memory = memory
        self._meta = {"embedder": embedder, "dim": dim}
        self._flush_every, self._ram_limit = flush_every, ram_limit
        self._ram = MemoryIndex(dim)
        self._pending: dict[str, dict[str, FloatArray | None]] = {}
        self._loaded: dict[str, set[str]] = {}
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

    def put(self, user: str, ids: Sequence[str], vectors: FloatArray) -> None:
        """Keep unit vectors, shape (len(ids), dim). On disk at the next flush."""
        held = self._load(user)
        held.update(ids)
        if len(held) <= self._ram_limit:
            self._ram.put(user, ids, vectors)
        else:
            self._ram.drop(user)
        rows = np.array(vectors, dtype=np.float32)
        self._await(user, dict(zip(ids, rows, strict=True)))

    def remove(self, user: str, ids: Sequence[str]) -> None:
        """Let go of ids; those not held are no error."""
        gone = self._load(user).intersection(ids)
        self._load(user).difference_update(gone)
        self._ram.remove(user, list(gone))
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
        self, user: str, vector: FloatArray, k: int, *, among: Sequence[str] | None = None
    ) -> Sequence[tuple[str, float]]:
        """(id, cosine), best first; only `among` when given."""
        held = self._load(user)
        if len(held) <= self._ram_limit and len(self._ram.known(user)) == len(held):
            return self._ram.search(user, vector, k, among=among)
        self.flush()
        names = None if among is None else [name for name in among if name in held]
        if k <= 0 or names == [] or not held:
            return ()
        return self._client.query(self._name(user), vector, min(k, len(names or held)), names)

    def drop(self, user: str) -> None:
        """Erase the user's collection; embedded, no byte of a vector stays in any file."""
        self.release(user)
        self._client.delete([self._name(user)])

    def release(self, user: str) -> None:
        """Forget what this process holds of a user whom another process has erased."""
        self._pending.pop(user, None)
        self._loaded.pop(user, None)
        self._ram.drop(user)

    def keep(self, users: Sequence[str]) -> None:
        """Erase the collections of all others (a forgetting that was interrupted)."""
        names = {self._name(user) for user in users}
        self._client.delete([name for name in self._collections() if name not in names])

    def reset(self) -> None:
        """Erase all vectors of this memory."""
        self._pending.clear()
        self._loaded.clear()
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

    def _load(self, user: str) -> set[str]:
        """The ids held for a user, read from Chroma the first time."""
        if user not in self._loaded:
            held: set[str] = set()
            for ids, vectors in self._client.read(self._name(user)):
                held.update(ids)
                if len(held) <= self._ram_limit:
                    self._ram.put(user, ids, vectors)
            if len(held) > self._ram_limit:
                self._ram.drop(user)
            self._loaded[user] = held
        return self._loaded[user]


def collection_name(memory: str, user: str | None = None) -> str:
    """Where the vectors of a memory's user lie; without a user, what all its names start with."""
    digest = "" if user is None else hashlib.sha256(user.encode()).hexdigest()[:32]
    return f"tta-{memory}-{digest}"
