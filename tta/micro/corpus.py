"""The training text of the bundled model: a mixture of tasks that only the prompt can answer.

Knows how often each family is drawn, how many demonstrations it gets and what is kept for the
benchmark. Refuses to know the model, the tokenizer, or any text that was not written here:
everything is generated from a seed, and two runs with one seed give the same text. Labels, facts,
formats and conventions are drawn anew each time, so a model can only score by reading its prompt,
which is what adaptation without gradients needs of it. The families of corpus_heldout.py are never
drawn here.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from tta.micro.corpus_drills import DRILLS
from tta.micro.corpus_episode import Episode, for_training, held_out
from tta.micro.corpus_families import FAMILIES as PROMPTED
from tta.micro.corpus_families import Family
from tta.micro.corpus_formats import FAMILIES as REWRITTEN

FAMILIES: dict[str, Family] = {**PROMPTED, **REWRITTEN}
_TRAINED: dict[str, Family] = {**FAMILIES, **DRILLS}
WEIGHTS: dict[str, float] = {
    "labels": 5,
    "facts": 4,
    "rules": 5,
    "notes": 3,
    "conventions": 4,
    "repeats": 3,
    "idle": 1,
    "formats": 4,
    "json": 2,
    "arithmetic": 2,
    "edits": 2,
    "tools": 1.5,
    "sums": 0,
}
# Once copying works, more of what has short answers, which a mean over tokens makes light of.
LATER: dict[str, float] = {
    "labels": 8,
    "facts": 9,
    "rules": 5,
    "notes": 4,
    "conventions": 3,
    "repeats": 4,
    "idle": 0.7,
    "formats": 6,
    "json": 1,
    "arithmetic": 1,
    "edits": 3,
    "tools": 0.7,
    "sums": 4,
}
LAST: dict[str, float] = {
    "labels": 8,
    "facts": 7,
    "rules": 5,
    "notes": 5,
    "conventions": 3,
    "repeats": 5,
    "idle": 0.7,
    "formats": 5,
    "json": 1,
    "arithmetic": 0.5,
    "edits": 3,
    "tools": 0.7,
    "sums": 2,
    "drills": 16,
}
AGAIN: dict[str, float] = {
    "labels": 8,
    "facts": 5,
    "rules": 9,
    "notes": 8,
    "conventions": 3,
    "repeats": 3,
    "idle": 0.7,
    "formats": 5,
    "json": 1,
    "arithmetic": 0.5,
    "edits": 3,
    "tools": 0.7,
    "sums": 1,
    "drills": 10,
    "spelling": 6,
}
SHOTS = (0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 6, 8)  # how many demonstrations, in equal shares
LONG = (10, 12, 16)  # now and then far more
_FROM_DEMONSTRATIONS = ("labels", "conventions", "repeats", "formats")


def draw(rng: Random, family: str = "", weights: dict[str, float] = WEIGHTS) -> Episode:
    """One episode that training may see."""
    while True:
        name = family or rng.choices(tuple(weights), tuple(weights.values()))[0]
        shots = rng.choice(LONG) if rng.random() < 0.06 else rng.choice(SHOTS)
        if name not in _FROM_DEMONSTRATIONS and rng.random() < 0.5:
            shots = min(shots, 2)  # there, demonstrations only accompany what the system text tells
        episode = _TRAINED[name](rng, shots)
        if rng.random() < 0.12 and name not in ("idle", "rules", *DRILLS):
            episode = _distracted(rng, episode)
        if name in DRILLS:
            episode = Episode(tuple(t for t in episode.turns if not held_out(t)), episode.system)
        if episode.turns and for_training(episode):
            return episode


def _distracted(rng: Random, episode: Episode) -> Episode:
    """The same episode after demonstrations of something else, as a memory may well recall them."""
    other = FAMILIES[rng.choice(_FROM_DEMONSTRATIONS)](rng, rng.randint(1, 3))
    return Episode((*other.turns[:-1], *episode.turns), episode.system)


def ask(rng: Random, family: Family, shots: int) -> Episode:
    """One episode for the benchmark: its last request is of the share that training never sees."""
    while True:
        episode = family(rng, shots)
        if held_out(episode.last):
            return episode


def texts(seed: int, count: int) -> Iterator[str]:
    """``count`` examples as the model reads them: what the tokenizer is trained on."""
    rng = Random(seed)
    for _ in range(count):
        yield draw(rng).text()
