"""The expert that pools the others, and how feedback moves its powers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta.decoding import Mixture, testimony
from tta.decoding.experts import explored, is_needed
from tta.decoding.mixture import blend
from tta.decoding.pool import (
    LEAST,
    NAMES,
    NEEDED,
    POOL,
    POWERS,
    SPREAD,
    features,
    held,
    moved,
    passed_on,
    pooled,
    reached,
    reliance,
    slope,
)
from tta.decoding.testimony import opinions_json
from tta.types import EventKind, Json, Powers, Standing, Weights

if TYPE_CHECKING:
    from tta.protocols import FloatArray

ANSWERS = ("kade", "lopi", "meru", "nast")


def norm(scores: FloatArray) -> FloatArray:
    return np.asarray(scores - np.log(np.exp(scores).sum()))


def said(seed: int, right: str = "", knows: str = "") -> dict[str, FloatArray]:
    """What all say; where `knows` is named, it alone knows what is right."""
    numbers = np.random.default_rng(seed)
    found = {name: norm(numbers.normal(size=len(ANSWERS))) for name in POWERS}
    if knows:
        sure = np.zeros(len(ANSWERS))
        sure[ANSWERS.index(right)] = 4.0
        found[knows] = norm(sure)
    return found


def step(
    opinions: dict[str, FloatArray], weights: Weights, kind: EventKind, body: dict[str, Json]
) -> Weights:
    """As a call and feedback on it would go."""
    together = pooled(opinions, weights.powers)
    assert together is not None
    opinions = {**opinions, POOL: together}
    mixed = blend(opinions, weights)
    kept = opinions_json(ANSWERS, opinions, mixed, closed=True, frozen=None, passes=[])
    heard = testimony.testify(json.loads(json.dumps(kept)), kind, body)["heard"]
    assert isinstance(heard, dict)
    return Mixture().observe(weights, json.loads(json.dumps(heard)))


def test_before_feedback_it_is_the_log_linear_pool_of_the_stated_powers() -> None:
    opinions = said(1)
    found = pooled(opinions, Powers())
    assert found is not None
    scores = np.array(list(POWERS.values())) @ features(opinions)
    np.testing.assert_allclose(found, norm(scores))
    assert np.exp(found).sum() == pytest.approx(1)


def test_who_has_not_spoken_says_nothing_in_it() -> None:
    opinions = said(2)
    flat = {**opinions, "lda": np.full(len(ANSWERS), -np.log(len(ANSWERS)))}
    del opinions["lda"]
    left, even = pooled(opinions, Powers()), pooled(flat, Powers())
    assert left is not None
    assert even is not None
    np.testing.assert_allclose(left, even)


def test_without_remembered_cases_there_is_nothing_to_pool() -> None:
    opinions = said(3)
    del opinions[NEEDED]
    assert pooled(opinions, Powers()) is None


def test_an_overconfident_opinion_does_not_drown_the_others() -> None:
    opinions = said(4)
    loud = {**opinions, "words": opinions["words"] * 1000}
    rows = dict(zip(POWERS, features(loud), strict=True))
    assert np.abs(rows["words"]).max() < 10


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (EventKind.CORRECTION, {"answer": "lopi", "text": "kade"}),
        (EventKind.RATING, {"answer": "kade", "value": 1.0}),
        (EventKind.PREFERENCE, {"answer": "lopi", "chosen": "kade", "rejected": "lopi"}),
    ],
)
def test_whoever_knew_gains_power_from_every_kind_of_feedback(
    kind: EventKind, body: dict[str, Json]
) -> None:
    weights = Weights()
    for seed in range(30):
        weights = step(said(seed, "kade", "ridge"), weights, kind, body)
    gains = {name: power - POWERS[name] for name, power in weights.powers.mean.items()}
    assert max(gains, key=lambda name: gains[name]) == "ridge"


def test_being_told_that_an_answer_was_wrong_takes_power_from_who_gave_it() -> None:
    weights = Weights()
    body: dict[str, Json] = {"answer": "kade", "value": -1.0}
    for seed in range(30):
        weights = step(said(seed, "kade", "ridge"), weights, EventKind.RATING, body)
    assert weights.powers.mean["ridge"] < POWERS["ridge"] - 0.1


def test_a_rating_of_neither_good_nor_bad_moves_nothing() -> None:
    body: dict[str, Json] = {"answer": "kade", "value": 0.0}
    weights = step(said(5), Weights(), EventKind.RATING, body)
    assert (weights.powers.mean or POWERS) == pytest.approx(POWERS, abs=1e-3)


def test_feedback_without_an_answer_known_before_says_what_it_was_not() -> None:
    body: dict[str, Json] = {"answer": "kade", "text": "a new one"}
    told = step(said(6, "kade", "ridge"), Weights(), EventKind.CORRECTION, body)
    assert told.powers.mean["ridge"] < POWERS["ridge"]


@given(st.integers(0, 10**6))
def test_the_slope_is_that_of_the_log_likelihood(seed: int) -> None:
    opinions, place = said(seed), seed % len(ANSWERS)
    before = pooled(opinions, Powers())
    assert before is not None
    after = np.eye(len(ANSWERS))[place]
    found = slope(features(opinions), np.exp(before), after)
    for name in POWERS:
        more = pooled(opinions, Powers(mean={**POWERS, name: POWERS[name] + 1e-6}))
        assert more is not None
        assert found[name] == pytest.approx((more[place] - before[place]) / 1e-6, abs=1e-2)


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=40), st.floats(0, 1))
def test_powers_stay_numbers_and_grow_surer(slopes: list[float], right: float) -> None:
    powers = Powers()
    for by in slopes:
        powers = moved(powers, {"lda": by, "words": -by}, right)
    assert np.isfinite(list(powers.mean.values())).all()
    surer = np.linalg.eigvalsh(np.array(powers.precision) - np.eye(len(POWERS)) / SPREAD**2)
    assert surer.min() > -1e-6


def learned(pieces: list[tuple[dict[str, float], float]]) -> Powers:
    powers = Powers()
    for slopes, at in pieces:
        powers = moved(powers, slopes, 0.9, at)
    return powers


@given(st.lists(st.tuples(st.floats(0.1, 1), st.floats(0.1, 1), st.floats(0, 1)), max_size=12))
def test_in_which_order_late_feedback_comes_makes_no_difference(
    drawn: list[tuple[float, float, float]],
) -> None:
    pieces = [({"lda": a, "words": b}, at) for a, b, at in drawn]
    ahead, back = learned(pieces), learned(pieces[::-1])
    assert ahead.mean == pytest.approx(back.mean, abs=1e-6)


def test_many_answers_that_wait_together_do_not_push_as_if_each_were_the_first() -> None:
    """All were given with the powers of the beginning, and say alike that lda is too weak."""
    slopes, powers = {"lda": 0.5}, Powers()
    at = reached(slopes, held(POWERS, powers))
    hasty = powers
    for _ in range(500):
        powers, hasty = moved(powers, slopes, 1.0, at), moved(hasty, slopes, 1.0)
    # The top of each one's quadratic is 1 / .5 from where all began.
    assert POWERS["lda"] + 1.5 < powers.mean["lda"] < POWERS["lda"] + 2.0 < hasty.mean["lda"]


def test_feedback_at_once_has_nothing_to_make_up_for() -> None:
    weights = Weights()
    for seed in range(20):
        body: dict[str, Json] = {"answer": "lopi", "text": ANSWERS[seed % len(ANSWERS)]}
        weights = step(said(seed), weights, EventKind.CORRECTION, body)
    slopes = {"lda": 0.7, "words": -0.4}
    at = reached(slopes, held(POWERS, weights.powers))
    now = moved(weights.powers, slopes, 0.8)
    assert moved(weights.powers, slopes, 0.8, at).mean == pytest.approx(now.mean, abs=1e-3)


def test_the_powers_of_an_answer_are_those_of_who_spoke() -> None:
    assert set(held(["lda", "words", "nobody"], Powers())) == {"lda", "words", NAMES}
    assert held(["lda"], Powers(mean={**POWERS, "lda": 1.23456})) == {"lda": 1.235, NAMES: 0.0}


def test_feedback_that_is_surely_wrong_moves_no_power() -> None:
    assert moved(Powers(), {"lda": 2.0}, 0.0).mean == pytest.approx(POWERS)
    assert moved(Powers(), {}, 1.0) == Powers()


def test_where_feedback_is_noise_the_pool_still_says_something() -> None:
    numbers, weights = np.random.default_rng(0), Weights()
    for seed in range(200):
        text = ANSWERS[numbers.integers(len(ANSWERS))]
        body: dict[str, Json] = {"answer": "kade", "text": text}
        weights = step(said(seed), weights, EventKind.CORRECTION, body)
    left = sum(weights.powers.mean.values())
    assert left >= LEAST * sum(POWERS.values()) - 1e-9


def test_a_new_task_starts_half_way_between_the_others_and_the_beginning() -> None:
    mean = {**POWERS, "lda": 1.0}
    found = passed_on(Powers(mean=mean, precision=((1.0,),)))
    assert found.mean["lda"] == pytest.approx((1.0 + POWERS["lda"]) / 2)
    assert found.precision == ()
    assert passed_on(Powers()) == Powers()


def test_reliance_says_how_much_of_the_pool_is_an_experts() -> None:
    powers = Powers(mean={**dict.fromkeys(POWERS, 0.0), "lda": -1.0, "words": 3.0})
    assert reliance(powers, "lda") == 0.25
    assert reliance(powers, "no such expert") == 0
    assert sum(reliance(Powers(), name) for name in POWERS) == pytest.approx(1)


def test_no_pass_is_spent_for_the_little_that_the_pool_makes_of_it() -> None:
    def trusted_pool(power: float) -> Standing:
        mean = {**dict.fromkeys(POWERS, 0.0), "recalled/calibrated": power, "lda": 1 - power}
        cells = {POOL: (1 / 16,) * 16, "recalled": (0.0,) * 16, "frozen": (0.0,) * 16}
        weights = Weights(cells=cells, mute=0.0, powers=Powers(mean=mean), feedback=100)
        return Standing(weights=weights, answers=100)

    assert not explored(100)
    assert is_needed("recalled", trusted_pool(0.2))
    assert not is_needed("recalled", trusted_pool(0.05))
    assert not is_needed("frozen", trusted_pool(0.2))
