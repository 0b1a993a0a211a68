"""The fold and the vectors written down beside the journal, so that opening need not make them.

Knows one file. It is a cache and never the truth: whatever does not fit (another journal, other
code, another embedder, a torn or damaged file) is as good as absent. Knows nothing of when it is
written, of databases, or of what a state means.

The file: the magic, each user's block and vectors (float32 rows), the contents (JSON), and the
place, length and CRC-32 of the contents. A block is read when its user is first asked for; blocks
are pickles in which nothing but the values of tta and five plain containers may be named.
"""

from __future__ import annotations

import gc
import hashlib
import io
import json
import mmap
import os
import pickle
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from tta.memory.fold import UserState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]

_MAGIC = b"tta snapshot 1\n\0"
_TAIL = struct.Struct("<QQI")
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


class Held(NamedTuple):
    """Whose vectors: row i of `rows`, shape (len(ids), dim), belongs to `ids[i]`."""

    ids: Sequence[str]
    rows: FloatArray


class Snapshot:
    """A snapshot on disk, read as far as it is asked for. Its file may be deleted meanwhile.

    `own`: the same file once more, for vectors that may be changed in RAM, page by page.
    """

    def __init__(self, data: mmap.mmap, own: mmap.mmap, contents: Mapping[str, Any]) -> None:
        self._data, self._own = data, own
        self._users: Mapping[str, Mapping[str, int]] = contents["users"]
        self.key: Mapping[str, str] = contents["key"]
        self.seq = int(contents["seq"])
        self.last = str(contents["last"])
        self._dim = int(contents["dim"])

    @classmethod
    def open(cls, path: Path) -> Snapshot | None:
        """None if there is none, or any byte of it is not what was written."""
        try:
            with path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                own = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            start, length, crc = _TAIL.unpack(data[-_TAIL.size :])
            text = data[start : start + length]
            if data[: len(_MAGIC)] != _MAGIC or zlib.crc32(text) != crc:
                return None
            found = cls(data, own, json.loads(text))
            whole = all(map(found._is_whole, found._users))
            found._give_back()
            return found if whole else None
        except (OSError, ValueError, struct.error, KeyError, TypeError):
            return None

    def _is_whole(self, user: str) -> bool:
        crc = zlib.crc32(self.raw_vectors(user), zlib.crc32(self.raw_block(user)))
        return crc == self._users[user]["crc"]

    def users(self) -> Sequence[str]:
        """Everyone it knows."""
        return tuple(self._users)

    def count(self, user: str) -> int:
        """How many vectors it holds of a user."""
        return self._users[user]["rows"]

    def load(self, user: str) -> tuple[UserState, Held]:
        """State and vectors. The latter may be changed, once for all: it changes no file, and is
        not seen by `raw_vectors`."""
        state, ids = self._unpickled(user)
        place = self._users[user]
        rows = np.frombuffer(self._own, np.float32, len(ids) * self._dim, place["rows_start"])
        self._give_back()
        return state, Held(ids, rows.reshape(len(ids), self._dim))

    def held(self, user: str) -> Held:
        """The vectors as they were written."""
        _, ids = self._unpickled(user)
        rows = np.frombuffer(self.raw_vectors(user), dtype=np.float32)
        return Held(ids, rows.reshape(len(ids), self._dim))

    def _unpickled(self, user: str) -> tuple[UserState, Sequence[str]]:
        with _uncollected():
            found: tuple[UserState, Sequence[str]]
            found = _Unpickler(io.BytesIO(self.raw_block(user))).load()
        return found

    def _give_back(self) -> None:
        """What was read is the disk's again, and no longer of this process's RAM."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._data.madvise(mmap.MADV_DONTNEED)

    def raw_block(self, user: str) -> memoryview:
        """The block as it lies there."""
        place = self._users[user]
        return memoryview(self._data)[place["start"] : place["start"] + place["length"]]

    def raw_vectors(self, user: str) -> memoryview:
        """The vectors as they lie there."""
        place = self._users[user]
        length = 4 * place["rows"] * self._dim
        return memoryview(self._data)[place["rows_start"] : place["rows_start"] + length]


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


class Written(NamedTuple):
    """What there is to write of one user: a block and vectors, made or copied."""

    user: str
    block: bytes | memoryview
    rows: memoryview
    vectors: int


def made(user: str, state: UserState, held: Held) -> Written:
    """A user's state and vectors as they are written."""
    with _uncollected():
        block = pickle.dumps((state, list(held.ids)), protocol=5)
    rows = np.ascontiguousarray(held.rows, dtype=np.float32)
    return Written(user, block, rows.reshape(-1).view(np.uint8).data, len(held.ids))


def copied(user: str, old: Snapshot) -> Written:
    """A user whom nobody has asked for since the last snapshot."""
    return Written(user, old.raw_block(user), old.raw_vectors(user), old.count(user))


def write(
    path: Path,
    users: Iterable[Written],
    *,
    key: Mapping[str, str],
    seq: int,
    last: str,
    dim: int,
) -> Path:
    """Write to a file beside `path`, durably; renaming it is the caller's. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    with new.open("wb") as file:
        file.write(_MAGIC)
        places = {one.user: _put(file, one) for one in users}
        contents = {"key": key, "seq": seq, "last": last, "dim": dim, "users": places}
        text = json.dumps(contents).encode()
        start = file.tell()
        file.write(text)
        file.write(_TAIL.pack(start, len(text), zlib.crc32(text)))
        file.flush()
        os.fsync(file.fileno())
    return new


def _put(file: BinaryIO, one: Written) -> dict[str, int]:
    start = file.tell()
    file.write(one.block)
    file.write(b"\0" * (-file.tell() % 64))  # rows of whole cache lines, as numpy likes them
    rows_start = file.tell()
    file.write(one.rows)
    return {
        "start": start,
        "length": len(one.block),
        "rows_start": rows_start,
        "rows": one.vectors,
        "crc": zlib.crc32(one.rows, zlib.crc32(one.block)),
    }


def code(*parts: object) -> str:
    """A digest of the code that folds, of the types of `parts` too: other code, other fold."""
    modules = {*_OWN, "tta.memory.events", *(type(p).__module__ for p in parts if p is not None)}
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


class Users(MutableMapping[str, UserState]):
    """Users by name, of whom some are asleep in a snapshot until they are asked for."""

    def __init__(self, asleep: Iterable[str], wake: Callable[[str], UserState]) -> None:
        self._held: dict[str, UserState | None] = dict.fromkeys(asleep)
        self._wake = wake

    def __getitem__(self, name: str) -> UserState:
        state = self._held[name]
        if state is None:
            state = self._held[name] = self._wake(name)
        return state

    def __setitem__(self, name: str, state: UserState) -> None:
        self._held[name] = state

    def __delitem__(self, name: str) -> None:
        del self._held[name]

    def __contains__(self, name: object) -> bool:
        return name in self._held

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def asleep(self, name: str) -> bool:
        """Whether nobody has asked for this user yet."""
        return self._held[name] is None
