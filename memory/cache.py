"""When a memory's snapshot may be believed, and when it is written.

Knows what must be equal for it to be of use. Knows nothing of what is in it, and of where it lies
only that it can be opened, written and deleted there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol

from tta.errors import StoreError
from tta.memory.journal import Journal
from tta.memory.snapshot import Head, Snapshot, Written, code
from tta.protocols import Embedder, Weigher

_log = logging.getLogger(__name__)

EVERY = 5_000
"""Events after which a new snapshot is worth its writing: as many are folded in half a second, or,
with what they say of the experts, in two."""


class Place(Protocol):
    """Where a snapshot lies."""

    def open(self) -> Snapshot | None:
        """The snapshot, if there is a whole one."""

    def write(self, users: Iterable[Written], head: Head) -> bool:
        """Write one, and whether it is now the snapshot: not if anybody was forgotten after event
        number `head.seq`. Raises OSError, and the store's errors."""

    def forget(self) -> None:
        """Somebody is forgotten: delete what was written before that, and any part of it."""

    def clear(self) -> None:
        """Delete it."""


class Cache:
    """The snapshot of a memory. It holds texts: forgetting deletes it."""

    def __init__(
        self,
        place: Place,
        *,
        embedder: Embedder | None,
        weigher: Weigher | None,
        cap: int,
        every: int = EVERY,
    ) -> None:
        self._place = place
        self._embedder, self._weigher, self._cap, self._every = embedder, weigher, cap, every
        self._seq = 0

    def read(self, journal: Journal) -> Snapshot | None:
        """The snapshot, if it is of this journal's past and of this code."""
        found = self._place.open()
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
        """Write it, if nobody was forgotten meanwhile. A full disk is no reason to fail, nor a
        journal that may be read only."""
        key = self._of_fold(journal) | self._of_vectors()
        dim = self._embedder.dim if self._embedder is not None else 0
        try:
            head = Head(key, seq, journal.mark(seq) or "", dim)
            if self._place.write(users, head):
                self._seq = seq
        except (OSError, StoreError):
            _log.warning("No snapshot was written: the next opening takes longer", exc_info=True)

    def forget(self) -> None:
        """Somebody is forgotten: what was written before that is deleted."""
        self._place.forget()
        self._seq = 0

    def clear(self) -> None:
        """Delete it: its vectors are of another embedder."""
        self._place.clear()
        self._seq = 0

    def _of_fold(self, journal: Journal) -> dict[str, str]:
        name = journal.setting("memory") or ""
        return {"memory": name, "code": code(self._weigher), "cap": str(self._cap)}

    def _of_vectors(self) -> dict[str, str]:
        if self._embedder is None:
            return {"embedder": "", "dim": ""}
        return {"embedder": self._embedder.id, "dim": str(self._embedder.dim)}
