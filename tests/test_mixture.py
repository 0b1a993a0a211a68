import numpy as np
import pytest

from tta.decoding.mixture import FLOOR, combine, normalise
from tta.errors import InvalidSetting


def test_normalised_scores_are_probabilities_in_the_same_order() -> None:
    scores = np.array([-310.0, -300.0, -305.0])
    logp = normalise(scores)
    assert np.exp(logp).sum() == pytest.approx(1.0)
    assert list(np.argsort(logp)) == list(np.argsort(scores))
    assert logp[1] - logp[0] == pytest.approx(10.0)


def test_a_constant_added_to_an_experts_scores_changes_nothing() -> None:
    model, votes = np.array([-3.0, -1.0]), np.array([0.0, -2.0])
    weights = {"model": 0.4, "votes": 0.6}
    before = combine({"model": model, "votes": votes}, weights)
    after = combine({"model": model - 500.0, "votes": votes}, weights)
    np.testing.assert_allclose(before, after)


def test_the_pool_is_the_weighted_sum_of_log_probabilities() -> None:
    a, b = np.log([0.9, 0.1]), np.log([0.2, 0.8])
    pooled = combine({"a": a, "b": b}, {"a": 0.25, "b": 0.75})
    np.testing.assert_allclose(pooled, 0.25 * a + 0.75 * b)


def test_an_expert_of_weight_zero_has_no_say_even_when_it_forbids_an_answer() -> None:
    a, b = np.log([0.9, 0.1]), np.array([-np.inf, 0.0])
    np.testing.assert_allclose(combine({"a": a, "b": b}, {"a": 1.0, "b": 0.0}), a)
    assert combine({"a": a, "b": b}, {"a": 1.0, "b": 1.0}).argmax() == 1


@pytest.mark.parametrize(
    "scores", [[], [[0.0, 1.0]], [np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]]
)
def test_scores_that_are_no_scores_are_refused(scores: list[float]) -> None:
    with pytest.raises(InvalidSetting):
        normalise(np.array(scores))


@pytest.mark.parametrize("weight", [-0.1, np.nan, np.inf])
def test_a_weight_that_is_no_weight_is_refused_by_name(weight: float) -> None:
    with pytest.raises(InvalidSetting, match="'a'"):
        combine({"a": np.zeros(2)}, {"a": weight})


def test_missing_weights_opinions_and_uneven_candidates_are_refused() -> None:
    with pytest.raises(InvalidSetting, match="'a'"):
        combine({"a": np.zeros(2)}, {})
    with pytest.raises(InvalidSetting, match="No opinion"):
        combine({}, {})
    with pytest.raises(InvalidSetting, match="different candidates"):
        combine({"a": np.zeros(2), "b": np.zeros(3)}, {"a": 1.0, "b": 1.0})


def test_no_expert_may_veto() -> None:
    sure = np.array([0.0, -1000.0])
    memory = np.array([np.log(1e-5), 0.0])
    assert combine({"model": sure, "memory": memory}, {"model": 0.5, "memory": 1.0}).argmax() == 1
    assert combine({"model": sure}, {"model": 1.0})[1] == pytest.approx(np.log(FLOOR))
