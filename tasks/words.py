"""Which words of a pattern say what is special about it.

Knows words that many instructions share. Knows no vectors and no tasks.
"""

from __future__ import annotations

import re
from math import ceil

_VERBS = """
    add analyse analyze answer arrange ask assign calculate categorise categorize change check
    choose classify clean come compare complete compose compute consider continue convert correct
    count create decide define delete describe detect determine draft edit evaluate expand explain
    extract figure fill find fix format generate give guess help identify improve indicate infer
    insert judge label list look make mark match name order paraphrase parse pick predict produce
    proofread provide rank rate read recommend remove rename reorder rephrase replace respond
    return reverse rewrite say select shorten show simplify solve sort spell split state suggest
    sum summarise summarize tag take tell transcribe transform translate turn unscramble use verify
    write
"""
VERBS = frozenset(_VERBS.split())
"""What a sentence of an instruction may begin with."""
_COMMON = """
    about above after all also and any are based been before being below between both but can
    could does don't each every following for from get given going have here how i'd into its just
    like may more must need not only other otherwise out please should so some such task text than
    thank thanks that the their them then there these they this those under using want was were
    what when where whether which who will with word words would you you're your
"""
PLAIN = VERBS | frozenset(_COMMON.split())

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_UNSPACED = re.compile(r"[\u2e80-\ud7ff]")
BACKGROUND = 10
"""As many tasks as are imagined before any is known, so that the first words have a weight."""


def words(pattern: str) -> tuple[str, ...]:
    """The distinct words of three letters or more, sorted; of scripts written without spaces the
    pairs of neighbouring characters."""
    found: set[str] = set()
    for word in _WORD.findall(pattern):
        if _UNSPACED.search(word):
            found.update(word[i : i + 2] for i in range(max(1, len(word) - 1)))
        elif len(word) > 2:
            found.add(word)
    return tuple(sorted(found))


def expected(word: str) -> int:
    """In how many of the imagined tasks the word occurs."""
    return ceil(BACKGROUND * 0.3) if word in PLAIN else 0
