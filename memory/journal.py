"""The journal: events in a database, appended once, never rewritten.

Knows durability, identity and the order of events. Knows nothing of what an event means, save that
feedback is about an answer of the same user, and that a user can be erased.

SQLite by default (write-ahead log; `append` of feedback returns when the disk has it). On
PostgreSQL appends take an advisory lock, so that sequence numbers appear in the order of commits
and other processes can tail by them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, cast

import sqlalchemy as sa

from tta.errors import (
    ConflictingId,
    CorruptStore,
    NewerFormat,
    StoreClosed,
    UnknownResponse,
    WrongUser,
)
from tta.memory import database
from tta.memory.database import EVENTS, MANIFEST, SNAPSHOTS
from tta.memory.events import body_json, check, from_dict, promoters
from tta.memory.locks import Shared
from tta.types import Event, EventKind, new_id

FORMAT = 3
"""The manifest's format; a journal with a higher one than `NEWEST` was written by a newer tta.

Older ones are read as they are. What an older tta would not understand, and so must not open: 2
has promotions, 3 has settings of tasks, merges and splits, 4 a snapshot in the database: one who
did not know of it would forget a user, and leave it.
"""
NEWEST = 4
SNAPSHOT = "snapshot"
"""The manifest's key for what tells of the snapshot in the database."""

_PAGE = 1000
"""Events read in one query: no transaction stays open while the reader works on them."""
_WRITTEN = 250
"""Events written in one statement: it names two ids of each, and databases take so many."""

# Made once: building a statement costs more than running it.
_AFTER = sa.select(EVENTS).where(EVENTS.c.seq > sa.bindparam("after"))
_TAIL = _AFTER.order_by(EVENTS.c.seq).limit(_PAGE)
_TAIL_OF_USER = _TAIL.where(EVENTS.c.user == sa.bindparam("of"))
_BY_ID = sa.select(EVENTS).where(EVENTS.c.id == sa.bindparam("event"))
_BY_IDS = sa.select(EVENTS).where(EVENTS.c.id.in_(sa.bindparam("events", expanding=True)))
_BY_TWO = sa.select(EVENTS).where(EVENTS.c.id.in_([sa.bindparam("one"), sa.bindparam("other")]))
_AT = sa.select(EVENTS.c.id, EVENTS.c.time).where(EVENTS.c.seq == sa.bindparam("seq"))
_FORGOTTEN = sa.select(EVENTS.c.user).where(
    EVENTS.c.seq > sa.bindparam("after"), EVENTS.c.kind == str(EventKind.FORGOTTEN)
)
_PROMOTED = sa.select(EVENTS).where(EVENTS.c.kind == str(EventKind.PROMOTED))
_INSERT = sa.insert(EVENTS)


class Written(NamedTuple):
    """How many events were new; where that was one, its sequence number and itself as it will be
    read: of several at once no database tells the numbers."""

    fresh: int
    alone: tuple[tuple[int, Event], ...]


