"""Chroma's client, tamed: collections by name, vectors by id, and files that really forget.

Knows Chroma's API, its folder and its embedded single-process rule. Knows nothing of users,
records or embedders.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

import numpy as np

from tta.errors import IndexInUse, InvalidSetting, StoreClosed, StoreError
from tta.memory.scrub import blank, scrub, torn

if TYPE_CHECKING:
    from chromadb.api.client import Client
    from chromadb.api.collection_configuration import CreateHNSWConfiguration
    from chromadb.api.models.Collection import Collection
    from chromadb.api.types import GetResult
    from chromadb.config import Settings
    from filelock import BaseFileLock
    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]

T = TypeVar("T")
_log = logging.getLogger(__name__)

_PAGE = 1000
"""Vectors per call; Chroma's own limit is about 5,000."""
_GRAPH: CreateHNSWConfiguration = {
    "space": "ip",
    "max_neighbors": 4,
    "ef_construction": 4,
    "sync_threshold": 5000,
}
"""The least of a graph: vectors are kept in Chroma, and searched elsewhere. At each
`sync_threshold` it writes down every id there is."""


class Chroma:
    """A Chroma server, or the embedded Chroma of a folder that no one else has open."""

    def __init__(self, where: str | Path, *, lazily: bool = False) -> None:
        """Lazily, an embedded Chroma is locked now and opened at its first use: that takes seconds.

        Raises InvalidSetting (no such address), IndexInUse, StoreError.
        """
        self._folder = None if is_server(where) else Path(where)
        self._handles: dict[str, Collection] = {}
        self._client: Client | None = None
        self._where = str(where)
        self.closed = False
        if self._folder is not None:
            self._lock = _lock(self._folder)
        try:
            if not lazily:
                self._client = self._connect()
        except BaseException:
            self.close()
            raise

    @property
    def embedded(self) -> bool:
        return self._folder is not None

    def close(self) -> None:
        """Release the files, so that another process may open them."""
        self.closed = True
        opened = self._client is not None
        self._disconnect()
        if self._folder is not None:
            if opened:
                blank(self._folder)
            self._lock.release()

    def let_go(self) -> None:
        """Embedded, give back the RAM that Chroma holds; it is opened again when it is needed."""
        if self._folder is not None and self._client is not None:
            self._disconnect()
            blank(self._folder)

    def _disconnect(self) -> None:
        self._handles.clear()
        if self._client is not None:
            # Chroma's own `close` leaves the sockets of its two HTTP sessions open.
            for part in (self._client, self._client._admin_client):
                session = getattr(getattr(part, "_server", None), "_session", None)
                if session is not None:
                    session.close()
            self._client.close()
            self._client = None

    # --------------------------------------------------------------------- collections

    def collections(self, prefix: str) -> Mapping[str, Mapping[str, Any]]:
        """Metadata of the collections whose name starts with `prefix`, by name."""
        found: dict[str, Mapping[str, Any]] = {}
        with self._translated() as client:
            for start in range(0, client.count_collections(), _PAGE):
                for collection in client.list_collections(limit=_PAGE, offset=start):
                    if collection.name.startswith(prefix):
                        found[collection.name] = collection.metadata or {}
        return found

    def read(self, name: str) -> Iterator[tuple[list[str], FloatArray]]:
        """(ids, vectors of shape (len(ids), dim)) page by page; nothing if there is no such."""
        start = 0
        while True:
            page = self._use(name, partial(_page, start=start))
            if page is None or not page["ids"]:
                return
            yield page["ids"], np.asarray(page["embeddings"], dtype=np.float32)
            start += _PAGE

    def count(self, name: str) -> int:
        """How many vectors a collection has; 0 if there is none."""
        return self._use(name, lambda collection: collection.count()) or 0

    def write(
        self, name: str, metadata: Mapping[str, Any], changes: Mapping[str, FloatArray | None]
    ) -> None:
        """Put the vectors of `changes`, and delete the ids whose vector is None."""
        if self._use(name, lambda collection: _write(collection, changes)) is None:
            with self._translated() as client:
                collection = self._handles[name] = client.get_or_create_collection(
                    name,
                    embedding_function=None,
                    metadata=dict(metadata),
                    configuration={"hnsw": _GRAPH},
                )
                _write(collection, changes)

    def _use(self, name: str, use: Callable[[Collection], T]) -> T | None:
        """What `use` gives for the collection; None if there is none.

        Twice, because the handle we have may be of a collection that another process has erased.
        """
        with self._translated() as client:
            for _ in range(2):
                try:
                    if name not in self._handles:
                        self._handles[name] = client.get_collection(name, embedding_function=None)
                    return use(self._handles[name])
                except _not_found():
                    self._handles.pop(name, None)
        return None

    # ------------------------------------------------------------------------ forgetting

    def delete(self, names: Sequence[str]) -> None:
        """Delete collections; embedded, also every byte of them. Absent ones are no error."""
        known = self.collections("") if names else {}
        there = [name for name in names if name in known]
        if not there:
            return
        if self._folder is not None:
            _marker(self._folder).touch()
        for name in there:
            self._handles.pop(name, None)
            with self._translated() as client:
                try:
                    client.delete_collection(name)
                except _not_found():
                    continue
        if self._folder is not None:
            self._reconnect()

    def blank(self) -> None:
        """Embedded, zero what Chroma's files hold besides vectors: it may be anything."""
        if self._folder is not None:
            blank(self._folder)

    def wipe(self, prefix: str) -> None:
        """Delete every collection of that prefix; embedded, the whole folder, damaged or not."""
        if self._folder is None:
            self.delete(list(self.collections(prefix)))
        else:
            self._reconnect(anew=True)

    def _reconnect(self, *, anew: bool = False) -> None:
        self._disconnect()  # only a closed client lets go of its files
        if anew and self._folder is not None:
            shutil.rmtree(self._folder)
        self._client = self._connect()

    # -------------------------------------------------------------------------- opening

    def _connect(self) -> Client:
        if self._folder is None:
            return _server(self._where)
        if _damaged(self._folder):
            _log.warning("The index in %s is damaged: it is made anew", self._folder)
            shutil.rmtree(self._folder)
        if _marker(self._folder).exists():
            scrub(self._folder)
            _marker(self._folder).unlink()
        return _embedded(self._folder)

    @contextmanager
    def _translated(self) -> Iterator[Client]:
        if self.closed:
            raise StoreClosed("The index was closed", value=self._where, hint="Open it again.")
        if self._client is None:
            self._client = self._connect()
        try:
            yield self._client
        except _failures() as problem:
            raise StoreError(
                f"The index at {self._where} failed ({problem})",
                value=self._where,
                hint="The journal is unharmed; `tta memory rebuild` makes the index anew.",
            ) from problem


