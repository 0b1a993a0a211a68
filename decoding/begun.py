"""A prompt that was run, before anything is drawn behind it; and how rows become candidates.

Knows ids, rows and costs. Refuses to know how a prompt is run (`cache`) and how rows are drawn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tta.decoding import engine
from tta.decoding.cache import Filled
from tta.types import Candidate, Cost, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A prompt that was run, and what is drawn behind it: `rows(first, n)` makes samples number
    `first` to `first + n - 1` (0 is greedy), `read` makes text of ids."""

    prompt: Prompt
    filled: Filled
    rows: Callable[[int, int], list[engine.Row]]
    rules: engine.Rules
    read: Callable[[list[int]], str]
    marks: Sequence[str]
    """Texts at which a row without a grammar ends."""
    started: float

    @property
    def prefix(self) -> engine.Prefix:
        return self.filled.prefix

    def candidate(self, row: engine.Row) -> Candidate:
        """What a row that is over says."""
        return candidate_of(row, self.read(row.ids))

    def cost(self, passes: int, drawn: int) -> Cost:
        """The prompt's, and that of so many passes and tokens behind it."""
        return cost_of(self.prompt, self.filled, self.started, passes=passes, drawn=drawn)


def candidate_of(row: engine.Row, text: str) -> Candidate:
    assert row.finish is not None  # the loop ends when every row has one
    return Candidate(
        text=text,
        token_ids=tuple(row.ids),
        logprob=row.logprob,
        finish=row.finish,
        stats=row.stats.summary(),
    )


def cost_of(
    prompt: Prompt,
    filled: Filled,
    started: float,
    *,
    passes: int,
    drawn: int = 0,
    scored: int = 0,
) -> Cost:
    return Cost(
        prefilled=len(prompt.ids) - filled.reused + scored,
        reused=filled.reused,
        drawn=drawn,
        passes=passes + filled.passes,
        ms=(time.perf_counter() - started) * 1000.0,
    )
