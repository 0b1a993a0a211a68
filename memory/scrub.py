"""Embedded Chroma's files, rid of what it should have erased.

Knows the layout of Chroma's folder: its SQLite file, and a folder of HNSW files for each
collection. To be used while no client has it open. Knows nothing of collections' meaning.
"""

from __future__ import annotations

import shutil
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

_HEADER = struct.Struct("<i4Q")
"""Of hnswlib's, the first numbers: version, offset, places, places in use, bytes of each."""
_HEADER_SIZE = 100
"""All of it, in bytes; a shorter one was cut off by a kill."""


def scrub(folder: Path) -> None:
    """Remove what Chroma leaves of deleted collections: queued vectors, pages, index files."""
    path = folder / "chroma.sqlite3"
    if not path.exists():
        return
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA secure_delete=ON")
        live = {row[0] for row in db.execute("SELECT id FROM collections")}
        segments = {row[0] for row in db.execute("SELECT id FROM segments")}
        for (topic,) in db.execute("SELECT DISTINCT topic FROM embeddings_queue").fetchall():
            if topic.rsplit("/", 1)[-1] not in live:
                db.execute("DELETE FROM embeddings_queue WHERE topic = ?", (topic,))
        db.execute("VACUUM")
    for child in folder.iterdir():
        if child.is_dir() and child.name not in segments:
            shutil.rmtree(child)
    blank(folder)


def blank(folder: Path) -> None:
    """Zero the places of HNSW files that are not in use.

    Chroma writes them as it found them in the process's heap, and there may be anything: in new
    collections of one user we have seen whole vectors of another.
    """
    for header in folder.glob("*/header.bin"):
        data = header.with_name("data_level0.bin")
        if not data.exists():
            continue
        size = data.stat().st_size
        used = _in_use(header, size)
        if used < size:
            with data.open("r+b") as file:
                file.seek(used)
                file.write(bytes(size - used))


def _in_use(header: Path, size: int) -> int:
    """How many bytes from the start, of `size` in all, hold vectors."""
    known = header.read_bytes()
    if len(known) < _HEADER_SIZE:
        return 0  # so it is never read: see `torn`
    _, _, places, used, length = _HEADER.unpack_from(known)
    return int(used * length) if size == places * length else size


def torn(folder: Path) -> bool:
    """Whether a kill left HNSW files that Chroma would read, and that hnswlib may crash on.

    Without metadata beside them it reads none: all vectors are still in its queue.
    """
    return any(
        header.stat().st_size < _HEADER_SIZE and header.with_name("index_metadata.pickle").exists()
        for header in folder.glob("*/header.bin")
    )
