"""Threads on one memory: who reads waits for no embedder and no disk, and every writer hears what
its own event has changed."""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from memories import (
    WEIGHER,
    answered,
    assert_consistent,
    correction,
    files_holding,
    near,
    rule,
    teach,
)
from numpy.typing import NDArray

from tta import errors
from tta.memory import Memory
from tta.memory.journal import Written
from tta.testing import HashEmbedder
from tta.types import Event, Learned, RecordKind

_T = TypeVar("_T")
_LONG = 60.0
"""Seconds after which a thread counts as stuck."""


class Slow(HashEmbedder):
    """Counts the texts it embeds; once `hold` was called it waits for `go` at the text."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.there, self.go = threading.Event(), threading.Event()
        self._held = ""

    def hold(self, text: str) -> None:
        self._held = text
        self.seen.clear()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.seen += texts
        if self._held in texts:
            self.there.set()
            assert self.go.wait(_LONG)
        return super().embed(texts)


class Running(threading.Thread):
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.problem: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._call()
        except BaseException as problem:
            self.problem = problem

    def finish(self) -> None:
        """Wait for it; raises what it raised."""
        self.join(_LONG)
        assert not self.is_alive(), "stuck"
        if self.problem is not None:
            raise self.problem


def elsewhere(call: Callable[[], _T]) -> _T:
    """What a call returns in another thread, which must come to its end."""
    found: list[_T] = []
    Running(lambda: found.append(call())).finish()
    return found[0]


@pytest.fixture
def embedder() -> Slow:
    return Slow()


@pytest.fixture(params=["in RAM", "in a folder", "behind a URL"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    places = {
        "in RAM": None,
        "in a folder": str(tmp_path / "m.tta"),
        "behind a URL": f"sqlite:///{tmp_path / 'shared.sqlite'}",
    }
    return places[str(request.param)]


@pytest.fixture
def memory(where: str | None, embedder: Slow) -> Iterator[Memory]:
    with Memory.open(where, embedder=embedder, weigher=WEIGHER, flush_every=4) as memory:
        yield memory


def recall(memory: Memory) -> list[str]:
    """All that a step asks for, and what it found."""
    memory.sync()
    memory.standing(user="ada", task="t")
    memory.settings(user="ada", task="t")
    memory.vectors(memory.records(user="ada", task="t", kind=RecordKind.CASE))
    return near(memory, "question number 1")


def imported(memory: Memory) -> None:
    about = answered("r9", request="slow")
    memory.import_all([about, correction(about, "Imported.", "c9")])


def learned(memory: Memory) -> None:
    memory.learn(correction(answered("r1", request="slow"), "Learned.", "c9"))


def undone(memory: Memory) -> None:
    memory.undo("c2", user="ada")


def promoted(memory: Memory) -> None:
    memory.promote(to="team", among=["ada"], at_least=1)


@pytest.mark.parametrize("write", [learned, undone, promoted, imported])
def test_a_recall_does_not_wait_for_what_is_being_embedded(
    memory: Memory, embedder: Slow, write: Callable[[Memory], None]
) -> None:
    teach(memory)
    about = answered("r1", request="slow")
    memory.record(about)
    for number in (1, 2):
        memory.learn(correction(about, f"answer {number}", f"c{number}"))
    embedder.hold("slow")
    writer = Running(lambda: write(memory))
    assert embedder.there.wait(_LONG)
    if write is imported:  # it is in the journal: who syncs waits for it
        assert elsewhere(lambda: near(memory, "question number 1")) == ["Ask."]
    else:
        assert elsewhere(lambda: recall(memory)) == ["Ask."]
    embedder.go.set()
    writer.finish()
    assert embedder.seen.count("slow") == 1
    assert_consistent(memory)


@pytest.mark.parametrize("where", ["in a folder", "behind a URL"], indirect=True)
def test_a_recall_does_not_wait_for_what_others_wrote(
    memory: Memory, where: str, embedder: Slow
) -> None:
    teach(memory)
    with Memory.open(where, embedder=None, weigher=WEIGHER) as other:
        imported(other)
    embedder.hold("slow")
    syncing = Running(memory.sync)
    assert embedder.there.wait(_LONG)
    assert elsewhere(lambda: near(memory, "question number 1")) == ["Ask."]
    embedder.go.set()
    syncing.finish()
    assert near(memory, "slow") == ["Imported."]
    assert embedder.seen.count("slow") == 1
    assert_consistent(memory)


@pytest.mark.parametrize("where", ["in a folder"], indirect=True)
def test_a_recall_does_not_wait_for_a_commit(
    memory: Memory, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(memory)
    about = answered("r1")
    memory.record(about)
    appending = threading.Event()
    append_all = memory._journal.append_all

    def told(events: list[Event]) -> Written:
        appending.set()
        return append_all(events)

    monkeypatch.setattr(memory._journal, "append_all", told)
    other = sqlite3.connect(Path(where) / "journal.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    learning = Running(lambda: memory.learn(correction(about, "Wait.")))
    assert appending.wait(_LONG)
    assert elsewhere(lambda: recall(memory)) == ["Ask."]
    assert elsewhere(lambda: len(list(memory.events("ada")))) == 3
    assert elsewhere(lambda: memory.event("r1")) == about
    assert learning.is_alive()
    other.execute("ROLLBACK")
    other.close()
    learning.finish()
    assert near(memory, "Where is my parcel?") == ["Wait."]
    assert_consistent(memory)


def test_a_writer_whose_event_another_thread_has_folded_hears_what_it_changed(
    memory: Memory, embedder: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = answered(request="slow")
    memory.record(about)
    append_all, folded = memory._journal.append_all, list[int]()

    def overtaken(events: list[Event]) -> Written:
        written = append_all(events)
        folded.append(elsewhere(memory.sync))
        return written

    monkeypatch.setattr(memory._journal, "append_all", overtaken)
    first = memory.learn(correction(about, "first", "c1"))
    second = memory.learn(correction(about, "second", "c2"))
    again = memory.learn(correction(about, "second", "c2"))
    back = memory.undo("c2", user="ada")
    [shared] = memory.promote(to="team", among=["ada"], at_least=1)
    assert folded == [1, 1, 0, 1, 1]
    assert [record.answer for record in first.added] == ["first", "No idea."]
    assert {record.answer for record in second.removed} == {"first", "No idea."}
    assert (again.added, again.removed) == ((), ())
    assert {record.answer for record in back.added} == {"first", "No idea."}
    assert [record.answer for record in shared.added] == ["first"]
    # Once by each of the five writers, and never by who overtook it.
    assert embedder.seen.count("slow") == 5
    assert_consistent(memory)


def test_threads_that_learn_recall_and_sync_get_their_own_changes_and_leave_one_state(
    memory: Memory, where: str | None
) -> None:
    told: list[Learned] = []
    over = threading.Event()

    def work(user: str, first: int) -> None:
        for number in range(first, first + 12):
            about = answered(f"{user}{number}", user=user, request=f"question number {number % 5}")
            memory.record(about)
            told.append(memory.learn(correction(about, f"answer {number}", f"c-{about.id}")))
            if number % 3 == 0:
                told.append(memory.undo(f"c-{about.id}", user=user))

    def look() -> None:
        while not over.is_set():
            memory.sync()
            near(memory, "question number 3", user="bob", k=9)
            memory.vectors(memory.records(user="ada"))

    lookers = [Running(look) for _ in range(3)]
    # Two threads for one user: what they learn replaces what the other has learned.
    writers = [Running(partial(work, user, n)) for user in ("ada", "bob") for n in (0, 50)]
    for writer in writers:
        writer.finish()
    over.set()
    for looker in lookers:
        looker.finish()
    learned_from = [one.feedback for one in told if one.added[:1] and _is_of(one)]
    assert sorted(learned_from) == sorted(e.id for e in memory.events() if e.id.startswith("c-"))
    undone_of = [one.feedback for one in told if "undone" in one.reason]
    assert len(undone_of) == len(set(undone_of)) == 16
    assert memory.standing(user="ada", task="t").experienced
    assert_consistent(memory)
    if where is not None:
        memory.close()
        with Memory.open(where, embedder=HashEmbedder(), weigher=WEIGHER) as again:
            assert again.state == memory.state
            assert_consistent(again)


def _is_of(told: Learned) -> bool:
    return all(record.source == told.feedback for record in told.added)


def test_the_same_feedback_from_many_threads_changes_something_once(memory: Memory) -> None:
    about = answered()
    memory.record(about)
    told: list[Learned] = []
    start = threading.Barrier(6)

    def work() -> None:
        start.wait(_LONG)
        told.append(memory.learn(correction(about, "Ask.")))

    for running in [Running(work) for _ in range(6)]:
        running.finish()
    assert sorted(len(one.added) for one in told) == [0, 0, 0, 0, 0, 2]
    assert_consistent(memory)


def test_forgetting_and_rebuilding_go_on_among_threads(memory: Memory, where: str | None) -> None:
    over = threading.Event()
    number = iter(range(10**6))

    def work() -> None:
        while not over.is_set():
            memory.learn(rule(f"rule {next(number) % 3}", user="bob", id=f"rule{next(number)}"))
            teach(memory, next(number), user="bob")
            list(memory.events("ada"))
            near(memory, "question number 1", k=5)

    workers = [Running(work) for _ in range(3)]
    for _ in range(3):
        teach(memory, text="plover")
        memory.rebuild()
        assert memory.forget("ada") >= 2
        assert near(memory, "question number 1") == []
        if where is not None and "://" not in where:
            assert files_holding(Path(where), b"plover") == []
    over.set()
    for worker in workers:
        worker.finish()
    assert_consistent(memory)


def test_closing_among_threads_ends_them_and_loses_nothing(
    memory: Memory, where: str | None
) -> None:
    acknowledged: list[str] = []

    def work(first: int) -> None:
        for number in range(first, 10**6):
            acknowledged.append(f"c-{teach(memory, number, user='bob').id}")

    workers = [Running(partial(work, n)) for n in (0, 10**5, 2 * 10**5)]
    while len(acknowledged) < 20:
        recall(memory)
    memory.close()
    for worker in workers:
        with pytest.raises(errors.StoreClosed):
            worker.finish()
    if where is not None:
        with Memory.open(where, embedder=HashEmbedder(), weigher=WEIGHER) as again:
            assert set(acknowledged) <= {event.id for event in again.events()}
            assert_consistent(again)


class Failing(Slow):
    """Fails when it is let go on."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        held = self._held in texts
        found = super().embed(texts)
        if held:
            raise errors.ModelError("the embedder is out of order")
        return found


def test_an_embedder_that_fails_while_others_recall_leaves_nothing_behind() -> None:
    embedder = Failing()
    with Memory.open(None, embedder=embedder, weigher=WEIGHER) as memory:
        teach(memory)
        about = answered("r1", request="slow")
        memory.record(about)
        before = list(memory.events())
        embedder.hold("slow")
        learning = Running(lambda: learned(memory))
        assert embedder.there.wait(_LONG)
        assert elsewhere(lambda: recall(memory)) == ["Ask."]
        embedder.go.set()
        with pytest.raises(errors.ModelError):
            learning.finish()
        assert list(memory.events()) == before
        embedder.hold("")
        learned(memory)
        assert near(memory, "slow") == ["Learned."]
        assert_consistent(memory)
