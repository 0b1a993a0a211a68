"""A lock that many hold at once, or one alone.

Knows threads. Knows nothing of what is locked.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Shared:
    """`with shared:` beside others, `with shared.alone():` with nobody else. Not to be taken twice
    by one thread."""

    def __init__(self) -> None:
        self._door = threading.Lock()
        self._changed = threading.Condition(threading.Lock())
        self._inside = 0

    def __enter__(self) -> None:
        with self._door, self._changed:
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until everybody has left; whoever comes meanwhile waits at the door."""
        with self._door:
            with self._changed:
                self._changed.wait_for(lambda: not self._inside)
            yield
