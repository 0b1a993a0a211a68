"""What feedback adds up to: which record is made, which replaces which, and exact undo."""

import math
from dataclasses import replace

import pytest
from memories import (
    WEIGHER,
    answered,
    correction,
    edit,
    merged,
    note,
    ordered,
    preference,
    rating,
    reading,
    rule,
    split,
    undone,
)

from tta.memory.fold import State, apply, fold
from tta.types import Event, EventKind, Json, Record, RecordKind

ASKED = answered("r1", answer="No idea.")
PROMOTED: dict[str, Json] = {"request": "a", "text": "b", "users": ["ada", "bob"]}


def live(*events: Event, user: str = "ada") -> list[tuple[str, str, str]]:
    """(kind, answer, record id) of what is live, oldest first."""
    state = fold(events).users.get(user)
    return [] if state is None else [(r.kind, r.answer, r.id) for r in state.records.values()]


def test_an_answer_alone_teaches_its_pattern_and_no_record() -> None:
    state = fold([ASKED]).users["ada"]
    assert state.sightings.patterns == {"where is my ...": "t"}
    assert state.records == {}


def test_patterns_are_oldest_first_and_know_their_newest_task() -> None:
    events = [
        answered("r1", pattern="b", task="one"),
        answered("r2", pattern="a", task="two"),
        answered("r3", pattern="b", task="three"),
    ]
    patterns = fold(events).users["ada"].sightings.patterns
    assert list(patterns.items()) == [("b", "three"), ("a", "two")]


def test_a_correction_is_a_case_and_refuses_what_was_said() -> None:
    assert live(ASKED, correction(ASKED, "Ask.")) == [
        ("case", "Ask.", "c1+"),
        ("rejected", "No idea.", "c1-"),
    ]


def test_a_correction_that_repeats_what_was_said_refuses_nothing() -> None:
    assert live(ASKED, correction(ASKED, "No idea. ")) == [("case", "No idea. ", "c1+")]


def test_a_correction_of_an_empty_answer_refuses_nothing() -> None:
    empty = answered(answer="")
    assert live(empty, correction(empty, "Ask.")) == [("case", "Ask.", "c1+")]


def test_a_record_says_where_it_came_from() -> None:
    event = correction(ASKED, "Ask.")
    assert fold([ASKED, event]).users["ada"].records["c1+"] == Record(
        id="c1+",
        kind=RecordKind.CASE,
        user="ada",
        task="t",
        request="Where is my parcel?",
        answer="Ask.",
        source="c1",
        created=event.time,
    )


def test_an_edit_is_a_correction_to_its_result() -> None:
    assert live(ASKED, edit(ASKED, "Some idea.")) == [
        ("case", "Some idea.", "e1+"),
        ("rejected", "No idea.", "e1-"),
    ]


def test_a_preference_accepts_one_and_refuses_the_other() -> None:
    assert live(ASKED, preference(ASKED, "A", "B")) == [
        ("case", "A", "p1+"),
        ("rejected", "B", "p1-"),
    ]


@pytest.mark.parametrize(
    ("value", "made"),
    [(1.0, ("case", 1.0)), (0.25, ("case", 0.25)), (-0.5, ("rejected", 0.5)), (0.0, None)],
)
def test_a_reward_is_a_case_or_a_refusal_by_its_sign(
    value: float, made: tuple[str, float] | None
) -> None:
    records = fold([ASKED, rating(ASKED, value)]).users["ada"].records.values()
    assert [(r.kind, r.weight) for r in records] == ([] if made is None else [made])


def test_the_newest_note_on_a_pattern_wins() -> None:
    other = answered("r2", pattern="what is ...")
    events = [
        ASKED,
        other,
        note(ASKED, "one", "n1"),
        note(other, "x", "n2"),
        note(ASKED, "two", "n3"),
    ]
    assert live(*events) == [("note", "x", "n2?"), ("note", "two", "n3?")]


