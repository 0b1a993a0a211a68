"""Bayes over experts: exact arithmetic, the bound whatever the feedback, and who is trusted.

What is asserted holds for any choice of the constants within reason.
"""

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tta.decoding.mixture import (
    AHEAD,
    AHEAD_EACH,
    FLOOR,
    FROZEN,
    MUTE,
    NOISE,
    SHARPNESS,
    Mixture,
    alone,
    blend,
    entered,
    joined,
    noise,
    normalise,
    sharpened,
    totals,
)
from tta.decoding.pool import NEEDED
from tta.errors import InvalidSetting
from tta.types import Json, Weights

EXPERTS = (FROZEN, "a", "b", "late")
K = 5
PLAIN = SHARPNESS.index(1.0)

Array = NDArray[np.floating[Any]]
LOGPROBS = st.lists(st.floats(-60, 0), min_size=K, max_size=K).map(np.array)
OPINIONS = st.dictionaries(st.sampled_from(EXPERTS), LOGPROBS, min_size=1)
LIKELIHOODS = st.dictionaries(
    st.sampled_from(EXPERTS),
    st.lists(st.floats(FLOOR, 1), min_size=len(SHARPNESS), max_size=len(SHARPNESS)),
    min_size=1,
)
HEARD: st.SearchStrategy[dict[str, Json]] = st.fixed_dictionaries(
    {"likelihood": LIKELIHOODS, "outcomes": st.integers(2, 80)}
)
STREAMS = st.lists(HEARD, max_size=30)


def after(stream: list[dict[str, Json]], weights: Weights | None = None) -> Weights:
    found = Mixture().begin(None) if weights is None else weights
    for heard in stream:
        found = Mixture().observe(found, heard)
    return found


def told(right: int | np.integer[Any], opinions: dict[str, Array]) -> dict[str, Json]:
    """That candidate `right` is the answer; `opinions`: probabilities."""
    likelihood = {e: sharpened(np.log(p))[:, right].tolist() for e, p in opinions.items()}
    return {"likelihood": likelihood, "outcomes": K}


def sure(of: int | np.integer[Any], p: float = 0.9) -> Array:
    """An expert that gives `p` to one candidate."""
    return np.where(np.arange(K) == of, p, (1 - p) / (K - 1))


def leader(weights: Weights) -> str:
    found = totals(weights)
    return max(found, key=lambda e: found[e])


# ----------------------------------------------------------------------------------- the guarantee


@settings(max_examples=200)
@given(STREAMS)
def test_the_mixture_is_never_worse_than_any_expert_by_more_than_its_allowance(
    stream: list[dict[str, Json]],
) -> None:
    weights = after(stream)
    for expert, loss in weights.expert_log_loss.items():
        assert weights.log_loss <= loss + weights.allowance[expert] + 1e-6


@given(STREAMS, STREAMS)
def test_a_task_that_starts_from_its_parent_keeps_the_guarantee(
    first: list[dict[str, Json]], then: list[dict[str, Json]]
) -> None:
    weights = after(then, Mixture().begin(after(first)))
    for expert, loss in weights.expert_log_loss.items():
        assert weights.log_loss <= loss + weights.allowance[expert] + 1e-6


@given(STREAMS)
def test_the_log_losses_are_sums_of_what_was_predicted(stream: list[dict[str, Json]]) -> None:
    """Against the definition, one step at a time, for an expert that is always asked."""
    weights, expected = Mixture().begin(None), 0.0
    for heard in stream:
        given_ = cast(dict[str, list[float]], heard["likelihood"])
        rows = {"a": [0.5] * len(SHARPNESS), **given_}
        weights = Mixture().observe(weights, {**heard, "likelihood": rows})
        expected -= float(np.log(rows["a"][PLAIN]))
    assert weights.feedback == len(stream)
    if stream:
        assert weights.expert_log_loss["a"] == pytest.approx(expected)


def test_the_worst_that_can_be_said_after_trust_was_won_costs_no_more_than_allowed() -> None:
    """An adversary makes one expert trusted, then makes it always wrong and another right."""
    weights = Mixture().begin(None)
    for turn in range(6):
        good, bad = ("a", "b") if turn % 2 else ("b", "a")
        ends = {good: [1.0] * len(SHARPNESS), bad: [FLOOR] * len(SHARPNESS)}
        weights = after([{"likelihood": ends, "outcomes": 2}] * 15, weights)
    best = min(weights.expert_log_loss.values())
    assert weights.log_loss <= best + max(weights.allowance.values())
    assert weights.log_loss < best  # it followed the switches


# -------------------------------------------------------------------------------------- the weights


