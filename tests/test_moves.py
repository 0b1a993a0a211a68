"""Tasks merged and split: the fold, the memory, and what a caller can say by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memories import (
    EMBED,
    WEIGHER,
    answered,
    assert_consistent,
    correction,
    merged,
    note,
    rating,
    rule,
    split,
    undone,
)

import tta
from tta import errors
from tta.memory import Memory
from tta.memory.export import export_lines, import_events
from tta.memory.fold import State, fold
from tta.protocols import Sighting
from tta.testing import HashEmbedder
from tta.types import Event, RecordKind

TASKS = ("t", "u", "v")


def told(number: int, task: str, pattern: str = "p") -> list[Event]:
    """An answer, and three things that were said of it."""
    about = answered(
        f"r{number}",
        task=task,
        request=f"question {number}",
        pattern=pattern,
        answer="yes",
        experts=("frozen", "kernel"),
        margin=0.1 * number,
    )
    events = [
        about,
        correction(about, "no", f"c{number}"),
        rating(about, -0.5, f"g{number}"),
        note(about, f"note {number}", f"n{number}"),
    ]
    return [replace(event, time=float(number)) for event in events]


def ruled(task: str) -> Event:
    return replace(rule("Be brief.", task=task), time=9.0)


def views(state: State) -> tuple[object, ...]:
    """All of a user that others read, in its order."""
    user = state.users["ada"]
    trust = user.trust
    return (
        list(user.records.values()),
        list(user.past),
        user.ledger,
        user.sightings,
        user.repeated,
        [(trust.standing(task, WEIGHER), trust.worth(task)) for task in TASKS],
        list(trust.heard),
    )


HISTORY = [*told(1, "t", "p"), *told(2, "u", "q"), *told(3, "t", "q"), ruled("t")]


def test_a_merge_makes_it_all_one_task_as_if_it_had_always_been() -> None:
    now = fold([*HISTORY, merged("t", "u")], WEIGHER)
    always = fold(
        [*told(1, "u", "p"), *told(2, "u", "q"), *told(3, "u", "q"), ruled("u")],
        WEIGHER,
    )
    ours, theirs = now.users["ada"], always.users["ada"]
    assert ours.records == theirs.records
    assert ours.ledger == theirs.ledger
    assert ours.sightings.patterns == theirs.sightings.patterns
    assert ours.trust.weights == theirs.trust.weights
    assert ours.trust.standing("u", WEIGHER).answers == 3


def test_a_split_takes_what_came_by_its_patterns_and_leaves_the_rest() -> None:
    events = [*HISTORY, split("t", "new", "q", taught=["c3", "g3", "n3"])]
    user = fold(events, WEIGHER).users["ada"]
    tasks = {record.source: record.task for record in user.records.values()}
    assert tasks["c3"] == tasks["n3"] == "new"
    assert tasks["c1"] == tasks["g1"] == tasks["rule1"] == "t"
    assert user.sightings.patterns == {"p": "t", "q": "new"}
    assert user.trust.tallies["new"] == user.trust.tallies["t"]


def test_late_feedback_lands_where_its_answer_went() -> None:
    late = told(3, "t", "q")
    events = [*told(1, "t", "p"), late[0], split("t", "new", "q"), merged("t", "u"), late[1]]
    tasks = {r.source: r.task for r in fold(events).users["ada"].records.values()}
    assert tasks["c1"] == tasks["g1"] == "u"
    assert tasks["c3"] == "new"


def test_of_two_merged_cases_the_newest_wins_and_undo_brings_the_other_back() -> None:
    first = answered("r1", task="t")
    again = answered("r2", task="u")
    events = [first, correction(first, "old", "a"), again, correction(again, "new", "b")]
    both = fold([*events, merged("t", "u")]).users["ada"].records.values()
    assert [r.answer for r in both if r.kind is RecordKind.CASE] == ["new"]
    undo = fold([*events, merged("t", "u"), undone("m1")])
    assert views(undo) == views(fold(events))


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Answers and feedback; in between merges and splits, each undone at some time."""
    events: list[Event] = []
    open_: list[str] = []
    for number in range(draw(st.integers(1, 8))):
        task, pattern = draw(st.sampled_from(TASKS)), draw(st.sampled_from(["p", "q"]))
        events += told(number, task, pattern)
        kind = draw(st.sampled_from(["none", "merge", "split", "undo"]))
        if kind == "merge":
            into = draw(st.sampled_from([other for other in TASKS if other != task]))
            events.append(merged(task, into, id=f"m{number}"))
            open_.append(f"m{number}")
        if kind == "split":
            taught = [e.id for e in events if e.task == task and e.body.get("pattern") == pattern]
            events.append(split(task, f"new{number}", pattern, taught=taught, id=f"m{number}"))
            open_.append(f"m{number}")
        if kind == "undo" and open_:
            events.append(undone(open_.pop(draw(st.integers(0, len(open_) - 1)))))
    return [*events, *map(undone, draw(st.permutations(open_)))]


