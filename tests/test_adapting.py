"""What feedback does to the answers that follow, step by step through the public surface."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from pathlib import Path
from typing import Any

import pytest
from conftest import build, train_tokenizer
from desk import ANSWER, QUESTION, TEAMS, ask, corrected, requests, weights

import tta
from tta import errors
from tta.decoding.experts import NEGLIGIBLE, TRIED, names
from tta.testing import HashEmbedder

# ----------------------------------------------------------------------------- the very next step


def test_an_empty_memory_answers_as_the_frozen_model(tiny: tta.Adapted) -> None:
    for text, _ in requests(4):
        closed, frozen = ask(tiny, text), tiny.frozen(text, output=TEAMS)
        assert closed.text == frozen.text
        assert closed.confidence == pytest.approx(frozen.confidence)
    assert tiny(QUESTION, max_new_tokens=9).text == tiny.frozen(QUESTION, max_new_tokens=9).text


def test_an_empty_memory_without_a_model_answers_by_names(names_only: tta.Adapted) -> None:
    for text, _ in requests(4):
        frozen = names_only.frozen(text, output=TEAMS)
        reply = ask(names_only, text)
        assert [c.text for c in reply.candidates] == [c.text for c in frozen.candidates]
        assert reply.confidence == pytest.approx(frozen.confidence)


@pytest.mark.parametrize("team", TEAMS)
def test_a_corrected_choice_is_chosen_at_once(names_only: tta.Adapted, team: str) -> None:
    corrected(names_only, 12)
    ask(names_only, QUESTION).correct(team)
    again = ask(names_only, QUESTION)
    assert again.text == team
    assert again.why.spoke_for[0].record.answer == team


def test_an_open_correction_is_given_at_once_without_the_model(chat: tta.Adapted) -> None:
    chat(QUESTION).correct(ANSWER)
    again = chat(QUESTION)
    assert again.text == ANSWER
    assert (again.cost.passes, again.cost.drawn) == (0, 0)
    assert again.confidence == pytest.approx(1)
    assert list(again.why.weights) == ["exact"]


def test_a_new_answer_arrives_with_a_correction(names_only: tta.Adapted) -> None:
    corrected(names_only, 6)
    ask(names_only, QUESTION).correct("violet")
    wider = names_only(QUESTION, output=[*TEAMS, "violet"], task="team")
    assert wider.text == "violet"
    assert ask(names_only, QUESTION).text in TEAMS


def test_a_refused_choice_is_not_repeated_for_the_same_text(names_only: tta.Adapted) -> None:
    corrected(names_only, 12)
    seen = []
    for _ in TEAMS:
        reply = ask(names_only, QUESTION)
        seen.append(reply.text)
        reply.bad()
    assert sorted(seen) == sorted(TEAMS)


def test_scores_are_exactly_the_weighted_parts_and_sum_to_one(tiny: tta.Adapted) -> None:
    corrected(tiny, 5)
    tiny(QUESTION, max_new_tokens=5).bad()
    replies = [
        ask(tiny, QUESTION),
        ask(tiny, requests(1)[0][0]),
        *(tiny(text, n=3, max_new_tokens=5) for text in (QUESTION, "Hello")),
    ]
    for reply in replies:
        for candidate in reply.candidates:
            total = sum(reply.why.weights[e] * part for e, part in candidate.parts.items())
            assert candidate.score == pytest.approx(total, abs=1e-12)
        assert sum(c.score for c in reply.candidates) == pytest.approx(1)
        assert sum(reply.why.weights.values()) == pytest.approx(1)
        second = reply.candidates[1].score if len(reply.candidates) > 1 else 0.0
        gap = reply.candidates[0].score - second
        if reply.request.output is not None:
            assert reply.confidence == reply.candidates[0].score
            assert reply.margin == pytest.approx(gap)
        else:  # how sure the model was of its tokens counts, too
            assert 0 < reply.confidence < 1
            assert reply.margin <= gap


def test_the_confidence_in_open_answers_follows_how_often_they_were_right(
    tiny: tta.Adapted,
) -> None:
    before = tiny("Say one.", task="open", max_new_tokens=5).confidence
    for number in range(12):
        tiny(f"Say {number}.", task="open", max_new_tokens=5).correct(f"never {number}")
    after = tiny("Say one hundred.", task="open", max_new_tokens=5).confidence
    assert after < 0.3 < 1 > before
    learned = [tiny(f"Tell {n}.", task="other", max_new_tokens=5).good() for n in range(12)]
    sure = tiny("Tell one hundred.", task="other", max_new_tokens=5).confidence
    assert sure > 0.6
    for each in learned:
        tiny.undo(each)
    assert tiny("Tell one hundred.", task="other", max_new_tokens=5).confidence < sure


# -------------------------------------------------------------------------------- cost follows use


def test_a_model_that_counts_for_little_is_not_asked_but_at_perfect_squares(
    tiny: tta.Adapted,
) -> None:
    skipping = 0
    for n, (text, team) in enumerate(requests(80)):
        known = tiny.memory.standing(user="default", task="team")
        reply = ask(tiny, text)
        share = sum(reply.why.weights.get(e, 0.0) for p in ("frozen", "recalled") for e in names(p))
        if known.weights.feedback < TRIED or isqrt(n + 1) ** 2 == n + 1:
            assert reply.cost.passes > 0
        if reply.cost.passes == 0:
            skipping += 1
            assert {*names("frozen"), *names("recalled")} <= set(reply.why.skipped)
            assert share == 0
        elif not reply.why.skipped:
            assert set(names("frozen")) & set(reply.why.weights)
        reply.correct(team)
    assert skipping > 10
    learned = weights(tiny)
    model_share = {p: sum(learned.get(e, 0.0) for e in names(p)) for p in ("frozen", "recalled")}
    assert all(share < 2 * NEGLIGIBLE for share in model_share.values())


# ----------------------------------------------------------------------------- reopening and scopes


def test_late_feedback_moves_the_weights_all_the_same(tmp_path: Path) -> None:
    def run(folder: Path, reopen: bool) -> tuple[tta.Health, ...]:
        chat = tta.wrap(None, memory=folder, embedder=HashEmbedder())
        corrected(chat, 8)
        reply = ask(chat, QUESTION)
        if reopen:
            chat.close()
            chat = tta.wrap(None, memory=folder, embedder=HashEmbedder())
        chat.learn(tta.Correction(response=reply.id, text="amber"))
        found = chat.health()
        chat.close()
        return found

    assert run(tmp_path / "a", reopen=True) == run(tmp_path / "b", reopen=False)


@pytest.mark.parametrize("fixture", ["tiny", "names_only"])
def test_late_feedback_counts_for_the_powers_that_its_answer_was_given_with(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    chat: tta.Adapted = request.getfixturevalue(fixture)
    corrected(chat, 8)
    waiting = ask(chat, QUESTION)
    corrected(chat, 12)
    at_once = ask(chat, QUESTION)
    at_once.correct("coral")
    waiting.correct("coral")
    found: dict[str, Any] = {event.id: event.body for event in chat.memory.events()}
    now, late = list(found.values())[-2:]
    for heard, reply in ((now["heard"], at_once), (late["heard"], waiting)):
        powers = found[reply.id]["opinions"]["powers"]
        along = sum(by * powers[name] for name, by in heard["slopes"].items())
        assert heard["reached"] == pytest.approx(along, rel=1e-3)
    kept = [found[reply.id]["opinions"] for reply in (waiting, at_once)]
    assert kept[0]["powers"] != kept[1]["powers"]


def test_a_reopened_memory_gives_the_same_answer(tmp_path: Path) -> None:
    with tta.wrap(None, memory=tmp_path / "m", embedder=HashEmbedder()) as first:
        corrected(first, 20)
        before, health = ask(first, QUESTION), first.health()
    with tta.wrap(None, memory=tmp_path / "m", embedder=HashEmbedder()) as again:
        assert again.health() == health
        after = ask(again, QUESTION)
    assert [c.text for c in after.candidates] == [c.text for c in before.candidates]
    for one, other in zip(after.candidates, before.candidates, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-6)


def test_the_same_history_gives_the_same_answers() -> None:
    def run() -> list[Sequence[Any]]:
        model, tokenizer = build("llama"), train_tokenizer(chat=True)
        with tta.wrap(model, tokenizer, embedder=HashEmbedder(), budget=64) as chat:
            corrected(chat, 6)
            chat(QUESTION, max_new_tokens=9).bad()
            replies = [ask(chat, QUESTION), chat(QUESTION, n=3, seed=4, max_new_tokens=9)]
            return [r.candidates for r in replies]

    assert run() == run()


def test_what_a_wider_scope_knows_is_used_by_who_may_read_it(names_only: tta.Adapted) -> None:
    team, ada = names_only.for_user("team"), names_only.for_user("ada")
    corrected(team, 60)
    reader = names_only.for_user("bob", reads=("team", tta.EVERYONE))
    strict, wide = corrected(ada, 12, seed=5), corrected(reader, 12, seed=5)
    assert sum(wide) > sum(strict)
    used = ask(reader, QUESTION).why.weights
    assert any(name.endswith("@team") for name in used)
    assert any(name.endswith("@*") for name in used)
    assert not any("@" in name for name in ask(ada, QUESTION).why.weights)


def test_a_wider_scope_that_knows_nothing_leaves_the_frozen_answer(tiny: tta.Adapted) -> None:
    reader = tiny.for_user("bob", reads=("team", tta.EVERYONE))
    for text, _ in requests(4):
        reply, frozen = ask(reader, text), tiny.frozen(text, output=TEAMS)
        assert (reply.text, reply.why.weights) == (frozen.text, {"frozen": 1.0})


def test_reading_writes_nothing_to_the_wider_scope(names_only: tta.Adapted) -> None:
    team = names_only.for_user("team")
    corrected(team, 6)
    before = list(names_only.memory.events("team"))
    corrected(names_only.for_user("bob", reads=("team",)), 6, seed=9)
    assert list(names_only.memory.events("team")) == before


def test_strict_users_never_hear_of_another(names_only: tta.Adapted) -> None:
    ada, bob = names_only.for_user("ada"), names_only.for_user("bob")
    corrected(bob, 10)
    before = ask(bob, QUESTION)
    corrected(ada, 30, seed=3)
    ask(ada, QUESTION).correct("teal")
    names_only.forget(user="ada")
    after = ask(bob, QUESTION)
    assert after.candidates == before.candidates
    assert after.why.weights == before.why.weights


def test_all_users_together_can_be_read_and_not_written_to(names_only: tta.Adapted) -> None:
    for attempt in (
        lambda: names_only.for_user(tta.EVERYONE),
        lambda: ask(names_only, QUESTION, user="*"),
        lambda: tta.wrap(None, embedder=HashEmbedder(), user="*"),
        lambda: names_only.forget(user="*"),
    ):
        with pytest.raises(errors.InvalidSetting, match="can only be read"):
            attempt()
    with pytest.raises(errors.InvalidSetting, match="list of scopes"):
        names_only.for_user("ada", reads="team")
    assert list(names_only.memory.events()) == []


# ----------------------------------------------------------------------- verifying and being asked


def test_the_verifier_is_one_expert_over_open_answers(chat: tta.Adapted) -> None:
    plain = chat("847+596=", n=6, seed=1)
    wanted = plain.candidates[-1].text
    assert wanted != plain.text
    seen: list[Any] = []

    def verify(value: Any) -> bool:
        seen.append(value)
        return bool(value == wanted)

    chat("Say something.").bad()  # before any feedback the model speaks alone
    verified = chat("847+596=", n=6, seed=1, verify=verify)
    assert set(seen) >= {c.text for c in plain.candidates}
    assert "verifier" in verified.why.weights
    parts = {c.text: c.parts["verifier"] for c in verified.candidates}
    assert parts[wanted] > 0.5
    assert max(parts, key=lambda text: parts[text]) == wanted


@pytest.mark.parametrize("verdict", [2.0, -0.5])
def test_a_verdict_out_of_range_is_refused(chat: tta.Adapted, verdict: float) -> None:
    with pytest.raises(errors.InvalidSetting, match="verify gave"):
        chat("847+596=", n=6, seed=1, verify=lambda value: verdict)
    assert list(chat.memory.events()) == []


def asking(chat: tta.Adapted, share: float, *, teach: bool) -> list[tuple[bool, float]]:
    """Whether to ask, and the margin, of each step after the first twenty."""
    found = []
    for text, team in requests(150):
        reply = ask(chat, text)
        wanted = chat.wants_feedback(reply, share)
        found.append((wanted, reply.margin))
        if wanted and teach:
            reply.correct(team)
    return found[20:]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 1.0])
def test_an_app_is_told_to_ask_about_its_share_of_steps(
    names_only: tta.Adapted, share: float
) -> None:
    asked = [wanted for wanted, _ in asking(names_only, share, teach=False)]
    assert sum(asked) / len(asked) == pytest.approx(share, abs=0.1)


def test_what_is_asked_about_is_close_and_no_more_than_its_share(names_only: tta.Adapted) -> None:
    found = asking(names_only, 0.3, teach=True)
    yes = [margin for wanted, margin in found if wanted]
    no = [margin for wanted, margin in found if not wanted]
    assert 0 < len(yes) / len(found) < 0.4
    assert sum(yes) / len(yes) < sum(no) / len(no)


def test_answers_without_a_rival_are_asked_about_on_their_share(tiny: tta.Adapted) -> None:
    asked = [tiny.wants_feedback(tiny("Hello", task="greet", max_new_tokens=2)) for _ in range(40)]
    assert 4 <= sum(asked[10:]) <= 15


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_that_is_none_is_refused(names_only: tta.Adapted, share: float) -> None:
    reply = ask(names_only, QUESTION)
    with pytest.raises(errors.InvalidSetting):
        names_only.wants_feedback(reply, share)


def test_what_was_accepted_within_a_conversation_is_not_forced_on_another(
    tiny: tta.Adapted,
) -> None:
    def asked(about: str) -> list[dict[str, str]]:
        turns = [("user", f"Shall I {about}?"), ("assistant", "Please confirm."), ("user", "yes")]
        return [{"role": role, "content": content} for role, content in turns]

    tiny(asked("cancel it"), task="talk", max_new_tokens=5).correct("It is cancelled.")
    assert tiny(asked("send it"), task="talk", max_new_tokens=5).cost.passes > 0
    assert tiny("yes", task="talk").text == "It is cancelled."


def test_a_small_reward_does_not_settle_an_answer(tiny: tta.Adapted) -> None:
    tiny(QUESTION, task="open", max_new_tokens=5).reward(0.1)
    assert tiny(QUESTION, task="open", max_new_tokens=5).cost.passes > 0
    tiny(QUESTION, task="open", max_new_tokens=5).reward(0.9)
    assert tiny(QUESTION, task="open", max_new_tokens=5).cost.passes == 0


def test_a_verifier_of_a_closed_set_is_refused(names_only: tta.Adapted) -> None:
    with pytest.raises(errors.InvalidSetting, match="verify"):
        names_only(QUESTION, output=list(TEAMS), verify=lambda value: True)


def test_what_was_learned_carries_over_to_a_near_request() -> None:
    with tta.wrap(None) as desk:  # the real embedder: "near" has to mean something
        first = desk("My card was stolen.", output=list(TEAMS))
        wanted = next(team for team in TEAMS if team != first.text)
        first.correct(wanted)
        second = desk("I lost my card.", output=list(TEAMS))
        assert second.task.name == first.task.name  # the same answers are asked for
        assert second.text == wanted
        third = desk("Sort this letter: my card was stolen.", output=[*TEAMS, "nobody"])
        assert third.task.name != first.task.name  # but what is near is lent
        assert third.text == wanted
