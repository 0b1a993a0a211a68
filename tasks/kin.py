"""Whether the accepted answers of groups of requests speak for one task or for several.

Knows requests as vectors, answers as texts, and in which order they came. Refuses to know which
tasks there are, and what is done about it.

Both hypotheses predict each answer from those before it: one from all, the other from those of its
own group only. What they are worth is the likelihood of the whole (Kass & Raftery, 1995; one after
the other: Dawid, 1984). A third says that the answers mean nothing; then there is no telling.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import TYPE_CHECKING

import numpy as np

from tta.tasks.mask import MARK
from tta.tasks.words import words

if TYPE_CHECKING:
    from tta.protocols import FloatArray

NEAR = 0.05
"""Width of the kernel over requests: what is asked nearly so is answered so."""
BACKGROUND = 0.3
"""As much nearness as all answers of the group together count for."""
_CONCENTRATION = (0.1, 1.0, 10.0)
"""How many answers of its own a task has: few, or nearly as many as requests."""
_FLIPPED = (0.05, 0.2, 0.5)
"""The share of the answers that are not what they should be."""
MEANINGLESS = 0.1
"""How probable it is that the answers have nothing to do with the requests."""
RAREST, COMMON = 1e-3, 0.3
"""How probable it is that a task has an answer that nothing is known of; and one of those that are
the answer to many things."""
_COMMON = frozenset(
    """yes no true false positive negative neutral none unknown other maybe good bad right wrong
    correct incorrect valid invalid a b c d e""".split()
)
POOL = 20
"""Answers that mean nothing are any of so many, or of those that there are if they are more; but
they repeat nothing of their requests."""
_WORD = re.compile(r"\w+")
_LETTER = re.compile(r"[^\W\d_]")
_MARKS = re.compile(rf"{MARK}(?:\W*{MARK})+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """An accepted answer: to which request, when, by which feedback. `closed`: it is one of as many
    answers that were asked for, 0 for an open one. `vector`: the request's, unit length, (dim,)."""

    request: str
    answer: str
    closed: int
    time: float
    source: str
    vector: FloatArray

    @property
    def form(self) -> str:
        """The answer; of an open one what is not repeated from the request."""
        return self.answer if self.closed else form(self.request, self.answer)


def form(request: str, answer: str) -> str:
    """An answer with the words of its request masked: "Hello, Ada!" to "Greet Ada." is "hello, _!".

    What the answers of one kind of work have in common is what the request does not say."""
    known = set(_WORD.findall(request.lower()))
    plain = _WORD.sub(lambda m: MARK if m[0] in known else m[0], answer.lower().strip())
    return _MARKS.sub(MARK, plain)


def wording(one: str, other: str) -> float:
    """How much of the words of two patterns are the same, 0 to 1 (Jaccard, 1901)."""
    first, second = set(words(one)), set(words(other))
    return len(first & second) / max(1, len(first | second))


def for_one(parts: Sequence[Sequence[Accepted]], usual: Mapping[str, float]) -> float:
    """Nats for one task against one for each of the parts.

    `usual`: the share of all other tasks that know an answer: what many know, two may share by
    chance.
    """
    told = sorted(((c, i) for i, part in enumerate(parts) for c in part), key=lambda p: p[0].time)
    cases, groups = [case for case, _ in told], np.array([group for _, group in told])
    if len(set(groups.tolist())) < 2:
        return 0.0
    forms = [case.form for case in cases]
    number = {text: i for i, text in enumerate(dict.fromkeys(forms))}
    said = np.array([number[text] for text in forms])
    vectors = np.stack([case.vector for case in cases])
    near = np.tril(np.exp((vectors @ vectors.T - 1) / NEAR), -1)
    same = said[:, None] == said
    chance = np.array([_chance(c, text, usual) for c, text in zip(cases, forms, strict=True)])
    closed = max(case.closed for case in cases)
    pool = closed or max(POOL, len(number) + 1)
    random = np.array([RAREST if not closed and MARK in text else 1 / pool for text in forms])
    # What was never said before is as probable as ever.
    random = np.where(np.tril(same, -1).any(1), random, chance)
    meaningless = log(MEANINGLESS) + float(np.log(random).sum())
    together = _evidence(near, same, chance, random)
    apart = _evidence(near * (groups[:, None] == groups), same, chance, random)
    return float(
        np.logaddexp(log(1 - MEANINGLESS) + together, meaningless)
        - np.logaddexp(log(1 - MEANINGLESS) + apart, meaningless)
    )


def _evidence(
    near: FloatArray, same: FloatArray, chance: FloatArray, random: FloatArray
) -> float:
    """Log-likelihood (nats) of all answers, each from those before it that `near`, shape (n, n),
    has anything of."""
    before = near > 0
    alike, all_near = (near * same).sum(1), near.sum(1)
    times, all_before = (before & same).sum(1), before.sum(1)
    found = []
    for concentration in _CONCENTRATION:
        usual = (concentration * chance + times) / (concentration + all_before)
        right = (BACKGROUND * usual + alike) / (BACKGROUND + all_near)
        found += [np.log((1 - share) * right + share * random).sum() for share in _FLIPPED]
    return float(np.logaddexp.reduce(found)) - log(len(found))


def _chance(case: Accepted, text: str, usual: Mapping[str, float]) -> float:
    """How probable an answer is in a task that has not had it."""
    if case.closed:
        return max(1 / case.closed, RAREST)
    said = set(_WORD.findall(text)) - {MARK}
    common = COMMON if said <= _COMMON else exp(-len(_LETTER.findall(text)))
    return min(0.5, max(RAREST, common, usual.get(case.answer, 0.0)))
