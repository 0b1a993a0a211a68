"""What each kind of feedback says of the experts, against its definition."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tta.decoding.mixture import FLOOR, Blend, blend, normalise, sharpened
from tta.decoding.testimony import INSTEAD, KEPT, opinions_json
from tta.decoding.testimony import testify as judged  # a name that pytest takes for no test
from tta.types import EventKind, Json, Weights

Array = NDArray[np.floating[Any]]

TEXTS = ("red", "blue", "green", "grey")
FROZEN = np.array([0.6, 0.3, 0.08, 0.02])
MEMORY = np.array([0.05, 0.85, 0.06, 0.04])
EXPERTS = {"frozen": np.log(FROZEN), "kernel": np.log(MEMORY)}
NEAR = 0.02
"""Opinions are kept in hundredths of nats."""


def keep(
    opinions: dict[str, Array] = EXPERTS,
    texts: tuple[str, ...] = TEXTS,
    *,
    closed: bool = True,
    frozen: str | None = "red",
) -> dict[str, Json]:
    """As the journal gives it back."""
    mixed = blend(opinions, Weights())
    kept = opinions_json(texts, opinions, mixed, closed=closed, frozen=frozen, passes=["frozen"])
    found: dict[str, Json] = json.loads(json.dumps(kept))
    return found


def said(kept: dict[str, Json], kind: EventKind, answer: str, **body: Json) -> dict[str, Json]:
    """The `heard` of feedback on `answer`, which must be JSON."""
    found = judged(kept, kind, {"answer": answer, **body})
    heard: dict[str, Json] = json.loads(json.dumps(found, allow_nan=False))["heard"]
    return heard


def likelihood(heard: dict[str, Json], expert: str) -> Array:
    return np.array(heard["likelihood"][expert])  # type: ignore[index, call-overload]


def read(opinion: Array, place: int) -> Array:
    """An expert's probability of one candidate at each sharpness."""
    return sharpened(normalise(opinion))[:, place]


# ------------------------------------------------------------------------------- what is kept


@given(st.lists(st.lists(st.floats(-18, 0), min_size=9, max_size=9), min_size=1, max_size=4))
def test_what_is_kept_of_opinions_is_within_rounding_of_them(rows: list[list[float]]) -> None:
    opinions = {f"e{i}": np.array(row) for i, row in enumerate(rows)}
    texts = tuple("abcdefghi")
    kept = keep(opinions, texts, frozen="a")
    for place, text in enumerate(texts):
        heard = said(kept, EventKind.CORRECTION, "a", text=text)
        for expert, opinion in opinions.items():
            expected = read(opinion, place)
            np.testing.assert_allclose(likelihood(heard, expert), expected, rtol=0.05, atol=2e-4)


def test_of_many_answers_the_likeliest_and_each_experts_favourite_are_kept() -> None:
    texts = tuple(f"t{i}" for i in range(40))
    steady = -np.arange(40.0) / 10
    odd = np.where(np.arange(40) == 39, -0.5, -9.0)
    mixed = Blend(scores=np.exp(normalise(steady)), weights={}, parts={})
    opinions = {"a": steady, "odd": odd}
    kept = opinions_json(texts, opinions, mixed, closed=True, frozen="t0", passes=[])
    assert kept["answers"] == [*texts[:KEPT], "t39"]
    assert kept["of"] == 40


def test_answers_that_were_not_kept_share_what_is_left() -> None:
    texts = tuple(f"t{i}" for i in range(40))
    opinion = np.log(np.where(np.arange(40) == 0, 0.5, 0.5 / 39))
    heard = said(keep({"a": opinion}, texts), EventKind.CORRECTION, "t0", text="t30")
    np.testing.assert_allclose(likelihood(heard, "a"), read(opinion, 30), rtol=0.05)
    assert heard["outcomes"] == 40


# ------------------------------------------------------------------------------------ ratings


@pytest.mark.parametrize("place", range(4))
def test_right_says_how_probable_the_answer_was(place: int) -> None:
    heard = said(keep(), EventKind.RATING, TEXTS[place], value=1.0)
    for expert, opinion in EXPERTS.items():
        np.testing.assert_allclose(likelihood(heard, expert), read(opinion, place), rtol=NEAR)
    assert (heard["outcomes"], heard["right"]) == (2, 1.0)


@pytest.mark.parametrize("place", range(4))
def test_wrong_says_how_probable_another_answer_was(place: int) -> None:
    heard = said(keep(), EventKind.RATING, TEXTS[place], value=-1.0)
    for expert, opinion in EXPERTS.items():
        expected = 1 - read(opinion, place)
        np.testing.assert_allclose(likelihood(heard, expert), expected, atol=NEAR)
    assert (heard["outcomes"], heard["right"]) == (2, 0.0)


