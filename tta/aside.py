"""Blocking work beside an event loop, which it never holds up.

Knows threads and loops. Refuses to know what the work is. Its threads are there while something is
awaited, and gone when nothing is.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
MOST_THREADS = 64
"""More work waits its turn."""


class Aside:
    """Threads that are shared by all that is awaited, whichever loop awaits it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._awaited = 0

    async def run(self, work: Callable[[], T], give_up: Callable[[], None]) -> T:
        """What `work` returns or raises. Where the awaiting task is cancelled, work that has begun
        is told so by `give_up`, and what it comes to is dropped."""
        pool = self._enter()
        try:
            context = contextvars.copy_context()
            return await asyncio.wrap_future(pool.submit(context.run, work))
        except asyncio.CancelledError:
            give_up()
            raise
        finally:
            self._leave(pool)

    def _enter(self) -> ThreadPoolExecutor:
        with self._lock:
            self._awaited += 1
            if self._pool is None:
                self._pool = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="tta")
            return self._pool

    def _leave(self, pool: ThreadPoolExecutor) -> None:
        with self._lock:
            self._awaited -= 1
            if not self._awaited:
                self._pool = None
                pool.shutdown(wait=False)
