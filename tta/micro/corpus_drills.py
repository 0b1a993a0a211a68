"""The same tasks asked many times in one prompt: more answers to learn from for the same reading.

Knows how to ask again and again about one set of facts, demonstrations, notes or sums. Refuses to
bring tasks of its own: all it asks are the families' own questions.
"""

from __future__ import annotations

from random import Random

from tta.micro.corpus_edits import FIXED
from tta.micro.corpus_episode import Episode, System, Turn
from tta.micro.corpus_families import Family, facts, labels, notes, repeats
from tta.micro.corpus_formats import sum_form, sum_or_difference
from tta.micro.corpus_words import words


def drills(rng: Random, shots: int) -> Episode:
    """One of the drills; ``shots`` is of no use here, for all of them are long."""
    del shots
    kind = rng.choices((_sums, _facts, _again, _notes, _labels), (7, 5, 5, 2, 3))[0]
    return kind(rng)


def spelling(rng: Random, shots: int) -> Episode:
    """One rule about capitals and much to write by it, to learn how words are spelt."""
    del shots
    edit = rng.choice([edit for edit in FIXED if edit.kind == "case"])
    base = rng.choice(("Repeat: {}", "Say: {}", "Echo: {}", "Write: {}", "{}"))
    said = [words(rng, 1, 4) for _ in range(rng.randint(4, 8))]
    turns = tuple(Turn(base.format(x), edit.apply(x)) for x in said)
    return Episode(turns, System(rules=(rng.choice(edit.rules),)))


def _sums(rng: Random) -> Episode:
    form, limit = sum_form(rng), rng.choice((9, 9, 20, 20, 99))
    count = rng.randint(10, 20)
    return Episode(tuple(sum_or_difference(rng, form, limit) for _ in range(count)))


def _facts(rng: Random) -> Episode:
    return facts(rng, rng.randint(4, 8))


def _notes(rng: Random) -> Episode:
    return notes(rng, rng.randint(4, 8))


def _labels(rng: Random) -> Episode:
    """Each class once or twice more than is needed."""
    return labels(rng, rng.randint(8, 12))


def _again(rng: Random) -> Episode:
    """Every request of several, asked again in any order."""
    shown = [turn for turn in repeats(rng, rng.randint(2, 6)).turns if not turn.known]
    known = [Turn(turn.user, turn.answer) for turn in shown]
    again = [turn for _ in range(2) for turn in rng.sample(known, len(known))]
    return Episode((*shown, *again))


DRILLS: dict[str, Family] = {"drills": drills, "spelling": spelling}