@settings(deadline=None, max_examples=50)
@given(histories())
def test_whatever_was_merged_and_split_undone_it_never_was(events: list[Event]) -> None:
    never = [event for event in events if event.id[0] in "rcgn" and "feedback" not in event.body]
    assert views(fold(events, WEIGHER)) == views(fold(never, WEIGHER))
    assert views(fold(events, WEIGHER, cap=2)) == views(fold(never, WEIGHER, cap=2))


def test_undoing_the_feedback_that_led_to_a_merge_undoes_the_merge() -> None:
    events = [*told(1, "t"), *told(2, "u")]
    undo = fold([*events, merged("t", "u", because="c2"), undone("c2")], WEIGHER)
    assert views(undo) == views(fold([*events, undone("c2")], WEIGHER))
    assert undo.users["ada"].undone == {"c2", "m1"}


@pytest.mark.parametrize(
    "event",
    [
        merged("t", "t"),
        merged("", "t"),
        split("t", "t", "p"),
        Event(kind=tta.types.EventKind.SPLIT, user="ada", task="t", body={"into": "u"}),
        Event(
            kind=tta.types.EventKind.SPLIT,
            user="ada",
            task="t",
            body={"into": "u", "patterns": [1], "taught": []},
        ),
    ],
)
def test_what_no_fold_could_read_is_not_learned(event: Event) -> None:
    with Memory.open(None, embedder=EMBED) as memory:
        with pytest.raises(errors.InvalidSetting):
            memory.learn(event)
        assert not list(memory.events())


def memory_of(folder: Path | None, events: Sequence[Event]) -> Memory:
    memory = Memory.open(folder, embedder=EMBED, weigher=WEIGHER, snapshot_every=3)
    for event in events:
        (memory.record if event.kind == "answered" else memory.learn)(event)
    return memory


def test_merges_and_splits_outlive_the_process_the_index_and_an_export(tmp_path: Path) -> None:
    events = [*HISTORY, merged("u", "t"), split("t", "new", "q", taught=["c3", "g3", "n3"])]
    vector = EMBED.embed(["question 3"])[0]
    with memory_of(tmp_path / "m", events) as memory:
        before = memory.state
    with Memory.open(tmp_path / "m", embedder=EMBED, weigher=WEIGHER) as again:
        assert again.state == before
        assert_consistent(again)
        found = again.nearest(vector, 9, user="ada", task="new", kind=RecordKind.CASE)
        assert [r.source for r, _ in found] == ["c3"]
        with Memory.open(None, embedder=EMBED, weigher=WEIGHER) as other:
            import_events(other, export_lines(again))
            assert other.state == again.state
        assert again.forget("ada")
        assert not again.users()


def test_a_merged_task_is_read_under_both_names() -> None:
    with memory_of(None, [*HISTORY, merged("t", "u")]) as memory:
        for read in (memory.records, memory.ledger, memory.standing):
            assert read(user="ada", task="t") == read(user="ada", task="u")
        vector = EMBED.embed(["question 1"])[0]
        found = memory.nearest(vector, 1, user="ada", task="t", kind=RecordKind.CASE)
        assert [r.source for r, _ in found] == ["c1"]
        assert {r.task for r in memory.records(user="ada", task="t")} == {"u"}


def test_what_is_answered_while_tasks_are_merged_goes_home_with_the_undo() -> None:
    with memory_of(None, [*told(1, "t", "p"), *told(2, "u", "q"), merged("t", "u")]) as memory:
        event = answered("r3", task="u", pattern="p")
        memory.record(replace(event, body={**event.body, "named": False}))
        memory.undo("m1", user="ada")
        assert memory.sightings(user="ada").patterns == {"p": "t", "q": "u"}


def test_what_came_by_new_patterns_after_a_split_joins_with_the_undo() -> None:
    parts = split("t", "new", "q", taught=["c2"])
    with memory_of(None, [*told(1, "t", "p"), *told(2, "t", "q"), parts]) as memory:
        memory.record(answered("r3", task="new", pattern="another"))
        memory.undo("s1", user="ada")
        assert set(memory.sightings(user="ada").patterns.values()) == {"t"}
        assert Sighting(pattern="another", task="t") in memory.sightings(user="ada").distinct


# --------------------------------------------------------------------------------- by hand


@pytest.fixture
def desk() -> tta.Adapted:
    """A chat without a model that was told two tasks, each twice."""
    chat = tta.wrap(None, embedder=HashEmbedder())
    for task, text, answer in (
        ("parcels", "Where is my parcel?", "amber"),
        ("parcels", "Has my parcel left?", "amber"),
        ("post", "Where is my letter?", "teal"),
        ("post", "Has my letter left?", "teal"),
    ):
        chat(text, task=task, output=["amber", "teal"]).correct(answer)
    return chat


