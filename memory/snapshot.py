"""The fold and the vectors written down, so that opening need not make them.

Knows what is in a snapshot and how a state becomes bytes. It is a cache and never the truth:
whatever does not fit (another journal, other code, another embedder, damage) is as good as absent.
Knows nothing of where it lies (`snapfile.py`, `snaptable.py`), of when it is written, or of what a
state means.

Each user has a block and vectors (float32 rows), read when the user is first asked for; blocks are
pickles in which nothing but the values of tta and five plain containers may be named.
"""

from __future__ import annotations

import gc
import hashlib
import io
import pickle
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tta.memory.fold import UserState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]

_OWN = (
    "tta.types",
    "tta.standing",
    "tta.protocols",
    "tta.memory.fold",
    "tta.memory.moves",
    "tta.memory.policy",
    "tta.memory.sighted",
    "tta.memory.trust",
)


class Gone(LookupError):
    """A user's part of a snapshot is not there any more, or not what was written."""


class Head(NamedTuple):
    """What a snapshot is of: `key`, what must be equal for it to be of use; `seq`, the last event
    in it, and `last`, that event's mark; `dim` of the vectors."""

    key: Mapping[str, str]
    seq: int
    last: str
    dim: int


class Held(NamedTuple):
    """Whose vectors: row i of `rows`, shape (len(ids), dim), belongs to `ids[i]`."""

    ids: Sequence[str]
    rows: FloatArray


class Written(NamedTuple):
    """What there is to write of one user: a block and vectors, made or copied.

    `promoters`: the users who agreed on what was promoted to this one. `entry`: what the contents
    say of the user, where block and vectors lie already.
    """

    user: str
    block: bytes | memoryview
    rows: memoryview
    vectors: int
    promoters: Sequence[str] = ()
    entry: Mapping[str, Any] | None = None

    @property
    def crc(self) -> int:
        """The CRC-32 of both."""
        return zlib.crc32(self.rows, zlib.crc32(self.block))


class Snapshot(ABC):
    """A snapshot, read as far as it is asked for. `contents`: what `contents_of` gave."""

    def __init__(self, contents: Mapping[str, Any]) -> None:
        self._users: Mapping[str, Mapping[str, Any]] = contents["users"]
        self.key: Mapping[str, str] = contents["key"]
        self.seq = int(contents["seq"])
        self.last = str(contents["last"])
        self._dim = int(contents["dim"])

    def users(self) -> Mapping[str, Collection[str] | None]:
        """Everyone it knows, with the users who agreed on what was promoted to them, if it says."""
        return {user: entry.get("promoters") for user, entry in self._users.items()}

    def count(self, user: str) -> int:
        """How many vectors it holds of a user."""
        return int(self._users[user]["rows"])

    @abstractmethod
    def load(self, user: str) -> tuple[UserState, Held]:
        """State and vectors. The latter may be changed, once for all: it changes no snapshot.

        Raises Gone.
        """

    def held(self, user: str) -> Held:
        """The vectors as they were written."""
        return self.load(user)[1]

    @abstractmethod
    def copied(self, user: str) -> Written:
        """A user whom nobody has asked for since, for the next snapshot at the same place."""


def contents_of(head: Head, users: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """What tells of a snapshot and of where its users lie; of each at least `rows` and `crc`."""
    return {**head._asdict(), "users": users}


def made(user: str, state: UserState, held: Held) -> Written:
    """A user's state and vectors as they are written."""
    with _uncollected():
        block = pickle.dumps((state, list(held.ids)), protocol=5)
    rows = np.ascontiguousarray(held.rows, dtype=np.float32).reshape(-1).view(np.uint8).data
    promoters = sorted({name for agreed in state.promoted.values() for name in agreed})
    return Written(user, block, rows, len(held.ids), promoters)


def unpickled(block: bytes | bytearray | memoryview) -> tuple[UserState, Sequence[str]]:
    """A user's state, and the ids of the vectors."""
    with _uncollected():
        found: tuple[UserState, Sequence[str]]
        found = _Unpickler(io.BytesIO(block)).load()
    return found


class _Unpickler(pickle.Unpickler):
    """One that makes values of tta and plain containers, and runs nothing else."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 (a class)
        if module == "collections" and name in ("deque", "Counter", "OrderedDict"):
            return super().find_class(module, name)
        if module == "builtins" and name in ("set", "frozenset"):
            return super().find_class(module, name)
        found = super().find_class(module, name) if module in _OWN else None
        if isinstance(found, type) and found.__module__ == module:
            return found
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a snapshot")


def code(*parts: object) -> str:
    """A digest of the code that folds: other code, other fold. Of the types of `parts` too, and of
    what their modules take from the project's others."""
    folding = {type(part).__module__ for part in parts if part is not None}
    taken = {
        str(getattr(value, "__module__", ""))
        for name in folding
        for value in getattr(sys.modules.get(name), "__dict__", {}).values()
    }
    ours = {name for name in taken if name.startswith("tta.")}
    modules = {*_OWN, "tta.memory.events", *folding, *ours}
    digest = hashlib.sha256(sys.version.encode())
    for name in sorted(modules):
        path = getattr(sys.modules.get(name), "__file__", None)
        digest.update(name.encode() + (Path(path).read_bytes() if path else b""))
    return digest.hexdigest()[:16]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector, which would look at all of a growing heap again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
