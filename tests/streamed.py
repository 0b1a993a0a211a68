"""A small stream of eight teams for the tests of the benchmark, and one who writes down what it is
told. No tests."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import streams
from benchmarks.bench import Answer
from benchmarks.oracle import Told
from benchmarks.streams import Drawn, Item, Labelled
from tta.labelled import Example
from tta.types import Choices

TEAMS = ("amber", "coral", "indigo", "teal", "ochre", "umber", "violet", "white")
ASKS = ("Where is my {}?", "The {} is late.", "I lost the {}!", "Is there a new {}?", "{} please")
THINGS = ("parcel", "password", "ticket", "refund", "invoice", "card", "phone", "book")
EXAMPLES = tuple(
    Example(text=ask.format(thing), target=team)
    for ask in ASKS
    for thing, team in zip(THINGS, TEAMS, strict=True)
)
SET = Labelled(name="teams", examples=EXAMPLES, answers=dict.fromkeys(TEAMS, ""))
CLOSED = Choices(answers=TEAMS)


def drawn(steps: int = 24, seed: int = 2, *, drift: bool = False) -> Drawn:
    return streams.labelled(SET, seed=seed, steps=steps, drift=drift)


class Watcher:
    """Answers always the same, and notes when it was told what."""

    def __init__(self, answer: str = TEAMS[0]) -> None:
        self.seen: list[str] = []
        self.told: list[tuple[int, str, Told]] = []
        self._answer = answer

    def predict(self, item: Item) -> Answer:
        self.seen.append(item.text)
        return Answer(text=self._answer)

    def learn(self, item: Item, answer: Answer, told: Told) -> None:
        self.told.append((len(self.seen), item.text, told))


def long(steps: int) -> Drawn:
    """A stream of many steps, the same answers."""
    few = drawn(40)
    times = steps // 40
    stream = replace(few.stream, items=few.stream.items * times)
    return replace(few, stream=stream, targets=few.targets * times)


ITEM = Item(text="Where is my parcel?", task="teams", answers=CLOSED)