def test_merged_by_hand_both_are_one_and_undo_gives_both_back(desk: tta.Adapted) -> None:
    before = dict(desk.tasks)
    merge = desk.tasks.merge("parcels", into="post")
    assert dict(desk.tasks["post"].answers) == {"amber": 2, "teal": 2}
    assert list(desk.tasks) == ["post"]
    assert "merged from parcels" in repr(desk.tasks)
    assert "parcels is post" in merge.reason
    desk.undo(merge)
    assert dict(desk.tasks) == before
    assert "merged" not in repr(desk.tasks)


def test_a_merged_task_answers_with_what_both_learned(desk: tta.Adapted) -> None:
    desk.tasks.merge("parcels", into="post")
    reply = desk("Has my parcel left?", task="post", output=["amber", "teal"])
    assert (reply.text, reply.task.name) == ("amber", "post")
    assert any(r.record.request == "Has my parcel left?" for r in reply.why.spoke_for)
    assert desk("Has my parcel left?", output=["amber", "teal"]).task.name == "post"


def test_late_feedback_on_an_answer_of_a_merged_task_counts_in_the_other(
    desk: tta.Adapted,
) -> None:
    reply = desk("Is my parcel lost?", task="parcels", output=["amber", "teal"])
    desk.tasks.merge("parcels", into="post")
    (case, *_) = reply.correct("amber").added
    assert case.task == "post"
    assert desk.tasks["post"].cases == 5


def test_naming_a_merged_task_says_that_it_is_one_of_its_own(desk: tta.Adapted) -> None:
    before = dict(desk.tasks)
    desk.tasks.merge("parcels", into="post")
    reply = desk("Where is my parcel?", task="parcels", output=["amber", "teal"])
    assert reply.task.name == "parcels"
    assert {r.record.task for r in reply.why.spoke_for} == {"parcels"}
    assert dict(desk.tasks) == before


def test_split_by_hand_each_part_keeps_its_own_and_undo_joins_them(desk: tta.Adapted) -> None:
    desk("Is there a stamp?", task="post", output=["amber", "teal"]).correct("amber")
    before = dict(desk.tasks)
    stamps = [p for p in desk.tasks.patterns("post") if "stamp" in p]
    split = desk.tasks.split("post", stamps, into="stamps")
    assert dict(desk.tasks["stamps"].answers) == {"amber": 1}
    assert dict(desk.tasks["post"].answers) == {"teal": 2}
    assert "split from post" in repr(desk.tasks)
    assert desk("Is there a stamp?", output=["amber", "teal"]).task.name == "stamps"
    desk.undo(split)
    assert dict(desk.tasks) == before


def test_naming_the_task_of_a_pattern_that_was_split_off_joins_them(desk: tta.Adapted) -> None:
    pattern = desk.tasks.patterns("post")[0]
    desk.tasks.split("post", [pattern])
    assert len(desk.tasks) == 3
    reply = desk("Where is my letter?", task="post", output=["amber", "teal"])
    assert reply.task.name == "post"
    assert list(desk.tasks) == ["parcels", "post"]


def test_explaining_under_a_merged_name_changes_nothing(desk: tta.Adapted) -> None:
    desk.tasks.merge("parcels", into="post")
    found = desk.explain("Where is my parcel?", task="parcels", output=["amber", "teal"])
    assert {r.record.task for r in found.recall.cases} == {"post"}
    assert list(desk.tasks) == ["post"]


def test_a_merge_of_one_user_is_no_other_users(desk: tta.Adapted) -> None:
    ben = desk.for_user("ben")
    ben("Where is my parcel?", task="parcels", output=["amber", "teal"]).correct("teal")
    before = dict(ben.tasks)
    desk.tasks.merge("parcels", into="post")
    assert dict(ben.tasks) == before
    with pytest.raises(errors.InvalidSetting, match="no task"):
        ben.tasks.merge("parcels", into="post")


def test_what_cannot_be_merged_or_split_is_refused_and_nothing_is_written(
    desk: tta.Adapted,
) -> None:
    events = len(list(desk.memory.events()))
    patterns = desk.tasks.patterns("post")
    wrong: tuple[tuple[str, Callable[[], object]], ...] = (
        ("no task 'lost'", lambda: desk.tasks.merge("lost", into="post")),
        ("no task 'lost'", lambda: desk.tasks.merge("post", into="lost")),
        ("with itself", lambda: desk.tasks.merge("post", into="post")),
        ("no task 'lost'", lambda: desk.tasks.split("lost", ["a"])),
        ("no pattern", lambda: desk.tasks.split("post", ["never asked"])),
        ("no pattern", lambda: desk.tasks.split("post", patterns[0])),
        ("One side", lambda: desk.tasks.split("post", patterns)),
        ("One side", lambda: desk.tasks.split("post", [])),
        ("a task already", lambda: desk.tasks.split("post", patterns[:1], into="parcels")),
        ("printable", lambda: desk.tasks.split("post", patterns[:1], into=" ")),
    )
    for match, act in wrong:
        with pytest.raises(errors.InvalidSetting, match=match):
            act()
    assert len(list(desk.memory.events())) == events
