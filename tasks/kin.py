"""Whether the accepted answers of groups of requests speak for one task or for several.

Knows requests as vectors, answers as texts, and in which order they came. Refuses to know which
tasks there are, and what is done about it.

Both hypotheses predict each answer from those before it: one from all, the other from those of its
own group only. What they are worth is the likelihood of the whole (Kass & Raftery, 1995; one after
the other: Dawid, 1984). A third says that the answers mean nothing; then there is no telling.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from string import punctuation
from typing import TYPE_CHECKING

import numpy as np

from tta.tasks.mask import MARK
from tta.tasks.split import split
from tta.tasks.words import PLAIN, VERBS, words
from tta.types import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
_MANY = """
    a b bad c correct d e false good incorrect invalid maybe negative neutral no none other positive
    right true unknown valid wrong yes
"""
_COMMON = frozenset(_MANY.split())
_SAYING = (VERBS | frozenset(["how", "what", "when", "where", "which", "who", "why"])) & PLAIN
"""Words that many requests share and that do say what to do."""
POOL = 10
"""Answers that mean nothing are any of so many, or of those that there are if they are more; but
they repeat nothing of their requests."""
_WORD = re.compile(r"\w+")
_LETTER = re.compile(r"[^\W\d_]")
_AROUND = re.compile(rf"[^\s{MARK}.]")
_SPACED = str.maketrans(dict.fromkeys(punctuation, " "))
_MARKS = re.compile(rf"{MARK}(?:\W*{MARK})+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """An accepted answer. `form`: of an open one, see there; one of a closed set is its own, and
    `closed` counts that. `slotted`: see there."""

    record: Record
    form: str
    closed: int
    slotted: str = ""


def form(request: str, answer: str) -> str:
    """An answer with what it repeats of its request masked: what the answers of one kind of work
    have in common, "hello, _!" of "Hello, Ada!" to "Greet Ada."."""
    return _masked(answer, _told(request) - PLAIN)


def slotted(request: str, answer: str) -> str:
    """The pattern of a request with what its answer repeats of it masked: "greet _." of "Greet
    Ada." with "Hello, Ada!". What the answer copies is what the work is done to, although the
    request alone does not show it. "" if nothing of the pattern is repeated, or all that says what
    to do."""
    repeated = (_told(request) & _told(answer)) - PLAIN
    pattern = split(request).pattern
    found = _masked(pattern, repeated)
    left = set(words(found.replace(MARK, " "))) - (PLAIN - _SAYING)
    return found if left and found != _masked(pattern, set()) else ""


def _told(text: str) -> set[str]:
    return {word for word in text.lower().translate(_SPACED).split() if len(word) > 2}


def _masked(text: str, known: Container[str]) -> str:
    plain = _WORD.sub(lambda m: MARK if m[0] in known else m[0], text.lower().strip())
    return _MARKS.sub(MARK, plain)


def wording(one: str, other: str) -> float:
    """How much of the words of two patterns are the same, 0 to 1 (Jaccard, 1901)."""
    first, second = set(words(one)), set(words(other))
    return len(first & second) / max(1, len(first | second))


def for_one(
    parts: Sequence[Sequence[Accepted]], vectors: FloatArray, usual: Mapping[str, float]
) -> float:
    """Nats for one task against one for each of the parts.

    `vectors`: of the requests, part after part, unit length, shape (cases, dim). `usual`: the share
    of all other tasks that know an answer: what many know, two may share by chance.
    """
    told = [(case, i) for i, part in enumerate(parts) for case in part]
    order = sorted(range(len(told)), key=lambda i: told[i][0].record.created)
    cases, groups = [told[i][0] for i in order], np.array([told[i][1] for i in order])
    if len(set(groups.tolist())) < 2:
        return 0.0
    forms, vectors = [case.form for case in cases], vectors[order]
    number = {text: i for i, text in enumerate(dict.fromkeys(forms))}
    said = np.array([number[text] for text in forms])
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
    near: FloatArray, same: NDArray[np.bool_], chance: FloatArray, random: FloatArray
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
    if MARK in text:
        # What stands around a slot is chosen as well, but for what may stand around any: "the _.".
        around = _AROUND.findall(_WORD.sub(lambda m: "" if m[0] in PLAIN else m[0], text))
        common = min(COMMON, exp(-len(around)))
    else:
        common = COMMON if said <= _COMMON else exp(-len(_LETTER.findall(text)))
    return min(0.5, max(RAREST, common, usual.get(case.record.answer, 0.0)))
