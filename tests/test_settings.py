"""What the user says of a task: how much to spend, whom to trust, whether to think step by step."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from desk import ANSWER, ask, corrected

import tta
from tta import errors
from tta.decoding import budget, prior, thinking, thinks
from tta.decoding.experts import is_contender, is_needed, leads
from tta.decoding.mixture import Blend, pinned
from tta.memory.events import check, from_dict, to_dict
from tta.memory.fold import fold
from tta.request import make_request
from tta.testing import HashEmbedder
from tta.types import Event, EventKind, Json, Settings, Standing, Tally

HARD = "847+596="
"""The bundled model is unsure of it."""


@pytest.fixture
def desk() -> Iterator[tta.Adapted]:
    """Twenty corrections in."""
    with tta.wrap(None, embedder=HashEmbedder()) as chat:
        corrected(chat, 20)
        yield chat


def setting(**body: Json) -> Event:
    return Event(kind=EventKind.SETTING, user="ada", task="t", body=body)


# ------------------------------------------------------------------------------ as events


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"free": 1},
        {"samples": 0},
        {"samples": True},
        {"samples": 2.5},
        {"steps": "yes"},
        {"experts": {"frozen": 1.1}},
        {"experts": {"frozen": 0.6, "votes": 0.6}},
        {"experts": {"frozen": True}},
        {"experts": ["frozen"]},
        {"free": True, "colour": "red"},
    ],
)
def test_what_cannot_be_set_is_refused(body: dict[str, Json]) -> None:
    with pytest.raises(errors.InvalidSetting):
        check(setting(**body))


def test_of_each_thing_the_last_word_stands_and_survives_a_journey(tmp_path: Path) -> None:
    with tta.wrap(None, embedder=HashEmbedder(), memory=tmp_path / "a") as chat:
        chat.tasks.spend("t", 4)
        chat.tasks.hold("t", False)
        last = chat.tasks.spend("t", 8)
        chat.tasks.think("t")
        events = list(chat.memory.events())
        assert all(from_dict(json.loads(json.dumps(to_dict(e)))) == e for e in events)
    said = Settings(free=True, samples=8, steps=None)
    with tta.wrap(None, embedder=HashEmbedder(), memory=tmp_path / "a") as chat:
        assert chat.tasks.profile("t").settings == said
        assert chat.for_user("bob").tasks.profile("t").settings == Settings()
        chat.undo(last)
        assert chat.tasks.profile("t").settings.samples == 4
    with tta.wrap(None, embedder=HashEmbedder(), memory=tmp_path / "b") as other:
        other.memory.import_all(events)
        assert other.tasks.profile("t").settings == said
        other.forget(user=other.user)
        assert other.tasks.profile("t").settings == Settings()


def test_what_was_written_when_tasks_could_only_be_freed_is_read() -> None:
    old = {"id": "f", "kind": "freed", "user": "ada", "task": "t", "response": "", "time": 1.0}
    event = from_dict({**old, "body": {"free": True}})
    assert event.kind is EventKind.SETTING
    assert to_dict(event)["kind"] == "freed"
    assert dict(fold([event]).users["ada"].settings) == {"f": ("t", {"free": True})}


# -------------------------------------------------------------------------- who is trusted


def adds_up(reply: tta.Response) -> bool:
    weights = reply.why.weights
    assert sum(weights.values()) == pytest.approx(1)
    return all(
        candidate.score == pytest.approx(sum(w * candidate.parts[e] for e, w in weights.items()))
        for candidate in reply.candidates
    )


def test_the_profile_shows_whom_feedback_has_made_trusted(desk: tta.Adapted) -> None:
    experts = desk.tasks["team"].experts
    assert experts == pytest.approx(desk.health()[0].weights)
    assert list(experts.values()) == sorted(experts.values(), reverse=True)
    assert f"{next(iter(experts))} " in repr(desk.tasks)
    assert f"<td>{next(iter(experts))} " in desk.tasks._repr_html_().replace(
        ' style="text-align:left"', ""
    )


def test_an_expert_that_is_left_out_or_pinned_has_just_that_weight(desk: tta.Adapted) -> None:
    text = "I lost the refund! No. 99"
    before = ask(desk, text).why.weights
    leader = max(before, key=lambda name: before[name])
    learned = desk.tasks.trust("team", {leader: 0, "frozen": 0.25})
    reply = ask(desk, text)
    assert reply.why.weights[leader] == 0
    assert reply.why.weights["frozen"] == pytest.approx(0.25)
    assert adds_up(reply)
    assert desk.tasks["team"].experts["frozen"] == 0.25
    others = [name for name in before if name not in (leader, "frozen")]
    ratios = [reply.why.weights[name] / before[name] for name in others if before[name] > 1e-6]
    assert ratios == pytest.approx([ratios[0]] * len(ratios), rel=1e-3)
    desk.undo(learned)
    assert ask(desk, text).why.weights == pytest.approx(before)


def test_an_expert_that_is_left_out_is_not_heard_through_the_pool_either(
    desk: tta.Adapted,
) -> None:
    def parts(expert: str) -> dict[str, float]:
        reply = ask(desk, "I lost the refund! No. 99")
        return {candidate.text: candidate.parts[expert] for candidate in reply.candidates}

    pool, lda = parts("pool"), parts("lda")
    learned = desk.tasks.trust("team", {"lda": 0})
    assert parts("pool") != pytest.approx(pool)
    assert parts("lda") == pytest.approx(lda)
    desk.undo(learned)
    assert parts("pool") == pytest.approx(pool)


def test_an_expert_that_a_task_does_not_have_is_refused(desk: tta.Adapted) -> None:
    with pytest.raises(errors.InvalidSetting, match="forzen") as raised:
        desk.tasks.trust("team", {"forzen": 0})
    assert "frozen" in str(raised.value)
    with pytest.raises(errors.InvalidSetting):
        desk.tasks.trust("team", {"frozen": 2})
    assert desk.tasks["team"].settings == Settings()


def test_feedback_goes_on_to_be_counted_for_an_expert_that_is_left_out(desk: tta.Adapted) -> None:
    desk.tasks.trust("team", {"frozen": 0})
    before = desk.health()[0].feedback
    corrected(desk, 3, seed=1)
    assert desk.health()[0].feedback == before + 3
    desk.tasks.trust("team", {})
    assert desk.tasks["team"].experts["frozen"] > 0


def blended(**weights: float) -> Blend:
    parts = {name: np.eye(3)[i % 3] * 0.7 + 0.1 for i, name in enumerate(weights)}
    scores = np.array([w * parts[name] for name, w in weights.items()]).sum(0)
    return Blend(scores=scores, weights=weights, parts=parts)


def test_somebody_is_always_left_to_listen_to() -> None:
    mixed = blended(a=0.75, b=0.25)
    assert pinned(mixed, {}) is mixed
    assert pinned(mixed, {"other": 0.5}) is mixed
    assert pinned(mixed, {"a": 0, "b": 0}) is mixed
    assert pinned(mixed, {"a": 0}).weights == {"a": 0, "b": 1}
    assert pinned(mixed, {"a": 0.2, "b": 0.2}).weights == {"a": 0.5, "b": 0.5}
    assert pinned(blended(a=1.0, b=0.0), {"a": 0.2}).weights == {"a": 1, "b": 0}


def test_no_pass_is_spent_on_a_model_that_is_left_out() -> None:
    def said(**experts: float) -> Standing:
        return Standing(settings=Settings(experts=experts))

    assert leads(said()) == "recalled"
    assert leads(said(recalled=0)) == leads(said(frozen=1)) == "frozen"
    assert is_contender("frozen", said())
    assert not is_contender("frozen", said(frozen=0))
    passed = {"frozen": 0.0, "frozen/calibrated": 0.0, "frozen*all": 0.0}
    assert is_needed("frozen", said(frozen=0))
    assert not is_needed("frozen", said(**passed))


# ---------------------------------------------------------------------- how much is spent


def test_feedback_on_first_samples_is_the_prior(chat: tta.Adapted) -> None:
    for question, answer in (("12+5=", "17"), ("11+3=", "14"), (HARD, "1443")):
        reply = chat(question, task="sums", output=int)
        first = reply.why.samples[0]
        reply.correct(answer)
        assert (first == answer) is (question != HARD)
    assert chat.tasks["sums"].prior == (3, 2)
    assert chat.tasks["sums"].samples == 16
    assert "first is right with probability 0.60" in repr(chat.tasks)


def test_no_more_is_drawn_where_the_first_is_right_or_more_did_not_help() -> None:
    assert budget(Standing()) == 16
    assert prior(Standing(first=(20, 20))) == (21, 1)
    assert budget(Standing(first=(20, 20))) == 1
    assert budget(Standing(first=(20, 15))) == 16
    assert budget(Standing(first=(20, 15), sampled=Tally(steps=20))) == 1
    assert budget(Standing(first=(20, 20), settings=Settings(samples=6))) == 6


def test_the_users_budget_holds_where_the_call_says_nothing(chat: tta.Adapted) -> None:
    drawn = chat(HARD, task="sums", output=int).why.samples
    assert len(drawn) > 3
    spent = chat.tasks.spend("sums", 1)
    assert chat(HARD, task="sums", output=int).why.samples == drawn[:1]
    chat.tasks.spend("sums", 3)
    assert chat(HARD, task="sums", output=int).why.samples == drawn[:3]
    assert len(chat(HARD, task="sums").why.samples) > 1  # of free text, too
    assert len(chat(HARD, task="sums", output=int, n=5).why.samples) == 5
    assert len(chat(HARD, task="other", output=int).why.samples) > 3
    chat.tasks.spend("sums", None)
    assert chat(HARD, task="sums", output=int).why.samples == drawn
    with pytest.raises(errors.InvalidSetting):
        chat.tasks.spend("sums", 0)
    assert spent.reason == "set for this task: samples = 1"


# ----------------------------------------------------------------------- step by step


def test_steps_are_written_before_the_answer_and_are_part_of_the_prompt(chat: tta.Adapted) -> None:
    at_once, over = chat("12+5=", output=int), chat("12+5=", output=int, think=True)
    assert at_once.why.thought == ""
    assert over.why.thought
    assert over.context.prompt.endswith(chat.explain("12+5=").context.prompt[-20:])
    assert "step by step" in over.context.prompt
    assert "step by step" not in at_once.context.prompt
    assert over.cost.drawn > at_once.cost.drawn
    assert isinstance(over.value, int)
    assert over.request.prompt == "12+5="


def test_a_closed_set_and_a_stream_are_thought_over_too(chat: tta.Adapted) -> None:
    closed = chat("Is it raining?", output=["yes", "no"], think=True)
    assert closed.why.thought and adds_up(closed)
    chat.tasks.think("talk", True)
    stream = chat.stream("Is it raining?", task="talk", max_new_tokens=8)
    assert "".join(stream) == stream.response.text
    assert stream.response.why.thought


def test_nothing_is_thought_over_unless_it_was_allowed(chat: tta.Adapted) -> None:
    assert chat("12+5=", task="sums").why.thought == ""
    learned = chat.tasks.think("sums", True)
    assert chat("12+5=", task="sums").why.thought
    assert chat("12+5=", task="sums", think=False).why.thought == ""
    assert chat("12+5=", task="other").why.thought == ""
    chat.undo(learned)
    assert chat("12+5=", task="sums").why.thought == ""


def test_what_was_accepted_for_this_very_request_is_not_thought_over(chat: tta.Adapted) -> None:
    chat(ANSWER).correct("Gladly.")
    again = chat(ANSWER, think=True)
    assert (again.text, again.why.thought, again.cost.drawn) == ("Gladly.", "", 0)


def test_where_steps_are_tried_both_ways_are_counted(chat: tta.Adapted) -> None:
    chat("1+1=", task="sums", output=int).good()
    learned = chat.tasks.think("sums")
    thought = []
    for number in range(2, 10):
        reply = chat(f"{number}+1=", task="sums", output=int, n=1)
        thought.append(bool(reply.why.thought))
        reply.correct(str(number + 1))
    assert thought == [False, False, True, False, False, False, True, False]
    found = chat.tasks["sums"].steps
    assert (found.over[0], found.at_once[0]) == (2, 6)
    assert "steps: " in repr(chat.tasks)
    assert chat.memory.state == fold(chat.memory.events(), chat.memory._weigher)
    chat.undo(learned)
    assert chat.tasks["sums"].steps.wanted is False


def test_how_probably_steps_are_better_is_as_in_draws_of_both() -> None:
    rng = Random(0)
    for over, at_once in (((8, 6), (24, 9)), ((5, 1), (15, 12)), ((3, 2), (9, 6))):
        found = thinking(Standing(steps={True: over, False: at_once}))

        def draw(told: tuple[int, int]) -> float:
            return rng.betavariate(1 + told[1], 1 + told[0] - told[1])

        share = sum(draw(over) > draw(at_once) for _ in range(20_000)) / 20_000
        assert found.better == pytest.approx(share, abs=0.02)


def test_steps_are_kept_where_they_pay_and_left_where_they_do_not() -> None:
    def chosen(over: tuple[int, int], at_once: tuple[int, int], **said: Any) -> list[bool | None]:
        request = make_request("?", user="ada", **said)
        settings = Settings(steps=None)
        return [
            thinks(
                request,
                Standing(answers=n, settings=settings, steps={True: over, False: at_once}),
            )
            for n in range(100, 200)
        ]

    assert sum(map(bool, chosen((4, 2), (12, 6)))) == 25
    assert sum(map(bool, chosen((20, 18), (60, 20)))) >= 95
    assert sum(map(bool, chosen((20, 2), (60, 40)))) <= 5
    assert chosen((20, 2), (60, 40), think=True) == [True] * 100
    assert chosen((20, 18), (60, 20), think=False) == [None] * 100


def test_a_model_without_room_for_steps_answers_at_once(tiny: tta.Adapted) -> None:
    reply = tiny("word " * 30, think=True, max_new_tokens=4)
    assert reply.why.thought == ""
    assert reply.text


def test_a_prompt_that_goes_on_is_read_as_one_text(chat: tta.Adapted, tiny: tta.Adapted) -> None:
    for model in (chat.model, tiny.model):
        assert model is not None
        prompt = model.render([tta.Message(role="user", content="12+5=")])
        longer = model.continued(prompt, "First 12.\nAnswer:\n")
        assert longer.text == prompt.text + "First 12.\nAnswer:\n"
        assert model.tokenizer.decode(list(longer.ids)) == longer.text


def test_without_a_model_there_is_nothing_to_think_with(names_only: tta.Adapted) -> None:
    reply = names_only("Is it?", output=["yes", "no"], think=True)
    assert reply.why.thought == ""
    with pytest.raises(errors.InvalidSetting):
        names_only("Is it?", output=["yes", "no"], think="often")  # type: ignore[arg-type]