@given(STREAMS)
def test_the_weights_always_sum_to_one(stream: list[dict[str, Json]]) -> None:
    weights = after(stream)
    cells = [c for cells in weights.cells.values() for c in cells]
    assert sum(cells) + weights.mute == pytest.approx(1)
    assert all(c >= 0 for c in cells)
    assert sum(totals(weights).values()) == pytest.approx(1)
    assert 0 <= noise(weights) <= 1


@given(STREAMS, HEARD)
def test_an_expert_that_was_not_asked_keeps_its_weight(
    stream: list[dict[str, Json]], heard: dict[str, Json]
) -> None:
    before = entered(after(stream), EXPERTS)
    now = Mixture().observe(before, heard)
    for expert in set(EXPERTS) - set(heard["likelihood"]):  # type: ignore[arg-type]
        assert now.cells[expert] == before.cells[expert]
        assert now.allowance[expert] == before.allowance[expert]


@given(STREAMS)
def test_an_expert_that_comes_late_enters_with_an_even_share(stream: list[dict[str, Json]]) -> None:
    before = entered(after(stream), EXPERTS)
    now = entered(before, ["newcomer", "another"])
    share = totals(now)
    assert share["newcomer"] == pytest.approx(share["another"])
    assert share["newcomer"] == pytest.approx(1 / (len(EXPERTS) + 2), rel=0.1)
    for expert in EXPERTS[1:]:
        assert share[expert] < totals(before)[expert]
    assert now.expert_log_loss["newcomer"] == before.log_loss
    assert entered(now, EXPERTS) is now


def test_in_a_closed_set_the_frozen_model_is_given_up_for_more_than_a_little() -> None:
    share = totals(entered(Mixture().begin(None), [FROZEN, NEEDED]))
    other = totals(entered(Mixture().begin(None), [FROZEN, "votes"]))
    assert share[FROZEN] > MUTE / (MUTE + 2 * len(NOISE)) > other[FROZEN]


def test_before_any_feedback_no_expert_is_preferred_to_another() -> None:
    share = totals(entered(Mixture().begin(None), ["a", "b", FROZEN]))
    assert share["a"] == share["b"] <= share[FROZEN]


def test_the_more_answers_there_are_the_further_a_centroid_is_ahead_at_first() -> None:
    def lead(among: int) -> float:
        both: dict[str, Json] = {"centroid": [0.5] * 4, "lda": [0.5] * 4}
        heard: dict[str, Json] = {"likelihood": both, "outcomes": 2, "among": among}
        share = totals(Mixture().observe(Weights(), heard))
        opinions = {"centroid": np.zeros(among), "lda": np.zeros(among)}
        told = blend(opinions, Weights()).weights
        assert told["centroid"] / told["lda"] == pytest.approx(share["centroid"] / share["lda"])
        return share["centroid"] / share["lda"]

    assert lead(3) == pytest.approx(AHEAD["centroid"])
    assert lead(80) == pytest.approx(80 * AHEAD_EACH["centroid"])


@given(STREAMS)
def test_a_new_task_believes_half_of_what_its_parent_does(stream: list[dict[str, Json]]) -> None:
    parent = after(stream)
    new = Mixture().begin(parent)
    if not parent.cells:
        assert new == Weights()
        return
    even = entered(Weights(), list(parent.cells))
    for expert, cells in parent.cells.items():
        half = (np.array(cells) + even.cells[expert]) / 2
        np.testing.assert_allclose(new.cells[expert], half)
    assert new.mute == pytest.approx((parent.mute + even.mute) / 2)
    assert (new.feedback, new.log_loss) == (0, 0.0)
    assert set(new.expert_log_loss.values()) == {0.0}


# ----------------------------------------------------------------------------------- who is trusted


def test_an_expert_that_is_always_right_takes_over() -> None:
    rng = np.random.default_rng(0)
    weights = Mixture().begin(None)
    for right in rng.integers(K, size=40):
        unsure = {e: sure(rng.integers(K)) for e in (FROZEN, "a", "b")}
        weights = Mixture().observe(weights, told(right, {**unsure, "late": sure(right)}))
    assert leader(weights) == "late"
    assert totals(weights)["late"] > 0.8
    assert noise(weights) < 0.1


def test_when_the_trusted_expert_turns_bad_another_takes_over() -> None:
    rng = np.random.default_rng(1)
    weights = Mixture().begin(None)
    for step, right in enumerate(rng.integers(K, size=120)):
        good, bad = ("a", "b") if step < 80 else ("b", "a")
        opinions = {good: sure(right), bad: sure((right + 1) % K), FROZEN: sure(0, 0.3)}
        weights = Mixture().observe(weights, told(right, opinions))
        if step == 79:
            assert leader(weights) == "a"
    assert leader(weights) == "b"


