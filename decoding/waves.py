"""Samples of one prompt, a wave at a time: the prompt is run once, whatever is drawn later.

Knows rows and who looks on. Refuses to know text, and what an answer is worth: what a row says is
`read`'s, when there are enough is the watcher's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from tta.decoding import engine
from tta.decoding.engine import Fork, Prefix, Row, Rules
from tta.decoding.stop import Halving
from tta.protocols import Watch
from tta.types import Candidate, Cost, Finish


@dataclass(frozen=True, slots=True, kw_only=True)
class Waves:
    """`rows(first, n)` makes samples number `first` to `first + n - 1` of `prefix`; `read` turns
    one that is over into a candidate."""

    prefix: Prefix
    rows: Callable[[int, int], Sequence[Row]]
    read: Callable[[Row], Candidate]
    rules: Rules
    fork: Callable[[int], Fork]
    steps: engine.Steps
    halving: bool = False

    def draw(self, n: int, watch: Watch | None) -> tuple[tuple[Candidate, ...], Cost]:
        """`n` samples, then as many as `watch` wants; the cost without the prompt."""
        found: list[Candidate] = []
        total, begun = Cost(), 0
        while n:
            rows = self.rows(begun, n)
            cost = self._wave(rows, found, watch)
            begun, total = begun + n, total + cost
            n = watch.more(cost) if watch is not None else 0
        return tuple(found), total

    def _wave(self, rows: Sequence[Row], found: list[Candidate], watch: Watch | None) -> Cost:
        started, passes, read = time.perf_counter(), 0, 0
        reject = _halved(self.rules.limit) if self.halving else None
        rules = replace(self.rules, reject=reject)
        # Closed, so that nothing of a wave outlives a watcher that raises.
        with closing(self.steps(self.prefix, rows, rules, self.fork(len(rows)))) as steps:
            for passes in steps:  # noqa: B007 - the last is how many there were
                read = self._hand_over(rows, read, found, watch)
        return Cost(
            drawn=sum(len(row.ids) for row in rows),
            passes=passes,
            ms=(time.perf_counter() - started) * 1000.0,
        )

    def _hand_over(
        self, rows: Sequence[Row], read: int, found: list[Candidate], watch: Watch | None
    ) -> int:
        """Those that are over, in their order: which ran faster must not matter. Returns how many
        were."""
        while read < len(rows) and rows[read].finish is not None:
            row, read = rows[read], read + 1
            if row.rejected:
                continue
            found.append(self.read(row))
            if watch is not None and watch.over(found[-1]):
                for other in rows[read:]:
                    other.rejected, other.finish = True, Finish.LENGTH
        return read


def _halved(limit: int) -> Callable[[Sequence[Row]], Sequence[int]]:
    """The running rows that are less sure than the others, at the checkpoints of `Halving`."""
    rule = Halving(limit=limit)

    def reject(running: Sequence[Row]) -> Sequence[int]:
        if not running:
            return ()
        scores = [sum(row.stats.confidences) / len(row.stats.confidences) for row in running]
        return rule.dropped(len(running[0].ids), scores)

    return reject