@given(st.floats(-1, 1))
def test_a_reward_between_is_right_with_that_probability(value: float) -> None:
    heard = said(keep(), EventKind.RATING, "blue", value=value)
    right = (1 + value) / 2
    for expert, opinion in EXPERTS.items():
        p = read(opinion, 1)
        expected = right * p + (1 - right) * (1 - p)
        np.testing.assert_allclose(likelihood(heard, expert), expected, atol=NEAR)
    assert heard["right"] == pytest.approx(right)


def test_an_approval_says_how_many_there_were_to_approve_of() -> None:
    heard = said(keep(), EventKind.RATING, "blue", value=1.0)
    assert (heard["of_corrections"], heard["corrects"]) == (len(TEXTS), None)
    assert said(keep(), EventKind.RATING, "blue", value=0.5)["of_corrections"] is None


def test_what_is_wrong_shows_whether_its_user_corrects() -> None:
    assert said(keep(), EventKind.RATING, "blue", value=-1.0)["corrects"] is False
    assert said(keep(), EventKind.CORRECTION, "blue", text="red")["corrects"] is True
    assert said(keep(), EventKind.CORRECTION, "blue", text="purple")["corrects"] is True
    for heard in (
        said(keep(closed=False), EventKind.RATING, "blue", value=-1.0),
        said(keep(closed=False), EventKind.CORRECTION, "blue", text="red"),
    ):
        assert "corrects" not in heard  # the right answer to an open request is beyond counting


def test_a_reward_of_nothing_does_not_tell_one_expert_from_another() -> None:
    heard = said(keep(), EventKind.RATING, "blue", value=0.0)
    np.testing.assert_allclose(likelihood(heard, "frozen"), 0.5)
    np.testing.assert_allclose(likelihood(heard, "kernel"), 0.5)


def test_the_frozen_models_other_answer_counts_by_how_probable_it_was() -> None:
    right = said(keep(), EventKind.RATING, "blue", value=1.0)
    assert right["frozen"] == 0  # it would have said red
    wrong = said(keep(), EventKind.RATING, "blue", value=-1.0)
    scores = blend(EXPERTS, Weights()).scores
    assert wrong["frozen"] == pytest.approx(scores[0] / (1 - scores[1]), rel=NEAR)
    same = said(keep(), EventKind.RATING, "red", value=-1.0)
    assert same["frozen"] == 0
    assert said(keep(frozen=None), EventKind.RATING, "red", value=1.0)["frozen"] is None


# --------------------------------------------------------------------------- the right answer


@pytest.mark.parametrize("place", range(4))
def test_a_correction_says_how_probable_the_right_answer_was(place: int) -> None:
    heard = said(keep(), EventKind.CORRECTION, "blue", text=TEXTS[place])
    for expert, opinion in EXPERTS.items():
        np.testing.assert_allclose(likelihood(heard, expert), read(opinion, place), rtol=NEAR)
    assert heard["outcomes"] == 4
    assert heard["right"] == float(TEXTS[place] == "blue")
    assert heard["frozen"] == float(TEXTS[place] == "red")


def test_an_edit_is_a_correction_to_its_result() -> None:
    edited = said(keep(), EventKind.EDIT, "blue", start=0, stop=4, text="green", result="green")
    assert edited == said(keep(), EventKind.CORRECTION, "blue", text="green")


def test_a_correction_to_an_open_answer_that_nobody_had_says_that_all_were_wrong() -> None:
    heard = said(keep(closed=False), EventKind.CORRECTION, "blue", text="purple")
    assert heard["likelihood"] == {}
    assert (heard["right"], heard["frozen"]) == (0.0, 0.0)


def test_where_there_was_one_candidate_nobody_has_shown_more_than_another() -> None:
    kept = keep({"a": np.zeros(1)}, ("red",), closed=False)
    heard = said(kept, EventKind.RATING, "red", value=1.0)
    assert (heard["likelihood"], heard["right"], heard["frozen"]) == ({}, 1.0, 1.0)


def test_a_correction_to_an_open_candidate_counts_among_the_candidates() -> None:
    heard = said(keep(closed=False), EventKind.CORRECTION, "blue", text="red")
    np.testing.assert_allclose(likelihood(heard, "frozen"), read(EXPERTS["frozen"], 0), rtol=NEAR)
    assert heard["outcomes"] == 4


def test_a_new_answer_of_a_closed_set_says_that_the_one_given_was_wrong() -> None:
    heard = said(keep(), EventKind.CORRECTION, "blue", text="purple")
    for expert, opinion in EXPERTS.items():
        expected = 1 - read(opinion, 1)
        np.testing.assert_allclose(likelihood(heard, expert), expected, atol=NEAR)
    assert (heard["outcomes"], heard["right"], heard["frozen"]) == (2, 0.0, 0.0)
    body = {"answer": "blue", "chosen": "purple", "rejected": "blue"}
    assert judged(keep(), EventKind.PREFERENCE, body) == {}