def test_a_note_is_found_by_its_pattern() -> None:
    records = fold([ASKED, note(ASKED, "one")]).users["ada"].records
    assert records["n1?"].request == "where is my ..."


def test_the_same_rule_again_is_one_rule_and_others_stand_beside_it() -> None:
    events = [
        rule("Be brief.", id="a"),
        rule("Be kind.", id="b"),
        rule("Be brief.", id="c", task="t"),
        rule("Be brief.", id="d"),
    ]
    assert [id for _, _, id in live(*events)] == ["b!", "c!", "d!"]


def test_a_request_has_one_accepted_answer_the_newest() -> None:
    first, second = correction(ASKED, "Ask.", "c1"), correction(ASKED, "Wait.", "c2")
    assert live(ASKED, first, second) == [("case", "Wait.", "c2+"), ("rejected", "No idea.", "c2-")]


def test_an_answer_refused_and_then_accepted_is_accepted() -> None:
    assert live(ASKED, rating(ASKED, -1, "a"), rating(ASKED, 1, "b")) == [
        ("case", "No idea.", "b+")
    ]


def test_an_answer_accepted_and_then_refused_is_refused() -> None:
    assert live(ASKED, rating(ASKED, 1, "a"), rating(ASKED, -1, "b")) == [
        ("rejected", "No idea.", "b-")
    ]


def test_an_answer_refused_twice_is_refused_once() -> None:
    assert live(ASKED, rating(ASKED, -1, "a"), rating(ASKED, -0.5, "b")) == [
        ("rejected", "No idea.", "b-")
    ]


def test_the_same_request_in_another_task_is_another_request() -> None:
    other = answered("r2", task="u")
    assert live(ASKED, other, correction(ASKED, "A", "a"), correction(other, "B", "b")) == [
        ("case", "A", "a+"),
        ("rejected", "No idea.", "a-"),
        ("case", "B", "b+"),
        ("rejected", "No idea.", "b-"),
    ]


def test_users_do_not_replace_each_others_records() -> None:
    bobs = answered("r2", user="bob")
    events = [ASKED, bobs, correction(ASKED, "A", "a"), correction(bobs, "B", "b")]
    assert [a for _, a, _ in live(*events)] == ["A", "No idea."]
    assert [a for _, a, _ in live(*events, user="bob")] == ["B", "No idea."]


# --------------------------------------------------------------------------------- undo

HISTORIES = {
    "a correction": [correction(ASKED, "A", "x")],
    "a correction over a correction": [correction(ASKED, "A", "a"), correction(ASKED, "B", "x")],
    "a correction under a correction": [correction(ASKED, "A", "x"), correction(ASKED, "B", "b")],
    "a refusal of what was accepted": [rating(ASKED, 1, "a"), rating(ASKED, -1, "x")],
    "an acceptance of what was refused": [rating(ASKED, -1, "a"), rating(ASKED, 1, "x")],
    "the middle of three": [
        correction(ASKED, "A", "a"),
        preference(ASKED, "B", "A", "x"),
        correction(ASKED, "A", "c"),
    ],
    "a note over a note": [note(ASKED, "one", "a"), note(ASKED, "two", "x")],
    "a rule said again": [rule("Be kind.", id="a"), rule("No.", id="b"), rule("Be kind.", id="x")],
    "a reward of nothing": [rating(ASKED, 0, "x")],
}  # fmt: skip


@pytest.mark.parametrize("name", HISTORIES)
def test_undo_is_as_if_the_feedback_had_never_been_given(name: str) -> None:
    history = HISTORIES[name]
    without = fold([ASKED, *(e for e in history if e.id != "x")])
    undo = fold([ASKED, *history, undone("x")])
    ada = undo.users["ada"]
    assert ada.records == without.users["ada"].records
    assert ordered(undo) == ordered(without)
    assert ada.made == without.users["ada"].made
    assert ada.ledger == without.users["ada"].ledger
    assert ada.undone == {"x"}


