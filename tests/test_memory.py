"""The memory as a step sees it, with real SQLite and real Chroma on disk."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from memories import (
    EMBED,
    answered,
    assert_consistent,
    correction,
    edit,
    files_holding,
    near,
    note,
    preference,
    rating,
    rule,
    teach,
)

from tta import errors
from tta.memory import Memory
from tta.protocols import Records, Seen
from tta.types import Event, EventKind, RecordKind


@pytest.fixture(params=["in RAM", "in a folder", "behind a URL"])
def memory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Memory]:
    places = {
        "in RAM": None,
        "in a folder": tmp_path / "m.tta",
        "behind a URL": f"sqlite:///{tmp_path / 'shared.sqlite'}",
    }
    with Memory.open(places[request.param], embedder=EMBED) as memory:
        yield memory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "m.tta"


def test_it_is_what_the_step_asks_for(memory: Memory) -> None:
    records: Records = memory
    seen: Seen = memory
    assert list(records.records(user="ada")) == []
    assert seen.sightings(user="ada").patterns == {}


def test_a_correction_is_found_at_once(memory: Memory) -> None:
    about = answered()
    assert memory.record(about)
    learned = memory.learn(correction(about, "Ask."))
    assert learned.feedback == "c1"
    assert [(r.kind, r.answer) for r in learned.added] == [
        (RecordKind.CASE, "Ask."),
        (RecordKind.REJECTED, "No idea."),
    ]
    assert learned.reason
    assert near(memory, "Where is my parcel?") == ["Ask."]
    assert_consistent(memory)


def test_every_kind_of_feedback_is_learned_and_says_why(memory: Memory) -> None:
    about = answered()
    memory.record(about)
    for event in (
        rating(about, 1),
        correction(about, "A"),
        edit(about, "B"),
        preference(about, "A", "B"),
        note(about, "the newest"),
        rule("Be brief."),
    ):
        learned = memory.learn(event)
        assert learned.added, event.kind
        assert learned.reason, event.kind
        assert_consistent(memory)


def test_the_same_feedback_twice_is_one(memory: Memory) -> None:
    about = answered()
    memory.record(about)
    memory.learn(correction(about, "Ask."))
    before = list(memory.events())
    again = memory.learn(correction(about, "Ask."))
    assert (again.added, again.removed) == ((), ())
    assert "already known" in again.reason
    assert list(memory.events()) == before


def test_the_same_id_for_something_else_is_refused(memory: Memory) -> None:
    about = answered()
    memory.record(about)
    memory.learn(correction(about, "Ask."))
    with pytest.raises(errors.ConflictingId):
        memory.learn(correction(about, "Wait."))
    assert near(memory, "Where is my parcel?") == ["Ask."]
    assert_consistent(memory)


def test_bad_feedback_changes_nothing(memory: Memory) -> None:
    about = answered()
    memory.record(about)
    before = list(memory.events())
    bad = {
        errors.UnknownResponse: correction(answered("r2"), "Ask."),
        errors.WrongUser: correction(answered("r1", user="bob"), "Ask."),
        errors.InvalidText: correction(about, "a\ud800"),
        errors.InvalidSetting: rating(about, 7),
    }
    for error, event in bad.items():
        with pytest.raises(error):
            memory.learn(event)
    with pytest.raises(errors.InvalidSetting):
        memory.learn(about)
    with pytest.raises(errors.InvalidSetting):
        memory.learn(Event(kind=EventKind.NOTE, user="ada", body={"pattern": "p", "text": "t"}))
    with pytest.raises(errors.InvalidSetting):
        memory.record(correction(about, "Ask."))
    assert list(memory.events()) == before
    assert_consistent(memory)


@pytest.mark.parametrize("text", ["nul \0 inside", "שלום עליכם", "x" * 1_000_000])
def test_any_writable_text_is_remembered(memory: Memory, text: str) -> None:
    about = answered(request=text)
    memory.record(about)
    memory.learn(correction(about, text + "!"))
    assert near(memory, text) == [text + "!"]


def test_undo_brings_back_what_was_replaced(memory: Memory) -> None:
    about = teach(memory, text="first")
    memory.learn(correction(about, "second", "c2"))
    assert near(memory, "question number 1") == ["second"]
    undone = memory.undo("c2", user="ada")
    assert near(memory, "question number 1") == ["first"]
    assert {r.answer for r in undone.removed} >= {"second"}
    assert {r.answer for r in undone.added} >= {"first"}
    assert_consistent(memory)
    again = memory.undo("c2", user="ada")
    assert (again.added, again.removed) == ((), ())
    assert "undone" in memory.learn(correction(about, "second", "c2")).reason


def test_undoing_what_is_not_there_or_not_yours_is_refused(memory: Memory) -> None:
    about = teach(memory)
    for unknown in ("nothing", about.id):
        with pytest.raises(errors.UnknownFeedback):
            memory.undo(unknown, user="ada")
    with pytest.raises(errors.WrongUser):
        memory.undo("c-ada1", user="bob")
    assert near(memory, "question number 1") == ["Ask."]


def test_one_users_memory_is_never_shown_to_another(memory: Memory) -> None:
    teach(memory, user="ada", text="ada's answer")
    teach(memory, user="bob", text="bob's answer")
    memory.learn(rule("For bob.", user="bob"))
    assert near(memory, "question number 1", user="ada", k=10) == ["ada's answer"]
    assert near(memory, "question number 1", user="bob", k=10) == ["bob's answer"]
    assert near(memory, "question number 1", user="eve", k=10) == []
    assert {r.user for r in memory.records(user="ada")} == {"ada"}
    memory.forget("ada")
    assert near(memory, "question number 1", user="bob", k=10) == ["bob's answer"]
    assert_consistent(memory)


def test_records_are_of_the_task_and_of_every_task_oldest_first(memory: Memory) -> None:
    teach(memory, 1)
    memory.learn(rule("a", id="a", task="t"))
    memory.learn(rule("b", id="b"))
    memory.learn(rule("c", id="c", task="other"))
    memory.learn(rule("d", id="d", task="t"))

    def rules(task: str | None) -> list[str]:
        return [r.answer for r in memory.records(user="ada", task=task, kind=RecordKind.RULE)]

    assert rules("t") == ["a", "b", "d"]
    assert rules("") == ["b"]
    assert rules(None) == ["a", "b", "c", "d"]
    assert len(memory.records(user="ada", task="t")) == 5
    assert len(memory.records(user="ada")) == 6


def test_the_nearest_are_exactly_the_nearest(memory: Memory) -> None:
    for number in range(60):
        teach(memory, number, text=f"answer {number}")
    vector = EMBED.embed(["question number 17"])[0]
    found = memory.nearest(vector, 60, user="ada", task="t", kind=RecordKind.CASE)
    texts = [f"question number {n}" for n in range(60)]
    cosines = EMBED.embed(texts) @ vector
    order = np.argsort(-cosines, kind="stable")
    assert [r.request for r, _ in found] == [texts[i] for i in order]
    assert [score for _, score in found] == pytest.approx(cosines[order], abs=1e-6)


def test_what_an_undo_brings_back_stands_where_it_stood(folder: Path) -> None:
    about = [answered(f"r{n}", request="is it red", answer=f"no {n}") for n in range(4)]

    def refused(memory: Memory) -> list[str]:
        vector = EMBED.embed(["is it red"])[0]
        found = memory.nearest(vector, 9, user="ada", task="t", kind=RecordKind.REJECTED)
        return [record.answer for record, _ in found]

    with Memory.open(folder, embedder=EMBED) as memory:
        for number, event in enumerate(about):
            memory.record(event)
            memory.learn(rating(event, -1.0, f"bad{number}"))
        assert refused(memory) == ["no 0", "no 1", "no 2", "no 3"]
        memory.learn(rating(about[1], 1.0, "good1"))
        assert refused(memory) == ["no 0", "no 2", "no 3"]
        memory.undo("good1", user="ada")
        assert refused(memory) == ["no 0", "no 1", "no 2", "no 3"]
    with Memory.open(folder, embedder=EMBED) as memory:
        assert refused(memory) == ["no 0", "no 1", "no 2", "no 3"]


def test_the_records_of_a_task_and_of_all_tasks_are_merged_oldest_first(memory: Memory) -> None:
    for number, task in enumerate(["t", "", "u", "", "t"]):
        about = answered(f"r{number}", task=task, request="is it red", pattern=f"is it {number}")
        memory.record(about)
        memory.learn(note(about, f"note {number}", f"n{number}"))
    found = memory.records(user="ada", task="t", kind=RecordKind.NOTE)
    assert [record.answer for record in found] == ["note 0", "note 1", "note 3", "note 4"]
    vector = EMBED.embed(["is it 4"])[0]
    nearest = memory.nearest(vector, 9, user="ada", task="t", kind=RecordKind.NOTE)
    assert [r.answer for r, _ in nearest] == ["note 4", "note 0", "note 1", "note 3"]
    of_all = memory.nearest(vector, 9, user="ada", task=None, kind=RecordKind.NOTE)
    assert len(of_all) == 5


def test_the_vectors_of_records_are_those_of_their_requests(memory: Memory) -> None:
    for user in ("ada", "bob"):
        for number in range(20):
            teach(memory, number, user=user)
    records = [*memory.records(user="bob"), *memory.records(user="ada")][::-1]
    gone = memory.records(user="ada")[3]
    memory.undo(gone.source, user="ada")
    found = memory.vectors(records)
    assert np.array_equal(found, EMBED.embed([record.request for record in records]))
    assert memory.vectors([]).shape == (0, EMBED.dim)


def test_vectors_need_an_embedder(folder: Path) -> None:
    with Memory.open(folder, embedder=EMBED) as memory:
        teach(memory)
    with Memory.open(folder, embedder=None) as memory, pytest.raises(errors.InvalidSetting):
        memory.vectors(memory.records(user="ada"))


def test_patterns_are_one_object_until_the_user_is_forgotten(memory: Memory) -> None:
    teach(memory, 1)
    before = memory.sightings(user="ada")
    teach(memory, 2)
    memory.undo("c-ada1", user="ada")
    assert memory.sightings(user="ada") is before
    memory.forget("ada")
    teach(memory, 3)
    assert memory.sightings(user="ada") is not before


def test_forgetting_leaves_no_text_and_no_vector(folder: Path) -> None:
    secret = "plover egg " * 20
    with Memory.open(folder, embedder=EMBED, flush_every=4) as memory:
        for number in range(20):
            about = answered(f"r{number}", request=f"{secret}{number}")
            memory.record(about)
            memory.learn(correction(about, f"{secret}!", f"c{number}"))
        teach(memory, user="bob")
        vector = EMBED.embed([f"{secret}7"])[0].tobytes()
        assert files_holding(folder, b"plover")
        assert files_holding(folder, vector)
        assert memory.forget("ada") == 40
        assert memory.users() == ("bob",)
        assert files_holding(folder, b"plover") == []
        assert files_holding(folder, vector) == []
        assert_consistent(memory)
    assert files_holding(folder, b"plover") == []
    with Memory.open(folder, embedder=EMBED) as memory:
        assert near(memory, "question number 1", user="bob") == ["Ask."]
        assert_consistent(memory)


def test_forgetting_without_an_embedder_erases_vectors_too(folder: Path) -> None:
    with Memory.open(folder, embedder=EMBED) as memory:
        teach(memory)
    vector = EMBED.embed(["question number 1"])[0].tobytes()
    assert files_holding(folder, vector)
    with Memory.open(folder, embedder=None) as memory:
        assert memory.forget("ada") == 2
    assert files_holding(folder, vector) == []


def test_rebuilding_embeds_every_live_record_again(memory: Memory) -> None:
    for number in range(10):
        teach(memory, number)
    memory.learn(rule("Be brief."))
    memory.undo("c-ada3", user="ada")
    assert memory.rebuild() == 18
    assert_consistent(memory)
    assert near(memory, "question number 7") == ["Ask."]


def test_threads_may_learn_at_once(memory: Memory) -> None:
    def work(user: str) -> None:
        for number in range(15):
            teach(memory, number, user=user)
            near(memory, "question number 3", user=user)
            list(memory.events(user))

    failed: list[BaseException] = []

    def guarded(user: str) -> None:
        try:
            work(user)
        except BaseException as problem:
            failed.append(problem)

    threads = [threading.Thread(target=guarded, args=(user,)) for user in ("ada", "bob", "eve")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(list(memory.events())) == 90
    assert_consistent(memory)


def test_a_closed_memory_says_so(memory: Memory) -> None:
    memory.close()
    memory.close()
    with pytest.raises(errors.StoreClosed):
        memory.record(answered())
    with pytest.raises(errors.StoreClosed):
        memory.sync()
