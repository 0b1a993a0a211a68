"""Samples of one prompt, a wave at a time: the prompt is run once, whatever is drawn later, and so
is what several samples say alike.

Knows rows and who looks on. Refuses to know text, and what an answer is worth: what a row says is
`read`'s, when there are enough is the watcher's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tta.decoding import engine
from tta.decoding.engine import Fork, Prefix, Row, Rules
from tta.decoding.stop import Halving
from tta.protocols import Watch
from tta.types import Candidate, Cost, Finish

if TYPE_CHECKING:
    import torch

ROOM = 2**22
"""Logits that are kept of what was drawn (16 MiB in single precision)."""


@dataclass(slots=True)
class Heard:
    """What the model said after the beginnings of answers that were drawn: a sample whose random
    numbers lead it along these alone is known without a pass."""

    after: dict[tuple[int, ...], torch.Tensor] = field(default_factory=dict)

    def add(self, rows: Sequence[Row], logits: torch.Tensor) -> None:
        """`logits` (N, V) follow what the rows have so far."""
        for row, own in zip(rows, logits, strict=True):
            place = tuple(row.ids)
            if place not in self.after and (len(self.after) + 1) * len(own) <= ROOM:
                self.after[place] = own.clone()

    def follow(self, rows: Sequence[Row], rules: Rules) -> list[Row]:
        """Of each row itself, or what it comes to where that is known."""
        import torch

        tried = [row.copied(row.uniforms) for row in rows]
        engine.prepare(tried)
        while going := [r for r in tried if r.finish is None and tuple(r.ids) in self.after]:
            engine.advance_all(going, torch.stack([self.after[tuple(r.ids)] for r in going]), rules)
        return [row if new.finish is None else new for row, new in zip(rows, tried, strict=True)]


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
    heard: Heard = field(default_factory=Heard)

    def draw(self, n: int, watch: Watch | None) -> tuple[tuple[Candidate, ...], Cost]:
        """`n` samples, then as many as `watch` wants; the cost without the prompt. Tokens of a
        sample that took no pass are not counted as drawn."""
        found: list[Candidate] = []
        total, begun = Cost(), 0
        while n:
            rows = self.rows(begun, n)
            if not self.halving:  # which is among rows that run side by side
                rows = self.heard.follow(rows, self.rules) if begun else rows
            cost = self._wave(rows, found, watch)
            begun, total = begun + n, total + cost
            n = watch.more(cost) if watch is not None else 0
        return tuple(found), total

    def _wave(self, rows: Sequence[Row], found: list[Candidate], watch: Watch | None) -> Cost:
        started, passes = time.perf_counter(), 0
        run = [row for row in rows if row.finish is None]
        read = self._hand_over(rows, 0, found, watch)
        if run and run[-1].finish is None:
            passes = self._run(run, rows, read, found, watch)
        return Cost(
            drawn=sum(len(row.ids) for row in run),
            passes=passes,
            ms=(time.perf_counter() - started) * 1000.0,
        )

    def _run(
        self,
        run: Sequence[Row],
        rows: Sequence[Row],
        read: int,
        found: list[Candidate],
        watch: Watch | None,
    ) -> int:
        """Draw those of `rows` that have to be; how many passes it took."""
        passes = 0
        rules = replace(
            self.rules,
            reject=_halved(self.rules.limit) if self.halving else None,
            heard=self.heard.add if watch is not None else None,
        )
        # Closed, so that nothing of a wave outlives a watcher that raises.
        with closing(self.steps(self.prefix, run, rules, self.fork(len(run)))) as steps:
            for passes in steps:  # noqa: B007 - the last is how many there were
                read = self._hand_over(rows, read, found, watch)
        return passes

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
        # A token is drawn after the confidence of its place is known: rows that differ in the last
        # alone are as sure as each other. Which of them goes on must not hang on the last bits of
        # a batched product, which come out otherwise with other threads and processors.
        sure: dict[tuple[int, ...], float] = {}
        scores = [sure.setdefault(tuple(row.ids[:-1]), _confidence(row)) for row in running]
        return rule.dropped(len(running[0].ids), scores)

    return reject


def _confidence(row: Row) -> float:
    return sum(row.stats.confidences) / len(row.stats.confidences)