@pytest.mark.parametrize("name", HISTORIES)
def test_undo_reports_what_it_brought_back_and_took_away(name: str) -> None:
    state = fold([ASKED, *HISTORIES[name]])
    before = dict(state.users["ada"].records)
    change = apply(state, undone("x"))
    assert {r.id for r in change.removed} <= before.keys()
    for record in change.removed:
        del before[record.id]
    before.update({r.id: r for r in change.added})
    assert before == state.users["ada"].records


def test_undo_twice_is_undo_once() -> None:
    corrected = correction(ASKED, "A")
    once = fold([ASKED, corrected, undone("c1")])
    twice = fold([ASKED, corrected, undone("c1"), undone("c1")])
    once.users["ada"].counts[EventKind.UNDONE] += 1
    assert once == twice


def test_an_undo_can_not_be_undone() -> None:
    first = undone("c1")
    assert live(ASKED, correction(ASKED, "A"), first, undone(first.id)) == []


def test_undoing_another_users_feedback_changes_nothing() -> None:
    assert len(live(ASKED, correction(ASKED, "A"), undone("c1", user="bob"))) == 2


def test_forgetting_empties_one_user_and_no_other() -> None:
    bobs = answered("r2", user="bob")
    his = [bobs, correction(bobs, "B", "b")]
    forgotten = Event(kind=EventKind.FORGOTTEN, user="ada", body={"events": 2})
    state = fold([ASKED, correction(ASKED, "A", "a"), *his, forgotten])
    assert list(state.users) == ["bob"]
    assert state == fold(his)


def test_what_is_learned_after_forgetting_is_kept() -> None:
    forgotten = Event(kind=EventKind.FORGOTTEN, user="ada", body={"events": 2})
    assert [a for _, a, _ in live(ASKED, correction(ASKED, "A"), forgotten, rule("Be brief."))] == [
        "Be brief."
    ]


def test_every_kind_of_event_can_be_folded_and_says_why() -> None:
    events = [
        ASKED,
        rating(ASKED, 1),
        correction(ASKED, "A"),
        edit(ASKED, "B"),
        preference(ASKED, "A", "B"),
        note(ASKED, "n"),
        rule("r"),
        reading("book", "one"),
        Event(kind=EventKind.PROMOTED, user="team", body={**PROMOTED}),
        freed("f"),
        merged("t", "u"),
        split("u", "v", "where is my ..."),
        undone("c1"),
        Event(kind=EventKind.FORGOTTEN, user="ada"),
    ]
    assert {e.kind for e in events} == set(EventKind)
    state = State()
    assert all(apply(state, event).reason for event in events)
    assert state == State()


# ------------------------------------------------------------------------------- weights of experts

WEIGHED = answered("r1", answer="yes", experts=("frozen", "kernel"), margin=0.2)
SAID: dict[str, list[Event]] = {
    "right": [rating(WEIGHED, 1.0)],
    "wrong": [rating(WEIGHED, -1.0)],
    "a reward": [rating(WEIGHED, 0.3)],
    "a correction": [correction(WEIGHED, "no")],
    "an edit": [edit(WEIGHED, "no")],
    "a preference": [preference(WEIGHED, "no", "yes")],
    "two of them": [rating(WEIGHED, -1.0), correction(WEIGHED, "maybe")],
}


@pytest.mark.parametrize("name", SAID)
def test_feedback_moves_the_weights_of_its_task_and_of_all_tasks(name: str) -> None:
    trust = fold([WEIGHED, *SAID[name]], WEIGHER).users["ada"].trust
    assert trust.weights["t"].feedback == trust.weights[""].feedback == len(SAID[name])
    assert trust.weights["t"].cells.keys() == {"frozen", "kernel"}
    assert "t" in trust.tallies
    whole = trust.weights[""]
    begun = WEIGHER.begin(whole)
    assert trust.standing("u", WEIGHER).weights == WEIGHER.believed(begun, whole) != begun
    assert trust.standing("t", WEIGHER).weights == trust.weights["t"]  # all there is is its own