def test_random_feedback_mutes_all_experts() -> None:
    rng = np.random.default_rng(2)
    weights = Mixture().begin(None)
    for right in rng.integers(K, size=300):
        opinions = {e: sure(rng.integers(K)) for e in (FROZEN, "a", "b", "late")}
        weights = Mixture().observe(weights, told(right, opinions))
    assert weights.mute > 0.5
    assert leader(weights) == FROZEN
    opinions = {FROZEN: np.log(sure(0)), "a": np.log(sure(1)), "b": np.log(sure(1))}
    assert blend(opinions, weights).scores.argmax() == 0


def approved(p: float, among: int = 40) -> dict[str, Json]:
    """Somebody approved of what "a" gave `p` to, where there were `among` candidates."""
    likelihood = {"a": [p] * len(SHARPNESS)}
    return {"likelihood": likelihood, "outcomes": 2, "of_corrections": among, "corrects": None}


def refused(*, corrects: bool, p: float = 0.5) -> dict[str, Json]:
    return {"likelihood": {"a": [p] * len(SHARPNESS)}, "outcomes": 2, "corrects": corrects}


def test_approval_says_more_from_somebody_who_corrects_what_is_wrong() -> None:
    """Of 40 answers that an expert has only narrowed down to three, one approved of at random would
    be his in one of 40, not in every other."""
    after_corrections = after([refused(corrects=True), *[approved(1 / 3)] * 8])
    after_refusals = after([refused(corrects=False), *[approved(1 / 3)] * 8])
    assert after_corrections.mute < 0.01
    assert after_refusals.mute > 0.5


def test_a_new_task_knows_whether_its_user_corrects_what_is_wrong() -> None:
    whole = after([refused(corrects=True)] * 3 + [refused(corrects=False)])
    new = Mixture().begin(whole)
    assert (new.corrected, new.refused) == (whole.corrected, whole.refused) == (3, 1)


def test_random_approvals_are_no_evidence_whichever_way_their_share_is_told() -> None:
    """Right or wrong at random, of somebody who never corrects: an expert that takes every other
    answer to be right is no better than that hypothesis, nor is it much worse."""
    random = [approved(0.5), refused(corrects=False)] * 100
    begun = Mixture().observe(Mixture().begin(None), approved(0.5)).mute
    assert after(random).mute == pytest.approx(begun, rel=0.3)


# ---------------------------------------------------------------------------------- several tasks


def muted(feedback: int, mute: float) -> Weights:
    cells = (1 - mute) / len(SHARPNESS) / len(NOISE)
    return Weights(
        cells={"a": (cells,) * len(SHARPNESS) * len(NOISE)}, mute=mute, feedback=feedback
    )


def test_feedback_that_means_something_elsewhere_is_believed_sooner() -> None:
    own, whole = muted(10, 0.6), muted(100, 0.01)
    found = Mixture().believed(own, whole)
    assert found.mute < 0.1
    assert sum(map(sum, found.cells.values())) + found.mute == pytest.approx(1)
    assert (found.log_loss, found.feedback) == (own.log_loss, own.feedback)


@pytest.mark.parametrize("whole", [muted(10, 0.6), muted(100, 1.0)], ids=["its own", "noise too"])
def test_other_tasks_without_a_meaning_leave_a_task_as_it_is(whole: Weights) -> None:
    own = muted(10, 0.6)
    assert Mixture().believed(own, whole).mute == pytest.approx(own.mute)


def test_the_more_of_the_feedback_is_other_tasks_the_more_it_counts() -> None:
    found = [Mixture().believed(muted(n, 0.6), muted(100, 0.0)).mute for n in (99, 50, 1)]
    assert found == sorted(found, reverse=True)
    assert 0 < found[-1] < 0.1 < 0.5 < found[0] < 0.6


def test_a_good_expert_is_trusted_though_a_fifth_of_the_feedback_is_flipped() -> None:
    rng = np.random.default_rng(3)
    weights = Mixture().begin(None)
    for right in rng.integers(K, size=400):
        said = rng.integers(K) if rng.random() < 0.2 else right
        opinions = {"a": sure(right, 0.99), FROZEN: sure(rng.integers(K)), "b": np.full(K, 1 / K)}
        weights = Mixture().observe(weights, told(said, opinions))
    assert totals(weights)["a"] > 0.8
    assert weights.mute < 0.1
    assert noise(weights) == pytest.approx(0.2, abs=0.1)


# ---------------------------------------------------------------------------------------- the blend


