"""Which texts share words with a question: BM25 (Robertson & Zaragoza, 2009).

Knows words and how rare they are. Knows nothing of vectors, users, or what the texts are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from math import log

import numpy as np

K1, B = 1.2, 0.75
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Lower-case words and numbers, in their order."""
    return _WORD.findall(text.lower())


class Lexical:
    """The words of a fixed list of texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [Counter(words(text)) for text in texts]
        lengths = np.array([max(1, found.total()) for found in counts], dtype=np.float64)
        self._norm = K1 * (1 - B + B * lengths / lengths.mean()) if len(lengths) else lengths
        postings: dict[str, list[tuple[int, int]]] = {}
        for row, found in enumerate(counts):
            for word, times in found.items():
                postings.setdefault(word, []).append((row, times))
        self._postings = postings

    def best(self, question: str, k: int) -> list[int]:
        """The rows of the `k` texts that match best, best first; only those that match.

        Words that stand in more than half of the texts tell nothing, and are not looked at.
        """
        count = len(self._norm)
        scores = np.zeros(count)
        for word in dict.fromkeys(words(question)):
            held = self._postings.get(word, ())
            if not held or 2 * len(held) > count:
                continue
            rows, times = (np.array(part) for part in zip(*held, strict=True))
            rarity = log(1 + (count - len(held) + 0.5) / (len(held) + 0.5))
            scores[rows] += rarity * times * (K1 + 1) / (times + self._norm[rows])
        order = np.argsort(-scores, kind="stable")[:k]
        return [int(row) for row in order if scores[row] > 0]