class Journal:
    """Append-only events. Several threads may use it, several processes may share it."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._closed = False
        # One thread writes, and others read beside it. But a journal in RAM is one connection: what
        # one thread rolls back must not be another's.
        self._lock = threading.RLock()
        self._readers = Shared()
        self._is_many = isinstance(engine.pool, sa.QueuePool)

    @classmethod
    def open(cls, url: str, *, timeout: float = 5.0) -> Journal:
        """Open or create the journal behind a SQLAlchemy URL.

        `timeout`: seconds to wait for another writer. Raises InvalidSetting (no such driver),
        NewerFormat, CorruptStore, StoreReadOnly, StoreLocked.
        """
        journal = cls(database.connect(url, timeout))
        try:
            journal._prepare()
        except BaseException:
            journal.close()
            raise
        return journal

    def _prepare(self) -> None:
        if self._tables() != {"events", "manifest"}:
            self._create()
        written = self.setting("format")
        if not written or not written.isdigit():
            raise CorruptStore("Not a memory of tta: its manifest has no format", value=written)
        if int(written) > NEWEST:
            raise NewerFormat(
                f"The memory has format {written}; this tta reads up to {NEWEST}",
                value=int(written),
                hint="Install a newer tta; nothing was changed.",
            )
        if int(written) < FORMAT:
            self.set("format", str(FORMAT))
        if self.setting("erasing"):
            self._finish_erasing()

    def _tables(self) -> set[str]:
        with self._reading() as connection:
            return set(sa.inspect(connection).get_table_names()) & {"events", "manifest"}

    def _create(self) -> None:
        found = {"format": str(FORMAT), "created": str(time.time()), "memory": new_id()}
        with self._writing() as connection:
            # Two processes may come here at once; the second finds all of it done.
            database.METADATA.create_all(connection)
            empty = connection.scalar(sa.select(sa.func.count()).select_from(MANIFEST)) == 0
            events = connection.scalar(sa.select(sa.func.count()).select_from(EVENTS))
            if empty and not events:
                rows = [{"key": key, "value": value} for key, value in found.items()]
                connection.execute(sa.insert(MANIFEST), rows)

    @property
    def lasts(self) -> bool:
        """Whether it outlives this process."""
        return not isinstance(self._engine.pool, sa.StaticPool)

    # -------------------------------------------------------------------------- manifest

    def setting(self, key: str) -> str | None:
        """A value of the manifest."""
        query = sa.select(MANIFEST.c.value).where(MANIFEST.c.key == key)
        with self._reading() as connection:
            value: str | None = connection.scalar(query)
            return value

    def set(self, key: str, value: str) -> None:
        """Write a value of the manifest, durably; does not write what is there already."""
        if self.setting(key) == value:
            return
        with self._writing() as connection:
            put_setting(connection, key, value)

    # ---------------------------------------------------------------------------- events

    def append(self, event: Event) -> bool:
        """Write an event; False if this very one (its time aside) was there already.

        On the disk when this returns, unless it is an answer: that goes with the next feedback.

        Raises ConflictingId if the id was used for something else, UnknownResponse or WrongUser if
        it is about no answer of this user, InvalidText, InvalidSetting, and the store's errors.
        Nothing is written when it raises.
        """
        return self.append_all([event]).fresh == 1

    def append_all(self, events: Sequence[Event]) -> Written:
        """`append` in one transaction, all or none."""
        rows = [_to_row(event) for event in events]
        # An answer that nobody has reacted to yet need not wait for the disk: feedback does, and
        # takes all before it along.
        durable = any(event.kind is not EventKind.ANSWERED for event in events)
        pages = [rows[start : start + _WRITTEN] for start in range(0, len(rows), _WRITTEN)]
        with self._writing(durable=durable) as connection:
            new = [row for page in pages for row in _append(connection, page)]
        return Written(len(new), tuple((row["seq"], _from_row(row)) for row in new if "seq" in row))

    def since(self, seq: int = 0, *, user: str | None = None) -> Iterator[tuple[int, Event]]:
        """(sequence number, event) after `seq`, in order; of one user when named."""
        query = _TAIL if user is None else _TAIL_OF_USER
        with self._reading() as connection:
            newest = database.newest(connection)
        while newest is None or seq < newest:
            with self._reading() as connection:
                rows = database.fetch(connection, query, {"after": seq, "of": user})
            for row in rows:
                yield int(row["seq"]), _from_row(row)
            if len(rows) < _PAGE:
                return
            seq = int(rows[-1]["seq"])

    def get(self, event_id: str) -> Event | None:
        """The event of that id."""
        with self._reading() as connection:
            found = database.fetch(connection, _BY_ID, {"event": event_id})
        return _from_row(found[0]) if found else None

    def mark(self, seq: int) -> str | None:
        """What tells the event of that number from that of any other journal."""
        with self._reading() as connection:
            found = connection.execute(_AT, {"seq": seq}).first()
        return None if found is None else f"{found.id} {found.time!r}"

    @contextmanager
    def while_nobody_is_forgotten(self, after: int) -> Iterator[sa.Connection | None]:
        """A transaction in which nobody is forgotten; None if anybody was after event number
        `after`. No one else can append meanwhile."""
        with self._writing(durable=False) as connection:
            gone = connection.execute(_FORGOTTEN, {"after": after}).first()
            yield connection if gone is None else None

    def forgotten(self, after: int) -> frozenset[str]:
        """The users who were forgotten after event number `after`."""
        with self._reading() as connection:
            return frozenset(connection.execute(_FORGOTTEN, {"after": after}).scalars())

    def erase(self, user: str) -> int:
        """Delete a user's events from every file; how many there were.

        What was promoted because that user agreed goes as well, out of the wider scope. What
        remains is one FORGOTTEN event with that number. On SQLite the file is rewritten, so
        that no byte of the text is left (StoreLocked if a reader prevents it: erase again); on
        other databases the rows are deleted, and logs and backups are their administrator's.
        """
        with self._writing() as connection:
            gone = connection.execute(sa.delete(EVENTS).where(EVENTS.c.user == user)).rowcount
            _retract(connection, user)
            tombstone = Event(kind=EventKind.FORGOTTEN, user=user, body={"events": gone})
            _append(connection, [_to_row(tombstone)])
            _drop_snapshot(connection)
            # Killed before the file is rewritten, the next opening finishes it.
            put_setting(connection, "erasing", "1")
        self._finish_erasing()
        return int(gone)

    def drop_snapshot(self) -> None:
        """Delete the snapshot in the database, and all parts of others."""
        with self._writing() as connection:
            _drop_snapshot(connection)

    def _finish_erasing(self) -> None:
        with self._lock, self._readers.alone():
            database.compact(self._open_engine())
        with self._writing() as connection:
            connection.execute(sa.delete(MANIFEST).where(MANIFEST.c.key == "erasing"))

    def close(self) -> None:
        """Release the database; closing twice is no error."""
        self._closed = True
        self._engine.dispose()

    def reading(self) -> AbstractContextManager[sa.Connection]:
        """A connection for one query at a time."""
        return self._reading()

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        turn = self._readers if self._is_many else self._lock
        with turn, database.reading(self._open_engine()) as connection:
            yield connection

    @contextmanager
    def _writing(self, *, durable: bool = True) -> Iterator[sa.Connection]:
        with self._lock, database.writing(self._open_engine(), durable=durable) as connection:
            yield connection

    def _open_engine(self) -> sa.Engine:
        if self._closed:
            raise StoreClosed(
                "The memory was closed", value=str(self._engine.url), hint="Open it again."
            )
        return self._engine


def put_setting(connection: sa.Connection, key: str, value: str) -> None:
    """Write a value of the manifest within a transaction."""
    connection.execute(sa.delete(MANIFEST).where(MANIFEST.c.key == key))
    connection.execute(sa.insert(MANIFEST), {"key": key, "value": value})


def _drop_snapshot(connection: sa.Connection) -> None:
    connection.execute(sa.delete(MANIFEST).where(MANIFEST.c.key == SNAPSHOT))
    if sa.inspect(connection).has_table(SNAPSHOTS.name):
        connection.execute(sa.delete(SNAPSHOTS))


def _retract(connection: sa.Connection, user: str) -> None:
    """Delete what was promoted because that user agreed."""
    found = database.fetch(connection, _PROMOTED, {})
    gone = [row["id"] for row in found if user in promoters(_from_row(row))]
    if gone:
        connection.execute(sa.delete(EVENTS).where(EVENTS.c.id.in_(gone)))


def _append(connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Insert what is new, and give that back: with its number, if it is one."""
    # In the same transaction: another process may have erased an answer a moment ago.
    named = {row["id"] for row in rows} | {row["response"] for row in rows}
    known = {str(row["id"]): row for row in _named(connection, named)}
    new = []
    for row in rows:
        if row["id"] in known:
            _check_same(known[row["id"]], row)
            continue
        if row["response"] and row["kind"] != EventKind.ANSWERED:
            _check_answered(known.get(row["response"]), row)
        known[row["id"]] = row
        new.append(row)
    if len(new) == 1:
        return [{**new[0], "seq": database.insert(connection, new[0])}]
    if new:
        connection.execute(_INSERT, new)
    return new


