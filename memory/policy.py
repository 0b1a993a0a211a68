"""What is kept of a task when there is more than its cap, and which texts say the same.

Knows answers and counts. Refuses to know vectors, so that what is kept follows from the journal
alone, whatever embedder reads it.

Of the answer that has most beyond its share, the oldest goes. Shares are as the square roots of how
often the answers were taught: between equal ones, which forget how common an answer is, and
proportional ones, which forget what is rare. On BANKING77 a cap of 100 then answers 54 % right
where the newest 100 answer 45 %, on TREC as many. Keeping mistakes first, or what covers most
(dropping what is redundant), was tried and did worse: both keep what is odd.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from math import sqrt

CAP = 100_000
"""Cases, and as many refused answers, that are kept of each user and task to be found again."""

_SPACE = re.compile(r"\s+")
_EDGES = " \t\n.,;:!?…"


def normalised(text: str) -> str:
    """What near-duplicates share: no case, no width, one blank for many, no mark at either end."""
    plain = _SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    return plain.strip(_EDGES) or plain.strip()


@dataclass(slots=True)
class Kept:
    """Of one task and kind: the records kept of each answer, oldest first, and how many were
    `seen`. `total` sums the square roots of the latter."""

    held: dict[str, dict[str, None]] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    total: float = 0.0

    def add(self, answer: str, name: str) -> None:
        """One more record of an answer."""
        self.held.setdefault(answer, {})[name] = None
        self.total += sqrt(self.seen[answer] + 1) - sqrt(self.seen[answer])
        self.seen[answer] += 1

    def remove(self, answer: str, name: str) -> None:
        """It was replaced, or is too many."""
        held = self.held[answer]
        del held[name]
        if not held:
            del self.held[answer]

    def surplus(self, cap: int) -> str | None:
        """Which record goes when there are more than `cap`; None if all answers have one only."""
        several = [answer for answer, held in self.held.items() if len(held) > 1]
        if not several:
            return None
        each = cap / self.total
        most = max(several, key=lambda a: len(self.held[a]) - each * sqrt(self.seen[a]))
        return next(iter(self.held[most]))