@given(OPINIONS, STREAMS)
def test_a_blend_is_exactly_the_sum_of_its_weighted_parts(
    opinions: dict[str, Array], stream: list[dict[str, Json]]
) -> None:
    found = blend(opinions, after(stream))
    assert set(found.weights) == set(found.parts) == set(opinions)
    assert sum(found.weights.values()) == pytest.approx(1)
    assert found.scores.sum() == pytest.approx(1)
    for part in found.parts.values():
        assert part.sum() == pytest.approx(1)
    again = sum(found.weights[e] * part for e, part in found.parts.items())
    np.testing.assert_allclose(found.scores, again)


@given(OPINIONS, STREAMS)
def test_no_expert_rules_an_answer_out(
    opinions: dict[str, Array], stream: list[dict[str, Json]]
) -> None:
    found = blend(opinions, after(stream))
    assert all((part >= FLOOR / K - 1e-12).all() for part in found.parts.values())
    barred = {e: np.where(np.arange(K) == 1, -np.inf, o) for e, o in opinions.items()}
    assert (blend(barred, after(stream)).scores > 0).all()


@given(LOGPROBS)
def test_a_sharper_reading_leaves_the_favourite_and_makes_it_surer(opinion: Array) -> None:
    read = sharpened(normalise(opinion))
    assert read.shape == (len(SHARPNESS), K)
    np.testing.assert_allclose(read.sum(1), 1)
    tops = [row.max() for row in read]
    assert tops == sorted(tops) or np.allclose(tops, sorted(tops))
    plain = (1 - FLOOR) * np.exp(normalise(opinion)) + FLOOR / K
    np.testing.assert_allclose(read[PLAIN], plain)


def test_what_is_muted_goes_to_the_frozen_expert_and_to_nobody_where_it_was_not_asked() -> None:
    weights = entered(Weights(), [FROZEN, "a"])
    opinions = {FROZEN: np.log(sure(0)), "a": np.log(sure(1))}
    both = blend(opinions, weights)
    assert both.mute == weights.mute > 0
    assert both.weights[FROZEN] == pytest.approx(totals(weights)[FROZEN])
    one = blend({"a": opinions["a"]}, weights)
    assert one.mute == 0
    assert one.weights == {"a": pytest.approx(1)}


def test_an_opinion_alone_is_left_as_it_is() -> None:
    found = alone("a", np.array([-3.0, -1.0]))
    np.testing.assert_allclose(found.scores, np.exp(normalise(np.array([-3.0, -1.0]))))
    assert found.weights == {"a": 1.0}


@given(OPINIONS, st.floats(0, 1))
def test_who_joins_gets_its_weight_and_the_others_share_the_rest(
    opinions: dict[str, Array], weight: float
) -> None:
    mixed = blend(opinions, Weights())
    found = joined(mixed, "exact", sure(2, 1.0), weight)
    assert found.weights["exact"] == weight
    assert sum(found.weights.values()) == pytest.approx(1)
    again = sum(found.weights[e] * part for e, part in found.parts.items())
    np.testing.assert_allclose(found.scores, again, atol=1e-12)


def test_without_feedback_nothing_is_known_of_the_noise() -> None:
    assert noise(Weights()) == 0
    assert min(NOISE) == 0  # or a right answer could never count in full


# --------------------------------------------------------------------------------------- bad input


def test_normalised_scores_are_probabilities_in_the_same_order() -> None:
    scores = np.array([-310.0, -300.0, -305.0])
    logp = normalise(scores)
    assert np.exp(logp).sum() == pytest.approx(1.0)
    assert list(np.argsort(logp)) == list(np.argsort(scores))
    assert logp[1] - logp[0] == pytest.approx(10.0)


def test_a_constant_added_to_an_experts_scores_changes_nothing() -> None:
    model, votes = np.array([-3.0, -1.0]), np.array([0.0, -2.0])
    before = blend({"model": model, "votes": votes}, Weights())
    after = blend({"model": model - 500.0, "votes": votes}, Weights())
    np.testing.assert_allclose(before.scores, after.scores)


@pytest.mark.parametrize(
    "scores", [[], [[0.0, 1.0]], [np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]]
)
def test_scores_that_are_no_scores_are_refused(scores: list[float]) -> None:
    with pytest.raises(InvalidSetting):
        normalise(np.array(scores))
    with pytest.raises(InvalidSetting):
        blend({"a": np.array(scores)}, Weights())


def test_no_opinion_and_uneven_candidates_are_refused() -> None:
    with pytest.raises(InvalidSetting, match="No opinion"):
        blend({}, Weights())
    with pytest.raises(InvalidSetting, match="different candidates"):
        blend({"a": np.zeros(2), "b": np.zeros(3)}, Weights())
