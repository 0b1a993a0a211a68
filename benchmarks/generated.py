"""Streams of open answers for the bundled model, made up from a seed that training never had.

Knows the corpus the bundled model was trained on, and so what it can carry over when it is shown
how. Nothing here can be answered before it was told: formats are latent, facts and labels are
drawn anew for each stream. Refuses to know methods and feedback.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from benchmarks.streams import SHOTS, Drawn, Item, Stream
from tta.micro.corpus import FAMILIES
from tta.micro.corpus_episode import Turn
from tta.micro.corpus_words import CITIES, NAMES, nonce, value

USERS = 10
FACTS = 40
CLASSES = 6


def formats(seed: int, steps: int) -> Drawn:
    """S5: ten users, each with a format of her own that she edits every answer into."""
    return _users("formats", seed, steps, edited=True)


def conventions(seed: int, steps: int) -> Drawn:
    """Ten users, each with a way of answering of her own ("Dear Ada,")."""
    return _users("conventions", seed, steps, edited=True)


def _users(family: str, seed: int, steps: int, *, edited: bool) -> Drawn:
    rng = Random(f"tta-stream {family} {seed}")
    taken: list[tuple[Item, str]] = []
    left = [_turns(family, rng, 2 * (steps + SHOTS) // USERS + 20) for _ in range(USERS)]
    while len(taken) < steps + SHOTS:
        user = rng.randrange(USERS)
        turn = left[user].pop()
        item = Item(text=turn.user, user=f"user{user}", task=family, edited=edited)
        taken.append((item, turn.answer))
    return _drawn(family, taken, steps, scoped=True)


def nonce_labels(seed: int, steps: int) -> Drawn:
    """Labels that mean nothing by themselves, to be written out as an open answer."""
    rng = Random(f"tta-stream nonce {seed}")
    turns: list[Turn] = []
    while len({turn.answer for turn in turns}) < CLASSES:
        turns = _turns("labels", rng, steps + SHOTS)
    rng.shuffle(turns)
    taken = [(Item(text=turn.user, task="nonce"), turn.answer) for turn in turns]
    return _drawn("nonce", taken, steps)


def _turns(family: str, rng: Random, count: int) -> list[Turn]:
    """`count` requests of one latent way of answering: a single long episode of the corpus."""
    return list(FAMILIES[family](rng, count).turns[: count + 1])


_WHATS = (
    "desk",
    "favourite colour",
    "badge number",
    "home town",
    "manager",
    "team",
    "phone extension",
    "room",
    "hobby",
    "password",
)
_ASKS = ("What is {a}'s {w}?", "{a}'s {w}?", "Tell me the {w} of {a}.", "{w} of {a}?")


def facts(seed: int, steps: int) -> Drawn:
    """Forty facts that one user teaches, asked for again and again in one wording or another."""
    rng = Random(f"tta-stream facts {seed}")
    who = [*rng.sample((*NAMES, *CITIES), FACTS // 5), *(nonce(rng).capitalize() for _ in range(4))]
    about = rng.sample([(a, w) for a in who for w in _WHATS], FACTS)
    known = {pair: value(rng) for pair in about}
    taken = []
    for _ in range(steps):
        a, w = rng.choice(about)
        item = Item(text=rng.choice(_ASKS).format(a=a, w=w), task="facts")
        taken.append((item, known[a, w]))
    return _drawn("facts", taken, steps)


def _drawn(name: str, taken: list[tuple[Item, str]], steps: int, *, scoped: bool = False) -> Drawn:
    items, targets = zip(*taken[:steps], strict=True)
    stream = Stream(
        name=name, items=items, shots=tuple(taken[steps : steps + SHOTS]), scoped=scoped
    )
    return Drawn(stream=stream, targets=targets)


GENERATED: dict[str, Callable[[int, int], Drawn]] = {
    "formats": formats,
    "conventions": conventions,
    "facts": facts,
    "nonce": nonce_labels,
}
