"""Where a benchmark's memory lies: in a folder of its own, or in a database and collections of its
own on servers that run already.

Knows how such a place is made, how large it is and how it is cleaned up. Starts no server, and
knows nothing of what is measured there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import sqlalchemy as sa

from tta.memory.chroma import Chroma
from tta.memory.index import collection_name
from tta.memory.journal import Journal
from tta.memory.place import journal_url

_SIZE = "SELECT coalesce(sum(pg_total_relation_size(to_regclass(t))), 0) FROM unnest({}) AS t"
_TABLES = {"journal": "ARRAY['events', 'manifest']", "snapshot": "ARRAY['snapshots']"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """`where` and `index` are what `Memory.open` takes."""

    where: str
    index: str | None = None

    @property
    def folder(self) -> Path | None:
        """The memory's folder, if it has one."""
        return None if "://" in self.where else Path(self.where)

    @property
    def snapshot(self) -> Path | None:
        """Where the vectors are mapped from, if they are."""
        found = None if self.folder is None else self.folder / "snapshot.bin"
        return found if found is not None and found.exists() else None

    @property
    def url(self) -> str:
        """The journal's."""
        return journal_url(self.where, self.folder, create=True)

    def drop_snapshot(self) -> None:
        """Delete it, wherever it lies."""
        if self.snapshot is not None:
            self.snapshot.unlink()
        with closing(Journal.open(self.url)) as journal:
            journal.drop_snapshot()


@contextmanager
def fresh(
    *, folder: Path | None = None, journal: str | None = None, index: str | None = None
) -> Iterator[Place]:
    """A place that nobody has used, and that is gone afterwards.

    `journal`: URL of a PostgreSQL server and any database there, beside which one is made; without
    it a folder in `folder`, or in the system's temporary one. `index`: URL of a Chroma server.
    """
    with ExitStack() as stack:
        if journal is None:
            where = str(Path(stack.enter_context(TemporaryDirectory(dir=folder))) / "m")
        else:
            where = stack.enter_context(_database(journal))
        place = Place(where=where, index=index)
        if index is not None:
            stack.callback(_drop_vectors, place, index)
        yield place


@contextmanager
def _database(server: str) -> Iterator[str]:
    name = f"tta_benchmark_{uuid4().hex[:12]}"
    _administer(server, f"CREATE DATABASE {name}")
    try:
        yield sa.make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        _administer(server, f"DROP DATABASE {name} WITH (FORCE)")


def _administer(server: str, statement: str) -> None:
    engine = sa.create_engine(server, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)


def _drop_vectors(place: Place, index: str) -> None:
    with closing(Journal.open(place.url)) as journal:
        name = journal.setting("memory") or ""
    with closing(Chroma(index)) as chroma:
        chroma.wipe(collection_name(name))


def disk(place: Place) -> dict[str, int]:
    """Bytes on disk, by what they are; a Chroma server cannot be asked, and a log that PostgreSQL
    writes before its tables is not counted."""
    if place.folder is None:
        engine = sa.create_engine(place.where, poolclass=sa.NullPool)
        with engine.connect() as connection:
            return {
                part: int(connection.exec_driver_sql(_SIZE.format(tables)).scalar_one())
                for part, tables in _TABLES.items()
            }
    parts = {"journal": "journal*", "chroma": "index/**/*", "snapshot": "snapshot*"}
    return {
        part: sum(p.stat().st_size for p in place.folder.glob(pattern) if p.is_file())
        for part, pattern in parts.items()
    }
