"""Where a memory lies: in RAM, in a folder, or behind a URL.

Knows paths and what can be wrong with them. Opens nothing.
"""

from __future__ import annotations

from pathlib import Path

from tta.errors import CorruptStore, StoreReadOnly
from tta.memory.chroma import is_server
from tta.memory.database import IN_MEMORY


def is_there(place: str | Path) -> bool:
    """Whether an index may be at that place; a server is taken to be there."""
    return is_server(place) or Path(place).exists()


def journal_url(where: str | Path | None, folder: Path | None, *, create: bool) -> str:
    """The journal's SQLAlchemy URL; its folder is made if it is not there and may be.

    Raises CorruptStore (a file, or nothing, where a memory should be) or StoreReadOnly.
    """
    if where is None:
        return IN_MEMORY
    if folder is None:
        return str(where)
    if folder.exists() and not folder.is_dir():
        raise CorruptStore(f"A memory is a folder, and {folder} is a file", value=str(folder))
    journal = folder / "journal.sqlite"
    if not create and not journal.exists():
        raise CorruptStore(
            f"There is no memory at {folder}", value=str(folder), hint="Check the path."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise StoreReadOnly(
            f"The folder {folder} cannot be made ({problem})", value=str(folder)
        ) from problem
    return f"sqlite:///{journal.absolute()}"
