"""Whom feedback makes trusted: weights, health, noise, and who wants to be obeyed."""

from __future__ import annotations

import random
from typing import Any

import pytest
from desk import QUESTION, TEAMS, THINGS, ask, corrected, requests, weights

import tta
from tta.decoding import Mixture
from tta.decoding.experts import relied
from tta.memory.trust import Trust
from tta.types import Json


def test_corrections_teach_and_health_says_so(names_only: tta.Adapted) -> None:
    right = corrected(names_only, 120)
    assert sum(right[60:]) > 50
    health = names_only.health()[0]
    assert (health.user, health.task, health.feedback) == ("default", "team", 120)
    assert health.steps == 120
    assert health.accuracy == pytest.approx(sum(right) / 120)
    assert health.gain == pytest.approx(health.accuracy - health.frozen_accuracy)
    low, high = health.interval
    assert 0 < low < health.gain < high < 1
    assert not health.muted
    assert sum(health.weights.values()) == pytest.approx(1)
    assert list(health.weights.values()) == sorted(health.weights.values(), reverse=True)
    assert health.noise < 0.1
    assert health.log_loss <= min(health.expert_log_loss.values()) + health.bound
    assert next(iter(health.weights)) in health.why
    assert "team" in str(health)


def test_health_knows_frozen_accuracy_from_the_same_steps(names_only: tta.Adapted) -> None:
    expected = 0
    for text, team in requests(30):
        expected += names_only.frozen(text, output=TEAMS).text == team
        ask(names_only, text).correct(team)
    assert names_only.health()[0].frozen_accuracy == pytest.approx(expected / 30)


def test_without_feedback_there_is_no_health(names_only: tta.Adapted) -> None:
    ask(names_only, QUESTION)
    assert names_only.health() == ()
    assert names_only.health("bob") == ()


@pytest.mark.parametrize("kind", ["answers", "bits"])
def test_random_feedback_is_muted_and_the_answers_stay_the_frozen_ones(
    names_only: tta.Adapted, kind: str
) -> None:
    rng = random.Random(1)
    same = []
    for n in range(200):
        # Requests that name a team, so that the frozen opinion is sure.
        text = f"{rng.choice(TEAMS)} {rng.choice(THINGS)} {n}"
        reply = ask(names_only, text)
        same.append(reply.text == names_only.frozen(text, output=TEAMS).text)
        if kind == "answers":
            reply.correct(rng.choice(TEAMS))
        else:
            reply.reward(rng.choice([-1.0, 1.0]))
    health = names_only.health()[0]
    assert health.muted
    assert health.why.startswith("muted")
    assert sum(same[100:]) >= 95
    assert ask(names_only, "another teal ticket").why.muted > 0 or health.weights["frozen"] > 0.5


def test_a_user_who_always_wants_another_answer_than_usual_is_obeyed(
    names_only: tta.Adapted,
) -> None:
    others = dict(zip(TEAMS, [*TEAMS[1:], TEAMS[0]], strict=True))
    obeyed = []
    for n in range(120):
        team = TEAMS[n * 7 % 4]
        reply = ask(names_only, f"the {team} {THINGS[n % 3]} {n}")
        obeyed.append(reply.text == others[team])
        reply.correct(others[team])
    assert sum(obeyed[80:]) >= 36
    assert not names_only.health()[0].muted


@pytest.mark.parametrize(
    "feedback",
    [
        lambda reply: reply.good(),
        lambda reply: reply.bad(),
        lambda reply: reply.reward(-0.5),
        lambda reply: reply.prefer(1),
        lambda reply: reply.edit(0, len(reply.text), reply.candidates[2].text),
        lambda reply: reply.correct(reply.candidates[1].text),
    ],
    ids=["good", "bad", "reward", "prefer", "edit", "correct"],
)
def test_every_kind_of_verdict_moves_the_weights(names_only: tta.Adapted, feedback: Any) -> None:
    corrected(names_only, 12)
    before = weights(names_only)
    feedback(ask(names_only, "Is there a new refund?"))
    assert weights(names_only) != before


def test_a_note_or_a_rule_moves_no_weight(names_only: tta.Adapted) -> None:
    corrected(names_only, 12)
    before = weights(names_only)
    ask(names_only, QUESTION).note("parcels are packages")
    names_only.rule("Be brief.", task="team")
    assert weights(names_only) == before


@pytest.mark.parametrize("feedback", ["reward", "prefer", "edit", "correct"])
def test_verdicts_on_open_answers_move_the_weights(chat: tta.Adapted, feedback: str) -> None:
    chat.rule("Be brief.")
    reply = chat("847+596=", n=6, seed=1, task="sum")
    assert len(reply.candidates) > 1
    other = reply.candidates[1].text
    if feedback == "reward":
        reply.reward(-1.0)
    elif feedback == "prefer":
        reply.prefer(1)
    elif feedback == "edit":
        reply.edit(0, len(reply.text), other)
    else:
        reply.correct(other)
    (health,) = chat.health()
    assert (health.task, health.feedback) == ("sum", 1)
    assert health.weights


def test_health_knows_of_open_answers_that_had_no_rival(chat: tta.Adapted) -> None:
    chat("Greet Ada.", task="greet").correct("Dear Ada,")
    (health,) = chat.health()
    assert (health.task, health.feedback, health.steps) == ("greet", 0, 1)
    assert (health.accuracy, health.muted, health.weights) == (0.0, False, {})
    assert "yet" in health.why


def test_feedback_that_says_nothing_of_the_experts_is_experience(names_only: tta.Adapted) -> None:
    learned = ask(names_only, QUESTION).prefer("mauve")
    assert names_only.health() == ()
    teams = [*TEAMS, "mauve"]
    reply = names_only("Where is my parcel now?", output=teams, task="team")
    assert len(reply.why.weights) > 1
    assert reply.text == "mauve"
    names_only.undo(learned)
    reply = names_only("Where is my parcel now?", output=teams, task="team")
    assert reply.why.weights == {"frozen": 1.0}


def test_an_undo_takes_the_weights_back(names_only: tta.Adapted) -> None:
    corrected(names_only, 12)
    before, health = ask(names_only, QUESTION), names_only.health()
    learned = ask(names_only, "The refund is late.").correct("amber")
    assert names_only.health() != health
    names_only.undo(learned)
    assert names_only.health() == health
    assert ask(names_only, QUESTION).candidates == before.candidates


def test_confidence_without_memory_says_nothing_of_confidence_with_it() -> None:
    trust = Trust()
    told: dict[str, Json] = {"likelihood": {}, "outcomes": 2, "confidence": 0.95}
    for i in range(20):
        wrong: dict[str, Json] = {**told, "right": 0.0, "aided": False}
        right: dict[str, Json] = {**told, "right": 1.0, "aided": True}
        trust.learn(f"bare {i}", "t", wrong, Mixture())
        trust.learn(f"aided {i}", "t", right, Mixture())
    known = trust.standing("t", Mixture())
    assert relied(0.95, known.unaided) < 0.1
    assert relied(0.95, known.reliability) > 0.9
    trust.undo("aided 3", Mixture())
    assert sum(count for count, _ in trust.standing("t", Mixture()).reliability) == 19