@pytest.mark.parametrize("name", SAID)
def test_weights_after_an_undo_are_as_if_nothing_had_been_said(name: str) -> None:
    other = [rating(WEIGHED, 1.0, "before"), rating(WEIGHED, -1.0, "after")]
    never = fold([WEIGHED, *other], WEIGHER).users["ada"].trust
    events = [WEIGHED, other[0], *SAID[name], other[1], *(undone(e.id) for e in SAID[name])]
    trust = fold(events, WEIGHER).users["ada"].trust
    assert trust == never


def test_undoing_all_leaves_no_experience() -> None:
    events = [WEIGHED, rating(WEIGHED, 1.0), undone("g1")]
    trust = fold(events, WEIGHER).users["ada"].trust
    assert (trust.weights, trust.tallies, trust.heard) == ({}, {}, {})
    assert not trust.standing("t", WEIGHER).experienced


def test_a_note_and_a_rule_move_no_weight() -> None:
    trust = fold([WEIGHED, note(WEIGHED, "n"), rule("r", task="t")], WEIGHER).users["ada"].trust
    assert trust.weights == {}


def test_feedback_that_says_nothing_of_the_experts_is_counted_and_moves_no_weight() -> None:
    silent = rating(WEIGHED, 1.0, "silent")
    heard: dict[str, Json] = {"likelihood": {}, "outcomes": 2, "right": 1.0, "frozen": 0.0}
    silent = replace(silent, body={**silent.body, "heard": heard})
    before, after = (
        fold(events, WEIGHER).users["ada"].trust
        for events in ([WEIGHED, rating(WEIGHED, 1.0)], [WEIGHED, rating(WEIGHED, 1.0), silent])
    )
    assert after.weights == before.weights
    assert after.tallies["t"].steps == before.tallies["t"].steps + 1


def test_without_a_weigher_no_weights_are_kept() -> None:
    trust = fold([WEIGHED, rating(WEIGHED, 1.0)]).users["ada"].trust
    assert trust.weights == {}


def test_the_tally_is_of_the_steps_of_which_the_frozen_answer_is_known() -> None:
    events = [WEIGHED, correction(WEIGHED, "no"), rating(WEIGHED, 1.0)]
    tally = fold(events, WEIGHER).users["ada"].trust.tallies["t"]
    assert (tally.steps, tally.adapted, tally.frozen) == (2, 1.0, 1.0)
    assert (tally.gained, tally.gained_squared) == (0.0, 2.0)


def test_answers_alone_tell_how_close_they_were_and_what_a_model_always_thinks() -> None:
    trust = fold([WEIGHED, WEIGHED], WEIGHER).users["ada"].trust
    standing = trust.standing("t", WEIGHER)
    assert (standing.answers, standing.experienced) == (2, False)
    assert list(trust.seen["t"].margins) == [0.2, 0.2]
    bias = standing.biases["frozen"]
    assert bias.count == 2
    mean = {answer: (bias.rest + total) / 2 for answer, total in bias.sums.items()}
    assert max(mean, key=lambda answer: mean[answer]) == "no"
    assert sum(math.exp(value) for value in mean.values()) == pytest.approx(1, abs=0.02)


def test_few_answers_are_always_worth_asking_about_and_later_the_closest_are() -> None:
    def close(margin: float, n: int) -> Event:
        return answered(f"r{n}", answer="yes", experts=("frozen", "kernel"), margin=margin)

    few = fold([close(0.5, n) for n in range(5)], WEIGHER).users["ada"].trust
    assert few.is_close("t", 0.9, 0.3)
    assert not few.is_close("t", 0.9, 0.0)
    many = fold([close(n / 100, n) for n in range(100)], WEIGHER).users["ada"].trust
    assert many.is_close("t", 0.29, 0.3)
    assert not many.is_close("t", 0.31, 0.3)
    assert many.is_close("t", 0.99, 1.0)
    assert not many.is_close("t", 0.0, 0.0)


