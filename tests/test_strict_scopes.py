"""Three users in one memory, each as if alone: whatever any of them does, bit for bit."""

import random
from collections.abc import Callable, Sequence
from functools import partial

import pytest
from memories import WEIGHER, answered, correction, note, preference, rating, rule, undone

from tta.memory import Memory
from tta.memory.events import FEEDBACK
from tta.testing import HashEmbedder
from tta.types import Event, EventKind, RecordKind

EMBED = HashEmbedder(8)
USERS = ("ada", "bob", "eve")
TEXTS = ("yes", "no", "maybe", "ja")
REQUESTS = ("is it red", "Is it red?", "is it blue", "where is it", "who is it")
PROBES = EMBED.embed(REQUESTS)
CAP = 12
"""Small, so that things give way all the time."""


class Actor:
    """One user, who does the same things in two memories and compares what comes of it."""

    def __init__(self, user: str, together: Memory, alone: Memory, seed: int) -> None:
        self.user, self.together, self.alone = user, together, alone
        self.random = random.Random(f"{user} {seed}")
        self.count = 0
        self.answers: list[Event] = []
        self.given: list[str] = []

    def act(self) -> None:
        acts: Sequence[tuple[Callable[[], None], int]] = (
            (self.ask, 40),
            (self.teach, 40),
            (self.look, 15),
            (self.undo, 4),
            (self.forget, 1),
        )
        chosen = self.random.choices([act for act, _ in acts], [weight for _, weight in acts])
        chosen[0]()

    def both(self, do: Callable[[Memory], object]) -> None:
        assert do(self.together) == do(self.alone)

    def name(self) -> str:
        self.count += 1
        # The same in both memories, and never another user's.
        return f"{self.user}-{self.count}"

    def ask(self) -> None:
        pick, name = self.random.choice, self.name()
        about = answered(
            name,
            user=self.user,
            task=pick("tu"),
            request=pick(REQUESTS),
            answer=pick(TEXTS),
            experts=("frozen", "kernel") if self.random.random() < 0.1 else (),
            margin=0.5,
        )
        self.answers = [*self.answers[-20:], about]
        self.both(lambda memory: memory.record(about))

    def teach(self) -> None:
        if not self.answers:
            return
        pick, name = self.random.choice, self.name()
        about = pick(self.answers)
        makes: tuple[Callable[[], Event], ...] = (
            lambda: correction(about, pick(TEXTS), name),
            lambda: rating(about, pick((-1.0, 1.0)), name),
            lambda: preference(about, pick(TEXTS), pick(TEXTS), name),
            lambda: note(about, pick(TEXTS), name),
            lambda: rule(pick(TEXTS), user=self.user, task=about.task, id=name),
        )
        event = pick(makes)()
        assert event.kind in FEEDBACK
        self.given = [*self.given[-20:], name]
        self.both(lambda memory: memory.learn(event))

    def undo(self) -> None:
        if self.given:
            name = self.random.choice(self.given)
            self.both(lambda memory: {*memory.undo(name, user=self.user).added})

    def forget(self) -> None:
        self.answers, self.given = [], []
        self.both(lambda memory: memory.forget(self.user))

    def look(self) -> None:
        """All that a step asks of a memory."""
        pick = self.random.choice
        vector, task, kind = pick(PROBES), pick("tu"), pick(list(RecordKind))
        if kind is not RecordKind.RULE:
            near = partial(Memory.nearest, vector=vector, k=9, user=self.user, task=task, kind=kind)
            self.both(near)
        self.both(lambda memory: memory.records(user=self.user, task=task, kind=kind))
        self.both(lambda memory: memory.standing(user=self.user, task=task))
        self.both(lambda memory: memory.ledger(user=self.user, task=task))
        self.both(lambda memory: memory.sightings(user=self.user).patterns)

    def compare_all(self) -> None:
        """What there is no time for at every step."""
        self.both(lambda memory: memory.records(user=self.user))
        self.both(lambda memory: memory.state.users.get(self.user))
        self.both(lambda memory: memory.coverage(self.user))
        self.both(lambda memory: memory.export(self.user))
        self.both(lambda memory: memory.contradictions(self.user))
        # Ids and times of what a memory writes itself are its own.
        self.both(lambda memory: [(e.kind, e.task, e.body) for e in memory.events(self.user)])


def play(operations: int, seed: int) -> None:
    with Memory.open(None, embedder=EMBED, weigher=WEIGHER, cap=CAP) as together:
        alone = [Memory.open(None, embedder=EMBED, weigher=WEIGHER, cap=CAP) for _ in USERS]
        actors = [Actor(user, together, own, seed) for user, own in zip(USERS, alone, strict=True)]
        order = random.Random(seed)
        for number in range(operations):
            actor = order.choice(actors)
            actor.act()
            if number % 500 == 499:
                actor.compare_all()
        for actor in actors:
            actor.compare_all()
        assert {event.user for event in together.events()} == set(USERS)
        for own in alone:
            own.close()


def test_what_one_user_does_never_changes_anything_for_another() -> None:
    play(1_500, seed=0)


@pytest.mark.slow
def test_nor_in_a_hundred_thousand_operations() -> None:
    for seed in range(20):
        play(5_000, seed)


def test_undoing_what_is_another_users_is_not_possible_by_an_event_either() -> None:
    """An import may hold anything."""
    with Memory.open(None, embedder=EMBED) as memory:
        about = answered("r1")
        memory.record(about)
        memory.learn(correction(about, "yes", "c1"))
        before = memory.records(user="ada")
        memory.import_all([undone("c1", user="bob")])
        assert memory.records(user="ada") == before
        forged = Event(kind=EventKind.CORRECTION, user="bob", response="r1", body={})
        with pytest.raises(Exception, match=r"text|belongs"):
            memory.import_all([forged])
