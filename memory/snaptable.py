"""A snapshot in the journal's own database, for a journal that others read from elsewhere.

Knows one table, and that whoever erases a user empties it in the same transaction. Knows nothing of
when a snapshot is written, nor of what a state is.

The table: byte strings by name, in pieces. Contents (JSON) name each user's string, which is the
vectors and then the block; the manifest names the contents. Strings are never changed: the next
snapshot names those of users whom nobody has asked for since, and brings its own of all others.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import sqlalchemy as sa

from tta.errors import StoreReadOnly
from tta.memory.database import MANIFEST, PIECE, SNAPSHOTS
from tta.memory.fold import UserState
from tta.memory.journal import NEWEST, SNAPSHOT, Journal, put_setting
from tta.memory.snapshot import Gone, Head, Held, Snapshot, Written, contents_of, unpickled
from tta.types import new_id

Entry = Mapping[str, Any]
"""Where a byte string lies, how long it is, and its CRC-32; of a user's more."""
_Row = dict[str, Any]

_log = logging.getLogger(__name__)

_READ = 4
"""Pieces fetched in one query."""
_WRITTEN = 4 * PIECE
"""Bytes written in one transaction: others wait for it."""
_ROWS = 500
"""Rows written in one transaction."""
_DELETED = 16
"""Rows deleted in one: SQLite overwrites them with zeros."""

_PIECES = (
    sa.select(SNAPSHOTS.c.data)
    .where(SNAPSHOTS.c.name == sa.bindparam("of"), SNAPSHOTS.c.part >= sa.bindparam("first"))
    .order_by(SNAPSHOTS.c.part)
    .limit(_READ)
)
_PARTS = sa.select(SNAPSHOTS.c.name, sa.func.count().label("parts")).group_by(SNAPSHOTS.c.name)
_NAMES = sa.select(SNAPSHOTS.c.name, SNAPSHOTS.c.part)
_TOLD = sa.select(MANIFEST.c.value).where(MANIFEST.c.key == SNAPSHOT)
_DELETE = sa.delete(SNAPSHOTS).where(
    SNAPSHOTS.c.name == sa.bindparam("of"), SNAPSHOTS.c.part == sa.bindparam("at")
)


class TableSnapshot(Snapshot):
    """A snapshot in a database. Its rows may be deleted meanwhile: then Gone is raised."""

    def __init__(self, journal: Journal, contents: Mapping[str, Any]) -> None:
        super().__init__(contents)
        self._journal = journal

    def load(self, user: str) -> tuple[UserState, Held]:
        """State and vectors, read now."""
        entry, count = self._users[user], self.count(user)
        rows, block = _read(self._journal, entry, [4 * count * self._dim, entry["length"]])
        if zlib.crc32(rows, zlib.crc32(block)) != entry["crc"]:
            raise Gone(user)
        state, ids = unpickled(block)
        return state, Held(ids, np.frombuffer(rows, np.float32).reshape(count, self._dim))

    def copied(self, user: str) -> Written:
        """Where block and vectors are."""
        nothing = memoryview(b"")
        return Written(user, nothing, nothing, self.count(user), entry=self._users[user])


