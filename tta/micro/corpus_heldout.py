"""Families that the training mixture never draws: what the model can carry over to the unseen.

Knows five conventions that no other corpus file produces: numbered codes as labels, guillemets and
other marks shown by example, dates with dots and the year first, facts written as `key = value`,
and the first word moved to the end. Refuses to be sampled by training: corpus.py does not know
it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tta.micro.corpus_episode import Episode, System, Turn
from tta.micro.corpus_words import NAMES, TOPICS, nonce, request, value, word, words

Family = Callable[[Random, int], Episode]


def code_labels(rng: Random, shots: int) -> Episode:
    """Labels that are codes of a letter and digits, such as C41."""
    count = max(1, min(shots, 3))
    names = [f"{rng.choice('ABCDEFGHK')}{rng.randint(10, 99)}" for _ in range(count)]
    topics = rng.sample(tuple(TOPICS.values()), count)
    order = list(range(count)) + [rng.randrange(count) for _ in range(max(0, shots - count))]
    rng.shuffle(order)
    asked = rng.choice(order) if shots else 0
    turns = [
        Turn(request(rng, topics[i][rng.randrange(2)]), names[i])
        for i in ([*order, asked] if shots else [0])
    ]
    return Episode(tuple(turns))


def guillemets(rng: Random, shots: int) -> Episode:
    """Answers wrapped in marks that training never wraps with."""
    left, right = rng.choice((("«", "»"), ("<<", ">>"), ("{", "}"), ("~", "~"), ("==> ", " <==")))
    ask = rng.choice(("Name {}.", "Say {}", "{}", "Mention {}."))
    made = [words(rng, 1, 2) for _ in range(shots + 1)]
    return Episode(tuple(Turn(ask.format(x), f"{left}{x}{right}") for x in made))


def dotted_dates(rng: Random, shots: int) -> Episode:
    """Dates written year.month.day."""
    turns = []
    for _ in range(shots + 1):
        d, m, y = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1950, 2049)
        turns.append(Turn(f"{d:02d}/{m:02d}/{y}", f"{y}.{m:02d}.{d:02d}"))
    return Episode(tuple(turns))


def equals_facts(rng: Random, shots: int) -> Episode:
    """Facts written as `key = value` about things no relation of training speaks of."""
    what = rng.sample(("quota", "altitude", "nickname", "shelf", "voltage", "floor"), 3)
    people = rng.sample(NAMES, 4)
    keys = rng.sample([(a, b) for a in people for b in what], 4 + min(shots, 4))
    known = [(f"{a} {b}", value(rng)) for a, b in keys]
    asked = rng.sample(known, shots + 1)
    turns = tuple(Turn(f"{k}?", v) for k, v in asked)
    return Episode(turns, System(facts=tuple(f"{k} = {v}" for k, v in known)))


def first_to_end(rng: Random, shots: int) -> Episode:
    """The first word moves to the end; shown, never told."""
    turns = []
    for _ in range(shots + 1):
        parts = [word(rng) for _ in range(3)] if rng.random() < 0.7 else [nonce(rng), word(rng)]
        turns.append(Turn(" ".join(parts), " ".join([*parts[1:], parts[0]])))
    return Episode(tuple(turns))


HELD_OUT: dict[str, Family] = {
    "code labels": code_labels,
    "guillemets": guillemets,
    "dotted dates": dotted_dates,
    "key = value facts": equals_facts,
    "first word to the end": first_to_end,
}
