"""Stopping rules against their definitions, and against what they promise on average."""

import math
import random
from collections import Counter
from math import comb, inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tta.decoding import stop
from tta.decoding.stop import BetaStop, Halving, Pandora, Timing, fair_cap, lead_probability, waves
from tta.errors import InvalidSetting

# --------------------------------------------------------------------------------- Beta stop


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_lead_is_that_of_the_binomial_in_closed_form(first: int, second: int) -> None:
    n = first + second + 1
    exact = sum(comb(n, k) for k in range(first + 1)) / 2**n
    assert lead_probability(first, second) == pytest.approx(exact, abs=1e-12)


@given(st.floats(0, 40), st.floats(0, 40), st.floats(0.1, 9), st.floats(0.1, 9))
def test_weighted_counts_and_any_prior_agree_with_an_integral(
    first: float, second: float, alpha: float, beta: float
) -> None:
    a, b = first + alpha, second + beta
    if min(a, b) < 1.0:  # the density has a pole that a grid cannot see
        return
    x = (np.arange(200_000) + 0.5) / 200_000
    density = (a - 1) * np.log(x) + (b - 1) * np.log1p(-x)
    density = np.exp(density - density.max())
    share = density[x > 0.5].sum() / density.sum()
    assert lead_probability(first, second, alpha, beta) == pytest.approx(share, abs=1e-5)


@pytest.mark.parametrize(("confidence", "needed"), [(0.90, 3), (0.95, 4), (0.99, 6)])
def test_unanimous_votes_stop_after_the_published_number(confidence: float, needed: int) -> None:
    rule = BetaStop(confidence=confidence)
    enough = [rule.enough({"yes": n}) for n in range(1, 9)]
    assert enough.index(True) + 1 == needed


def test_feedback_on_the_task_lets_it_stop_sooner_or_later() -> None:
    trusted, fresh, distrusted = BetaStop.after(30, 0), BetaStop(), BetaStop.after(1, 9)
    needed = [
        next(n for n in range(1, 40) if rule.enough({"yes": n}))
        for rule in (trusted, fresh, distrusted)
    ]
    assert needed[0] < needed[1] < needed[2]
    assert not trusted.enough({})


def test_lossless_stops_exactly_when_the_rest_cannot_change_the_answer() -> None:
    rule = BetaStop(lossless=True)
    assert not rule.enough({"a": 20, "b": 10}, remaining=10)
    assert rule.enough({"a": 21, "b": 10}, remaining=10)
    assert rule.enough({"a": 5, "b": 5}, remaining=0)
    assert not rule.enough({"a": 39}, remaining=inf)


def test_a_lead_that_cannot_be_caught_stops_every_rule() -> None:
    assert BetaStop(confidence=0.999).enough({"a": 3}, remaining=2)


def mixed(rng: random.Random) -> list[float]:
    """Shares of eight answers, the first of them right, of a question of any difficulty."""
    p = rng.betavariate(1.6, 1.2)
    rest = [1 / (i + 1) for i in range(8)]
    return [p, *((1 - p) * w / sum(rest) for w in rest)]


def test_half_the_samples_give_the_answer_of_forty_votes() -> None:
    rng = random.Random(0)
    rule = BetaStop()
    drawn = same = full_right = right = 0
    questions = 1500
    for _ in range(questions):
        shares = mixed(rng)
        samples = rng.choices(range(len(shares)), shares, k=40)
        full = Counter(samples).most_common(1)[0][0]
        n = 0
        for size in waves(40):
            n += size
            counts = stop.votes(samples[:n])
            if rule.enough(counts, remaining=40 - n):
                break
        answer = next(iter(counts))
        drawn += n
        same += answer == full
        right += answer == 0
        full_right += full == 0
    assert drawn < 40 * questions / 1.7
    assert abs(right - full_right) / questions < 0.006
    assert same / questions > 0.97


def test_a_wave_is_the_fewest_votes_that_could_end_it() -> None:
    rule = BetaStop()
    assert rule.wave({}, remaining=40) == 4
    assert BetaStop.after(30, 0).wave({}, remaining=40) == 1
    assert rule.wave({"a": 3, "b": 1}, remaining=36) == 3
    assert rule.wave({"a": 3, "b": 1}, remaining=2) == 1  # then it cannot be caught
    assert rule.wave({"a": 4}, remaining=36) == 0
    assert rule.wave({}, remaining=40, least=8) == 8
    assert BetaStop(lossless=True).wave({"a": 10}, remaining=30) == 11


@given(st.lists(st.sampled_from("aaab"), min_size=40, max_size=40))
def test_waves_stop_where_votes_counted_one_by_one_would(samples: list[str]) -> None:
    rule = BetaStop()
    single = next((n for n in range(1, 40) if rule.enough(stop.votes(samples[:n]))), 40)
    n = 0
    while size := rule.wave(stop.votes(samples[:n]), remaining=40 - n):
        n += size
    assert n == single or (n < single and rule.enough(stop.votes(samples[:n]), remaining=40 - n))


@pytest.mark.parametrize("wrong", [(-1, 0, 1, 1), (0, math.nan, 1, 1), (1, 0, 0, 1), (1, 0, 1, -2)])
def test_counts_and_priors_out_of_range_are_refused(wrong: tuple[float, ...]) -> None:
    with pytest.raises(InvalidSetting):
        lead_probability(*wrong)