def test_of_answers_that_are_all_equally_close_the_share_is_worth_asking_about() -> None:
    alone = answered(answer="yes", experts=("frozen", "kernel"), margin=1.0)
    state, asked = State(), 0
    for _ in range(300):
        apply(state, alone, WEIGHER)
        asked += state.users["ada"].trust.is_close("t", 1.0, 0.3)
    assert 75 < asked < 115


def test_a_document_that_is_read_again_is_as_it_is_now() -> None:
    first = reading("book", "one", "two", "one")
    again = reading("book", "two", "three", id="d2")
    other = reading("song", "one", id="d3")
    texts = [r.request for r in fold([first]).users["ada"].records.values()]
    assert texts == ["one", "two"]
    state = fold([first, again, other]).users["ada"]
    assert [r.request for r in state.records.values()] == ["two", "three", "one"]
    assert [name for name, _ in state.documents.values()] == ["d2", "d3"]
    kept = {r.request: r.id for r in fold([first]).users["ada"].records.values()}
    assert kept["two"] in state.records  # what feedback said of it still holds
    assert kept["one"] not in state.records


def test_a_document_that_is_gone_leaves_nothing() -> None:
    state = fold([reading("book", "one"), reading("book", id="d2")]).users["ada"]
    assert (state.records, state.documents, state.made) == ({}, {}, {})


def test_what_feedback_said_of_passages_is_folded_and_undone() -> None:
    said = [
        replace(r, body={**r.body, "cited": {"p": value}})
        for i, value in enumerate((-1.0, -1.0, 0.5))
        for r in [rating(ASKED, value, id=f"g{i}")]
    ]
    trust = fold([ASKED, *said]).users["ada"].trust
    assert trust.worth("t") == {"p": 2 * 1.5 / 4.5}
    assert trust.worth("else") == {}
    trust = fold([ASKED, *said, undone("g0"), undone("g1"), undone("g2")]).users["ada"].trust
    assert trust.cited == {}


def test_the_opinions_of_another_model_are_not_mixed_with_the_last_ones() -> None:
    def said(name: str, model: str) -> Event:
        event = answered(name, experts=("frozen", "kernel"), margin=0.5)
        return replace(event, body={**event.body, "model": model})

    both = fold([said("r1", "one"), said("r2", "one"), said("r3", "two")], WEIGHER).users["ada"]
    alone = fold([said("r3", "two")], WEIGHER).users["ada"]
    assert both.trust.seen["t"].biases == alone.trust.seen["t"].biases
    assert list(both.trust.seen["t"].margins) == [0.5]
    assert both.trust.seen["t"].answers == 3


def test_a_pattern_is_sighted_once_and_its_repeats_are_counted() -> None:
    sightings = fold([answered(f"r{n}") for n in range(3)]).users["ada"].sightings
    assert [seen.pattern for seen in sightings.distinct] == ["where is my ..."]
    assert sightings.repeats == {False: 2}


def test_answers_of_an_older_format_are_sighted_without_a_form() -> None:
    (seen,) = fold([answered()]).users["ada"].sightings.distinct
    assert (seen.bare, seen.form, seen.width) == (False, None, 0)


def freed(id: str, *, free: bool = True) -> Event:
    return Event(kind=EventKind.SETTING, user="ada", task="t", id=id, body={"free": free})


def test_the_newest_word_on_a_task_stands_until_it_is_undone() -> None:
    events = [freed("f1"), freed("f2", free=False)]

    def said(*more: Event) -> list[tuple[str, object]]:
        return list(fold([*events, *more]).users["ada"].settings.values())

    assert said() == [("t", {"free": True}), ("t", {"free": False})]
    assert said(undone("f2")) == [("t", {"free": True})]
    assert said(undone("f1"), undone("f2")) == []
