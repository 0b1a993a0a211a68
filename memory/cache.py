"""When a memory's snapshot may be believed, and when it is written.

Knows the one file beside the journal and what must be equal for it to be of use. Knows nothing of
what is in it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from tta.memory.journal import Journal
from tta.memory.snapshot import Snapshot, Written, code, write
from tta.protocols import Embedder, Weigher

_log = logging.getLogger(__name__)

EVERY = 5_000
"""Events after which a new snapshot is worth its writing: as many are folded in half a second, or,
with what they say of the experts, in two."""


class Cache:
    """The snapshot of the memory in `folder`. It holds texts: forgetting deletes it."""

    def __init__(
        self,
        folder: Path,
        *,
        embedder: Embedder | None,
        weigher: Weigher | None,
        cap: int,
        every: int = EVERY,
    ) -> None:
        self._path = folder / "snapshot.bin"
        self._embedder, self._weigher, self._cap, self._every = embedder, weigher, cap, every
        self._seq = 0

    def read(self, journal: Journal) -> Snapshot | None:
        """The snapshot, if it is of this journal's past and of this code."""
        found = Snapshot.open(self._path)
        if found is None or journal.mark(found.seq) != found.last:
            return None
        if any(found.key.get(key) != value for key, value in self._of_fold(journal).items()):
            return None
        self._seq = found.seq
        return found

    def fits_embedder(self, snapshot: Snapshot) -> bool:
        """Whether its vectors are the embedder's."""
        return all(snapshot.key.get(key) == value for key, value in self._of_vectors().items())

    def is_due(self, seq: int) -> bool:
        """Whether it is worth writing now; without a weigher less than all is known."""
        return self._weigher is not None and seq - self._seq >= self._every

    def write(self, journal: Journal, users: Iterable[Written], *, seq: int) -> None:
        """Write it, if nobody was forgotten meanwhile. A full disk is no reason to fail."""
        key = self._of_fold(journal) | self._of_vectors()
        dim = self._embedder.dim if self._embedder is not None else 0
        try:
            last = journal.mark(seq) or ""
            new = write(self._path, users, key=key, seq=seq, last=last, dim=dim)
            with journal.while_nobody_is_forgotten(seq) as fits:
                if fits:
                    new.replace(self._path)
                    self._seq = seq
            new.unlink(missing_ok=True)
        except OSError:
            _log.warning("No snapshot was written: the next opening takes longer", exc_info=True)

    def drop(self) -> None:
        """Delete it, and what a killed process left of one."""
        for path in self._path.parent.glob(self._path.name + "*"):
            path.unlink(missing_ok=True)
        self._seq = 0

    def _of_fold(self, journal: Journal) -> dict[str, str]:
        name = journal.setting("memory") or ""
        return {"memory": name, "code": code(self._weigher), "cap": str(self._cap)}

    def _of_vectors(self) -> dict[str, str]:
        if self._embedder is None:
            return {"embedder": "", "dim": ""}
        return {"embedder": self._embedder.id, "dim": str(self._embedder.dim)}
