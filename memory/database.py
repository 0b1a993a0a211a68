"""The journal's tables, its connections, and what a database's complaints mean.

Knows SQLAlchemy, SQLite's pragmas and error codes. Knows nothing of events.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import exc, pool
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.compiler import SQLCompiler

from tta.errors import (
    CorruptStore,
    InvalidSetting,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreReadOnly,
)

METADATA = sa.MetaData()
EVENTS = sa.Table(
    "events",
    METADATA,
    # AUTOINCREMENT: a number is never used twice, even after an erasure; readers tail by it.
    # No index but the id's: each would be one more page in every durable commit.
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("user", sa.Text, nullable=False),
    sa.Column("task", sa.Text, nullable=False),
    sa.Column("response", sa.Text, nullable=False),
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)
_INSERT = sa.insert(EVENTS)
_INSERT_ONE = _INSERT.values({c.name: sa.bindparam(c.name) for c in EVENTS.c if c.name != "seq"})
MANIFEST = sa.Table(
    "manifest",
    METADATA,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

PIECE = 1 << 20
"""Bytes in a row of a snapshot."""
SNAPSHOTS = sa.Table(
    "snapshots",
    sa.MetaData(),  # made when the first is written: few journals have one
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("part", sa.Integer, primary_key=True),
    sa.Column("data", sa.LargeBinary(PIECE), nullable=False),
)

IN_MEMORY = "sqlite://"
_APPEND_LOCK = 0x747461  # "tta": the key of PostgreSQL's advisory lock


def connect(url: str, timeout: float) -> sa.Engine:
    """An engine whose write transactions are serialised. Connects to nothing yet."""
    try:
        parsed = sa.make_url(url)
        options: dict[str, Any] = {}
        if parsed.get_backend_name() == "sqlite":
            options["connect_args"] = {"timeout": timeout, "check_same_thread": False}
            if parsed.database in (None, "", ":memory:"):
                options["poolclass"] = pool.StaticPool
        engine = sa.create_engine(parsed, **options)
    except (exc.ArgumentError, exc.NoSuchModuleError, ImportError) as problem:
        raise InvalidSetting(
            f"The memory's URL cannot be used ({problem})",
            value=url,
            hint="Pass a folder, or a SQLAlchemy URL whose driver is installed.",
        ) from problem
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _sqlite_settings)
    return engine


def _sqlite_settings(connection: sqlite3.Connection, _: object) -> None:
    # The driver's own implicit BEGIN would start our writes as readers, which deadlocks upgrades.
    connection.isolation_level = None
    run = connection.execute
    if run("PRAGMA journal_mode").fetchone()[0] not in ("wal", "memory"):
        run("PRAGMA journal_mode=WAL").close()
    run("PRAGMA secure_delete=ON").close()


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection for one query at a time, its complaints translated."""
    with translated(engine.url), engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            # No transaction around it: BEGIN and ROLLBACK would be two journeys more.
            connection.execution_options(isolation_level="AUTOCOMMIT")
        yield connection


@contextmanager
def writing(engine: sa.Engine, *, durable: bool = True) -> Iterator[sa.Connection]:
    """One serialised transaction: committed at the end, or nothing of it happened.

    A durable one is on the disk when this returns. Without, SQLite leaves it to the next durable
    one to wait for the disk: it outlives this process at once, and a power cut only then.
    """
    with translated(engine.url), engine.connect() as connection:
        transaction = connection.begin()
        if connection.dialect.name == "sqlite":
            run = _driver(connection).execute
            run(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            run("BEGIN IMMEDIATE")
        elif connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_APPEND_LOCK)))
        yield connection
        transaction.commit()


def fetch(
    connection: sa.Connection, query: sa.Select[Any], values: Mapping[str, Any]
) -> Sequence[Mapping[str, Any]]:
    """The rows that a query finds; its types must be those that SQLite has itself."""
    if connection.dialect.name != "sqlite":
        return cast(Sequence[Mapping[str, Any]], connection.execute(query, values).mappings().all())
    text, names, bound = _plain(query)
    given = {**bound, **values}
    found = _driver(connection).execute(text, [given[name] for name in names])
    columns = [name for name, *_ in found.description]
    return [dict(zip(columns, row, strict=True)) for row in found]


