"""A snapshot in a file beside the journal.

Knows one file, mapped into RAM and read as far as it is asked for. Knows nothing of when it is
written, nor of what a state is.

The file: the magic, each user's block and vectors, the contents (JSON), and the place, length and
CRC-32 of the contents.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tta.memory.fold import UserState
from tta.memory.journal import Journal
from tta.memory.snapshot import Head, Held, Snapshot, Written, contents_of, unpickled

_MAGIC = b"tta snapshot 1\n\0"
_TAIL = struct.Struct("<QQI")


class FileSnapshot(Snapshot):
    """A snapshot on disk. Its file may be deleted meanwhile.

    `own`: the same file once more, for vectors that may be changed in RAM, page by page.
    """

    def __init__(self, data: mmap.mmap, own: mmap.mmap, contents: Mapping[str, Any]) -> None:
        super().__init__(contents)
        self._data, self._own = data, own

    @classmethod
    def open(cls, path: Path) -> FileSnapshot | None:
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
        return self.copied(user).crc == int(self._users[user]["crc"])

    def load(self, user: str) -> tuple[UserState, Held]:
        """State and vectors; those that were changed are not seen by `copied`."""
        state, ids = unpickled(self._block(user))
        start = self._users[user]["rows_start"]
        rows = np.frombuffer(self._own, np.float32, len(ids) * self._dim, start)
        self._give_back()
        return state, Held(ids, rows.reshape(len(ids), self._dim))

    def held(self, user: str) -> Held:
        """The vectors as they were written."""
        _, ids = unpickled(self._block(user))
        rows = np.frombuffer(self.copied(user).rows, dtype=np.float32)
        return Held(ids, rows.reshape(len(ids), self._dim))

    def copied(self, user: str) -> Written:
        """Block and vectors as they lie there."""
        start = self._users[user]["rows_start"]
        stop = start + 4 * self.count(user) * self._dim
        rows = memoryview(self._data)[start:stop]
        return Written(user, self._block(user), rows, self.count(user))

    def _block(self, user: str) -> memoryview:
        place = self._users[user]
        return memoryview(self._data)[place["start"] : place["start"] + place["length"]]

    def _give_back(self) -> None:
        """What was read is the disk's again, and no longer of this process's RAM."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._data.madvise(mmap.MADV_DONTNEED)


class FilePlace:
    """`snapshot.bin` in the folder of a journal."""

    def __init__(self, folder: Path, journal: Journal) -> None:
        self._path = folder / "snapshot.bin"
        self._journal = journal

    def open(self) -> FileSnapshot | None:
        """The snapshot, if there is a whole one."""
        return FileSnapshot.open(self._path)

    def write(self, users: Iterable[Written], head: Head) -> bool:
        """Write it, durably, and whether it took the old one's place: not if anybody was forgotten
        after event number `head.seq`. Raises OSError."""
        new = self._written(users, head)
        with self._journal.while_nobody_is_forgotten(head.seq) as connection:
            if connection is not None:
                new.replace(self._path)
        new.unlink(missing_ok=True)
        return connection is not None

    def _written(self, users: Iterable[Written], head: Head) -> Path:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        with new.open("wb") as file:
            file.write(_MAGIC)
            places = {one.user: _put(file, one) for one in users}
            text = json.dumps(contents_of(head, places)).encode()
            start = file.tell()
            file.write(text)
            file.write(_TAIL.pack(start, len(text), zlib.crc32(text)))
            file.flush()
            os.fsync(file.fileno())
        return new

    def forget(self) -> None:
        """Somebody is forgotten: delete it, and what a killed process left of one."""
        for path in self._path.parent.glob(self._path.name + "*"):
            path.unlink(missing_ok=True)

    clear = forget


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
        "crc": one.crc,
    }