class TablePlace:
    """The table `snapshots` beside the events of a journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def open(self) -> TableSnapshot | None:
        """The snapshot, if there is one whose contents are whole; its users' parts are looked at
        when they are asked for."""
        entry = _parsed(self._journal.setting(SNAPSHOT))
        if not entry["name"]:
            return None
        try:
            (text,) = _read(self._journal, entry, [entry["length"]])
            if zlib.crc32(text) != entry["crc"]:
                return None
            return TableSnapshot(self._journal, json.loads(text))
        except (Gone, ValueError, KeyError, TypeError):
            return None
        except StoreReadOnly:
            _log.warning("The snapshot may not be read: opening takes longer", exc_info=True)
            return None

    def write(self, users: Iterable[Written], head: Head) -> bool:
        """Write one, a few megabytes at a time, so that those who learn meanwhile need not wait.

        It becomes the snapshot if nobody was forgotten after event number `head.seq`, nobody has
        written one of more events, and nobody has deleted what it copies.
        """
        if not self._prepare(head.seq):
            return False
        entries: dict[str, Entry] = {}
        fresh: set[str] = set()
        for rows in _batches(_cut_all(users, entries)):
            fresh.update(row["name"] for row in rows)
            with self._journal.while_nobody_is_forgotten(head.seq) as connection:
                if connection is None:
                    return False  # and what was written is erased with all else
                connection.execute(sa.insert(SNAPSHOTS), rows)
        text = json.dumps(contents_of(head, entries)).encode()
        name = new_id()
        told = {"name": name, "length": len(text), "crc": zlib.crc32(text), "seq": head.seq}
        taken = self._publish(told, text, entries.values())
        if taken:
            named = {name, *(entry["name"] for entry in entries.values())}
            self._sweep(head.seq, lambda one: one not in named, while_named=name)
        else:
            self._sweep(head.seq, fresh.__contains__)
        return taken

    def _prepare(self, seq: int) -> bool:
        with self._journal.while_nobody_is_forgotten(seq) as connection:
            if connection is None or _parsed(connection.scalar(_TOLD))["seq"] > seq:
                return False
            SNAPSHOTS.create(connection, checkfirst=True)
            put_setting(connection, "format", str(NEWEST))
        return True

    def _publish(self, told: Entry, text: bytes, users: Collection[Entry]) -> bool:
        """Name the contents in the manifest, if all that they name is there."""
        with self._journal.while_nobody_is_forgotten(told["seq"]) as connection:
            if connection is None or _parsed(connection.scalar(_TOLD))["seq"] > told["seq"]:
                return False
            there = {row.name: row.parts for row in connection.execute(_PARTS)}
            if any(there.get(entry["name"]) != entry["parts"] for entry in users):
                return False
            connection.execute(sa.insert(SNAPSHOTS), list(_cut(told["name"], [text])))
            put_setting(connection, SNAPSHOT, json.dumps(told))
        return True

    def _sweep(self, seq: int, is_old: Callable[[str], bool], while_named: str = "") -> None:
        """Delete what is of no use any more, as long as the manifest names those contents, if any
        are meant: of a snapshot that took our place we know nothing."""
        with self._journal.reading() as connection:
            old = [{"of": n, "at": part} for n, part in connection.execute(_NAMES) if is_old(n)]
        for start in range(0, len(old), _DELETED):
            with self._journal.while_nobody_is_forgotten(seq) as connection:
                now = "" if connection is None else _parsed(connection.scalar(_TOLD))["name"]
                if connection is None or while_named not in ("", now):
                    return
                connection.execute(_DELETE, old[start : start + _DELETED])

    def forget(self) -> None:
        """Whoever erases a user deletes it; here what another tta has left is deleted."""
        told = _parsed(self._journal.setting(SNAPSHOT))
        if told["name"] and self._journal.forgotten(told["seq"]):
            self.clear()

    def clear(self) -> None:
        """Delete it, and what a killed process left of others."""
        self._journal.drop_snapshot()


def _parsed(told: str | None) -> Entry:
    """What the manifest tells of the snapshot that there is; none if it cannot be read."""
    try:
        found = json.loads(told or "")
        return {"name": str(found["name"]), "seq": int(found["seq"]), **found}
    except (ValueError, KeyError, TypeError):
        return {"name": "", "seq": 0}


# ---------------------------------------------------------------------------- byte strings


def _cut_all(users: Iterable[Written], entries: dict[str, Entry]) -> Iterator[_Row]:
    """The rows of each user who is not there yet; tells `entries` where all of them are."""
    for one in users:
        if one.entry is not None:
            entries[one.user] = one.entry
            continue
        name = new_id()
        entries[one.user] = {
            "name": name,
            "parts": _parts(len(one.rows)) + _parts(len(one.block)),
            "length": len(one.block),
            "rows": one.vectors,
            "crc": one.crc,
            "promoters": one.promoters,
        }
        yield from _cut(name, [one.rows, one.block])


def _parts(length: int) -> int:
    return -(-length // PIECE)


def _cut(name: str, strings: Sequence[bytes | memoryview]) -> Iterator[_Row]:
    """Each string in pieces of its own, one after the other."""
    pieces = ((whole, at) for whole in strings for at in range(0, len(whole), PIECE))
    for part, (whole, at) in enumerate(pieces):
        yield {"name": name, "part": part, "data": bytes(whole[at : at + PIECE])}


def _batches(rows: Iterable[_Row]) -> Iterator[list[_Row]]:
    """As much at a time as one transaction writes."""
    batch: list[_Row] = []
    length = 0
    for row in rows:
        batch.append(row)
        length += len(row["data"])
        if length >= _WRITTEN or len(batch) == _ROWS:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def _read(journal: Journal, entry: Entry, lengths: Sequence[int]) -> list[bytearray]:
    """The byte strings of those lengths that lie under a name. Raises Gone if they do not."""
    pieces = _pieces(journal, entry["name"])
    found = []
    for length in lengths:
        whole, at = bytearray(length), 0
        for data in islice(pieces, _parts(length)):
            whole[at : at + len(data)] = data
            at += len(data)
        if at != length:
            raise Gone(entry["name"])
        found.append(whole)
    return found


def _pieces(journal: Journal, name: str) -> Iterator[bytes]:
    first = 0
    while True:
        with journal.reading() as connection:
            found = connection.execute(_PIECES, {"of": name, "first": first}).scalars().all()
        yield from found
        if len(found) < _READ:
            return
        first += len(found)