@pytest.mark.parametrize("confidence", [0.3, 1.0, math.nan])
def test_a_confidence_out_of_range_is_refused(confidence: float) -> None:
    with pytest.raises(InvalidSetting):
        BetaStop(confidence=confidence)


# ------------------------------------------------------------------------------------- votes


def test_votes_are_counted_heaviest_first_and_ties_as_they_came() -> None:
    assert list(stop.votes(["b", "a", "c", "a", "b"]).items()) == [("b", 2), ("a", 2), ("c", 1)]
    assert stop.votes([]) == {}


def test_sure_votes_weigh_more_and_the_sum_stays_the_number_of_votes() -> None:
    found = stop.votes(["a", "b", "b"], [5.0, 1.0, 1.0])
    assert next(iter(found)) == "a"
    assert sum(found.values()) == pytest.approx(3.0)
    alike = stop.votes(["a", "b", "b"], [2.0, 2.0, 2.0])
    assert alike == pytest.approx({"b": 2.0, "a": 1.0})
    assert stop.votes(["a", "b"], [1e5, -1e5])["b"] == 0.0


@pytest.mark.parametrize("wrong", [[1.0], [1.0, math.nan]])
def test_confidences_that_do_not_fit_are_refused(wrong: list[float]) -> None:
    with pytest.raises(InvalidSetting):
        stop.votes(["a", "b"], wrong)


# ------------------------------------------------------------------------------------- waves


def test_waves_double_up_to_the_limit() -> None:
    assert list(waves(40)) == [4, 4, 8, 16, 8]
    assert list(waves(3)) == [3]
    assert list(waves(5, first=1)) == [1, 1, 2, 1]


def test_waves_stay_small_where_rows_are_dear() -> None:
    timing = Timing()
    for rows in (1, 2, 4):
        timing.add(rows, 5.0 * rows)
    assert list(waves(20, timing=timing)) == [4, 4, 4, 4, 4]


@given(st.floats(0, 50), st.floats(0, 9), st.lists(st.integers(1, 64), min_size=2, max_size=9))
def test_the_measured_line_is_found(fixed: float, each: float, sizes: list[int]) -> None:
    timing = Timing()
    for rows in sizes:
        timing.add(rows, fixed + each * rows)
    found = timing.line()
    if len(set(sizes)) > 1:
        assert found == pytest.approx((fixed, each), abs=1e-4)
    else:
        assert found == pytest.approx((fixed + each * sizes[0], 0.0), abs=1e-6)


# ----------------------------------------------------------------------- successive halving


def test_sixteen_rows_cost_five_and_not_sixteen() -> None:
    rule = Halving(limit=64)
    alive = list(range(16))
    tokens = 0
    for step in range(1, 65):
        tokens += len(alive)
        dropped = rule.dropped(step, [float(i) for i in alive])
        alive = [row for i, row in enumerate(alive) if i not in dropped]
    assert alive == [14, 15]
    assert tokens == 5 * 64


def test_one_row_always_stays_and_ties_go_to_the_earlier() -> None:
    assert Halving(limit=8).dropped(1, [0.0]) == ()
    assert Halving(limit=8).dropped(2, [1.0, 1.0, 1.0, 1.0]) == (2, 3)
    assert Halving(limit=8).dropped(3, [1.0, 2.0]) == ()


# ----------------------------------------------------------------------------------- Pandora


@settings(deadline=None)  # a quadrature, on machines that may be busy
@given(st.floats(-5, 5), st.floats(0.01, 5), st.floats(0.001, 3))
def test_another_draw_from_the_fair_cap_gains_just_its_cost(
    mean: float, spread: float, cost: float
) -> None:
    cap = fair_cap(mean, spread, cost)
    z = np.linspace(-12, 12, 400_001)
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    gain = (np.maximum(mean + spread * z - cap, 0) * density).sum() * (z[1] - z[0])
    assert gain == pytest.approx(cost, rel=1e-3)


def test_dear_draws_end_sooner() -> None:
    rng = random.Random(1)
    rewards = [rng.gauss(0, 1) for _ in range(200)]

    def drawn(cost: float) -> int:
        rule = Pandora(cost=cost)
        return next((n for n in range(1, 200) if rule.enough(rewards[:n])), 200)

    assert drawn(0.5) <= drawn(0.05) <= drawn(0.005)
    assert drawn(0.5) >= 2
    assert not Pandora(cost=0.1).enough([])


def test_rewards_that_never_differ_end_it() -> None:
    assert Pandora(cost=0.1).enough([1.0, 1.0])


# ------------------------------------------------------------------------------------- value


@given(st.floats(0, 1), st.integers(0, 40))
def test_what_was_not_seen_can_be_worth_no_more(share: float, n: int) -> None:
    others = np.linspace(share, 1, 20_001)
    worth = ((others - share) * (1 - others) ** n).max()
    assert stop.unseen_gain(share, n) == pytest.approx(worth, abs=1e-6)


@given(st.integers(0, 30), st.integers(0, 30))
def test_a_runner_up_is_worth_what_an_integral_says(first: int, second: int) -> None:
    x = (np.arange(100_000) + 0.5) / 100_000
    density = first * np.log(x) + second * np.log1p(-x)
    density = np.exp(density - density.max())
    worth = (np.maximum(0, 1 - 2 * x) * density).sum() / density.sum()
    assert stop.rival_gain(first, second) == pytest.approx(worth, abs=1e-5)