def _named(connection: sa.Connection, ids: set[str]) -> Sequence[Mapping[str, Any]]:
    """The events of these ids."""
    wanted = sorted(ids - {""})
    if len(wanted) > 2:
        found = connection.execute(_BY_IDS, {"events": wanted}).mappings().all()
        return cast(Sequence[Mapping[str, Any]], found)
    # A statement that always has as many places is not made anew each time.
    return database.fetch(connection, _BY_TWO, {"one": wanted[0], "other": wanted[-1]})


def _check_same(old: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    if any(old[key] != value for key, value in row.items() if key != "time"):
        raise ConflictingId(
            f"The id {row['id']!r} was already used for another event",
            value=row["id"],
            hint="Leave the id out to get a fresh one.",
        )


def _check_answered(about: Mapping[str, Any] | None, row: Mapping[str, Any]) -> None:
    if about is None or about["kind"] != EventKind.ANSWERED:
        raise UnknownResponse(
            f"No response {row['response']!r} in this memory",
            value=row["response"],
            hint="Use the id of a response that this memory has seen and not forgotten.",
        )
    if about["user"] != row["user"]:
        raise WrongUser(
            f"The response {row['response']!r} belongs to another user than {row['user']!r}",
            value=row["response"],
        )


def _to_row(event: Event) -> dict[str, Any]:
    """Raises what `check` does."""
    body = body_json(event)
    check(event, body)
    return {
        "id": event.id,
        "kind": str(event.kind),
        "user": event.user,
        "task": event.task,
        "response": event.response,
        "time": float(event.time),
        "body": body,
    }


def _from_row(row: Mapping[str, Any]) -> Event:
    try:
        body = json.loads(row["body"])
    except ValueError as problem:
        raise CorruptStore(
            f"The body of event {row['id']!r} is damaged", value=row["body"]
        ) from problem
    return from_dict({**row, "body": body})