def insert(connection: sa.Connection, event: Mapping[str, Any]) -> int:
    """Write an event; its number."""
    if connection.dialect.name != "sqlite":
        key = connection.execute(_INSERT, event).inserted_primary_key
        return int(cast(Sequence[Any], key)[0])
    text, names, _ = _plain(_INSERT_ONE)
    return cast(int, _driver(connection).execute(text, [event[n] for n in names]).lastrowid)


def newest(connection: sa.Connection) -> int | None:
    """The number of the last event, 0 without any; None where a whole query costs no more."""
    if connection.dialect.name != "sqlite":
        return None
    found = _driver(connection).execute("SELECT max(seq) FROM events").fetchone()[0]
    return 0 if found is None else int(found)


@lru_cache(maxsize=16)
def _plain(statement: sa.ClauseElement) -> tuple[str, Sequence[str], Mapping[str, Any]]:
    """SQLite's text of a statement, the names of what goes into its places, and what is known of
    that already."""
    made = cast(SQLCompiler, statement.compile(dialect=sqlite.dialect()))
    return str(made), made.positiontup or (), made.params


def _driver(connection: sa.Connection) -> sqlite3.Connection:
    """Without SQLAlchemy between, a statement costs a tenth: this is on the way of every step."""
    return cast(sqlite3.Connection, connection.connection.driver_connection)


def compact(engine: sa.Engine) -> None:
    """Rewrite the file without what was deleted: no byte of it stays, the log included.

    Raises StoreLocked while another process reads or writes; call again later.
    """
    with reading(engine) as connection:
        raw = connection.execution_options(isolation_level="AUTOCOMMIT")
        raw.exec_driver_sql("VACUUM")
        if connection.dialect.name == "sqlite":
            busy = raw.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar()
            if busy:
                raise StoreLocked(
                    "The events are erased, but a reader keeps the old log file alive",
                    value=str(engine.url),
                    hint="Call forget again when the other process has finished.",
                )


@contextmanager
def translated(url: sa.URL) -> Iterator[None]:
    """Turn a database's complaint into one of tta's errors."""
    try:
        yield
    except (exc.DBAPIError, exc.TimeoutError, sqlite3.Error) as problem:
        raw = problem.orig if isinstance(problem, exc.DBAPIError) else problem
        raise _translate(raw or problem, url.render_as_string(hide_password=True)) from problem


_SQLITE = {
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_CANTOPEN: "read-only",
    sqlite3.SQLITE_PERM: "read-only",
    sqlite3.SQLITE_AUTH: "read-only",
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_NOTADB: "corrupt",
    sqlite3.SQLITE_CORRUPT: "corrupt",
}
_POSTGRES = {"55P03": "locked", "40P01": "locked", "25006": "read-only", "42501": "read-only"}
_POSTGRES |= {"53100": "full", "XX001": "corrupt", "XX002": "corrupt"}

_ERRORS: dict[str, tuple[type[StoreError], str, str]] = {
    "locked": (
        StoreLocked,
        "Another writer held the journal for too long; nothing was written",
        "Try again, or close the other process.",
    ),
    "read-only": (
        StoreReadOnly,
        "The journal cannot be written",
        "Check that the folder exists and the permissions of it and its files.",
    ),
    "full": (StoreFull, "No space left; nothing was written", "Free space and try again."),
    "corrupt": (
        CorruptStore,
        "Not a memory of tta, or damaged",
        "Restore the file from a backup, or give another folder.",
    ),
}


def _translate(problem: BaseException, where: str) -> StoreError:
    meaning = _meaning(problem)
    if meaning is None:
        return StoreError(f"The journal's database failed ({problem})", value=where)
    kind, message, hint = _ERRORS[meaning]
    return kind(f"{message} ({problem}): {where}", value=where, hint=hint)


def _meaning(problem: BaseException) -> str | None:
    code = getattr(problem, "sqlite_errorcode", None)
    if code is not None:
        # The low byte is the primary code; the rest only says where it was met.
        return _SQLITE.get(code & 0xFF)
    if getattr(problem, "errno", None) == errno.ENOSPC:
        return "full"
    state = getattr(problem, "sqlstate", None) or getattr(problem, "pgcode", None)
    return _POSTGRES.get(state or "")