# -------------------------------------------------------------------------------- preferences


def test_a_preference_compares_two_candidates() -> None:
    heard = said(keep(), EventKind.PREFERENCE, "blue", chosen="green", rejected="blue")
    for expert, opinion in EXPERTS.items():
        won, lost = read(opinion, 2), read(opinion, 1)
        np.testing.assert_allclose(likelihood(heard, expert), won / (won + lost), rtol=NEAR)
    assert (heard["outcomes"], heard["right"]) == (2, 0.0)
    assert heard["frozen"] is None  # red was not compared


def test_a_preference_that_names_the_frozen_models_answer_tells_of_it() -> None:
    won = said(keep(), EventKind.PREFERENCE, "blue", chosen="red", rejected="blue")
    lost = said(keep(), EventKind.PREFERENCE, "blue", chosen="blue", rejected="red")
    assert (won["frozen"], won["right"]) == (1.0, 0.0)
    assert (lost["frozen"], lost["right"]) == (0.0, 1.0)


def test_a_preference_between_two_others_tells_nothing_of_the_answer_given() -> None:
    heard = said(keep(), EventKind.PREFERENCE, "blue", chosen="red", rejected="green")
    assert heard["likelihood"]
    assert heard["frozen"] is None


@pytest.mark.parametrize(("chosen", "rejected"), [("purple", "blue"), ("blue", "purple")])
def test_a_preference_with_an_open_answer_that_nobody_had_says_nothing(
    chosen: str, rejected: str
) -> None:
    body = {"answer": "blue", "chosen": chosen, "rejected": rejected}
    assert judged(keep(closed=False), EventKind.PREFERENCE, body) == {}


# ------------------------------------------------------------------------- nothing, and instead


def test_notes_rules_and_feedback_on_answers_without_opinions_say_nothing() -> None:
    assert judged(keep(), EventKind.NOTE, {"answer": "red", "text": "I mean the bright one"}) == {}
    assert judged(keep(), EventKind.RULE, {"answer": "", "text": "Be brief."}) == {}
    for kept in ({}, {**keep(), "experts": {}}):
        assert judged(kept, EventKind.CORRECTION, {"answer": "red", "text": "blue"}) == {}


def test_a_mere_wrong_says_what_may_have_been_right_instead() -> None:
    found = judged(keep(), EventKind.RATING, {"answer": "blue", "value": -1.0})
    instead = found["instead"]
    assert isinstance(instead, dict)
    scores = blend(EXPERTS, Weights()).scores
    expected = {t: scores[i] / (1 - scores[1]) for i, t in enumerate(TEXTS) if t != "blue"}
    assert instead == pytest.approx(expected, rel=NEAR)
    assert math.fsum(instead.values()) == pytest.approx(1, abs=NEAR)


def test_of_many_answers_only_the_likeliest_are_said_to_be_right_instead() -> None:
    texts = tuple(f"t{i}" for i in range(40))
    kept = keep({"a": -np.arange(40.0) / 10}, texts)
    found = judged(kept, EventKind.RATING, {"answer": "t0", "value": -0.5})
    assert found["instead"].keys() == set(texts[1 : INSTEAD + 1])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("closed", "kind", "body"),
    [
        (True, EventKind.RATING, {"value": 1.0}),
        (True, EventKind.CORRECTION, {"text": "red"}),
        (False, EventKind.RATING, {"value": -1.0}),
    ],
)
def test_nothing_is_said_instead_of_what_is_right_known_or_open(
    closed: bool, kind: EventKind, body: dict[str, Json]
) -> None:
    assert "instead" not in judged(keep(closed=closed), kind, {"answer": "blue", **body})


@given(st.sampled_from(TEXTS), st.sampled_from(["red", "purple"]), st.floats(-1, 1))
def test_no_expert_is_ever_said_to_be_impossible(answer: str, text: str, value: float) -> None:
    certain = {"a": np.array([0.0, -90.0, -90.0, -90.0]), "b": np.array([-90.0, -90.0, 0.0, -90.0])}
    for closed in (True, False):
        kept = keep(certain, closed=closed)
        for kind, body in (
            (EventKind.RATING, {"value": value}),
            (EventKind.CORRECTION, {"text": text}),
        ):
            heard = said(kept, kind, answer, **body)
            for expert in heard["likelihood"]:  # type: ignore[union-attr]
                assert (likelihood(heard, str(expert)) >= FLOOR).all()
                assert (likelihood(heard, str(expert)) <= 1).all()