def _page(collection: Collection, start: int) -> GetResult:
    return collection.get(include=["embeddings"], limit=_PAGE, offset=start)


def _write(collection: Collection, changes: Mapping[str, FloatArray | None]) -> bool:
    put = [(key, vector) for key, vector in changes.items() if vector is not None]
    gone = [key for key, vector in changes.items() if vector is None]
    for start in range(0, len(put), _PAGE):
        ids, vectors = zip(*put[start : start + _PAGE], strict=True)
        collection.upsert(ids=list(ids), embeddings=np.stack(vectors))
    for start in range(0, len(gone), _PAGE):
        collection.delete(ids=gone[start : start + _PAGE])
    return True


def is_server(where: str | Path) -> bool:
    """Whether the index is behind a URL."""
    return isinstance(where, str) and where.startswith(("http://", "https://"))


def _settings() -> Settings:
    from chromadb.config import Settings

    return Settings(anonymized_telemetry=False)


def _embedded(folder: Path) -> Client:
    import chromadb

    try:
        folder.mkdir(parents=True, exist_ok=True)
        client = chromadb.PersistentClient(path=str(folder), settings=_settings())
    except _failures() as problem:
        raise StoreError(
            f"The index in {folder} cannot be opened ({problem})",
            value=str(folder),
            hint="If it may be written, delete the folder: it is made anew from the journal.",
        ) from problem
    return cast("Client", client)


def _server(url: str) -> Client:
    import chromadb

    parts = urlsplit(url)
    if not parts.hostname:
        raise InvalidSetting("Not the address of a Chroma server", value=url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 8000)
    try:
        client = chromadb.HttpClient(
            host=parts.hostname, port=port, ssl=secure, settings=_settings()
        )
    except _failures() as problem:
        raise StoreError(
            f"No Chroma server answers at {url} ({problem})",
            value=url,
            hint="Start one: chroma run --host HOST --port PORT --path FOLDER",
        ) from problem
    return cast("Client", client)


def _not_found() -> type[Exception]:
    from chromadb.errors import NotFoundError

    return NotFoundError


def _failures() -> tuple[type[Exception], ...]:
    import httpx
    from chromadb.errors import ChromaError

    # ValueError is how the client says that it could not connect.
    return (ChromaError, httpx.HTTPError, OSError, ValueError)


def _lock(folder: Path) -> BaseFileLock:
    from filelock import FileLock, Timeout

    lock = FileLock(folder.with_name(folder.name + ".lock"), timeout=0)
    try:
        lock.acquire()
    except (Timeout, RuntimeError) as problem:  # RuntimeError: this very thread holds it
        raise IndexInUse(
            f"The embedded index {folder} is open elsewhere, and it serves one process at a time",
            value=str(folder),
            hint=(
                "Close the other one, or share a server: run `chroma run --path FOLDER --port "
                '8000` and pass index="http://localhost:8000" (on the command line: --index).'
            ),
        ) from problem
    return lock


def _marker(folder: Path) -> Path:
    # Beside the folder; it survives a kill, so that the next opening finishes the scrubbing.
    return folder.with_name(folder.name + ".scrub")


def _damaged(folder: Path) -> bool:
    # Asked before Chroma opens it: a client that failed to open cannot be tried again.
    path = folder / "chroma.sqlite3"
    if not path.exists():
        return False
    try:
        with closing(sqlite3.connect(path)) as db:
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as problem:
        return problem.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
    return torn(folder)
