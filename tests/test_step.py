"""One step and the way back, through the public surface, with the bundled model."""

import copy
import pickle
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Literal

import pytest

import tta
from tta import errors
from tta.testing import HashEmbedder

QUESTION = "Where is my parcel?"
ANSWER = "Ask for the tracking number first."


class Colour(Enum):
    RED = "red"
    BLUE = "blue"
    GREEN = "green"


@pytest.fixture
def forwards(model: tuple[Any, Any]) -> Iterator[list[list[int]]]:
    """The token ids of the first row of every forward pass of the wrapped model."""
    seen: list[list[int]] = []

    def note(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        seen.append(ids[0].tolist())

    handle = model[0].register_forward_pre_hook(note, with_kwargs=True)
    yield seen
    handle.remove()


def test_a_correction_is_effective_in_the_very_next_step(chat: tta.Adapted) -> None:
    before = chat(QUESTION)
    assert before.text != ANSWER
    learned = before.correct(ANSWER)
    after = chat(QUESTION)
    assert after.text == ANSWER
    assert ANSWER in after.context.prompt
    assert {r.record.id for r in after.context.shown} <= {r.id for r in learned.added}


def test_a_correction_changes_the_next_choice_of_a_closed_set(chat: tta.Adapted) -> None:
    first = chat("mavilo tuneb", output=["kade", "lopi", "zumo"])
    wanted = next(c.text for c in reversed(first.candidates))
    first.correct(wanted)
    assert chat("mavilo tuneb", output=["kade", "lopi", "zumo"]).text == wanted


def test_a_refused_choice_loses_share(chat: tta.Adapted) -> None:
    first = chat("mavilo tuneb", output=["kade", "lopi"], task="t")
    first.bad()
    again = chat("mavilo tuneb", output=["kade", "lopi"], task="t")
    assert again.text != first.text


def test_a_refused_open_answer_is_not_repeated_while_there_is_another(chat: tta.Adapted) -> None:
    unsure = "847+596="  # the bundled model has several guesses
    first = chat(unsure)
    first.bad()
    again = chat(unsure)
    assert again.text != first.text
    assert "refused before" in again.why.stopped


def test_what_is_shown_as_prompt_is_exactly_what_the_model_saw(
    chat: tta.Adapted, forwards: list[list[int]], model: tuple[Any, Any]
) -> None:
    chat(QUESTION).correct(ANSWER)
    chat.rule("Answer in upper case.")
    forwards.clear()
    reply = chat("Where is my bag?")
    assert model[1].decode(forwards[0]) == reply.context.prompt
    assert reply.context.tokens == len(forwards[0])
    assert "Answer in upper case." in reply.context.prompt


def test_learning_runs_no_model(chat: tta.Adapted, forwards: list[list[int]]) -> None:
    reply = chat(QUESTION, n=2)
    forwards.clear()
    reply.good()
    reply.correct(ANSWER)
    reply.note("a parcel is a package")
    reply.edit(0, 1, "X")
    reply.prefer("Something else.")
    chat.rule("Be brief.")
    chat.explain(QUESTION)
    assert forwards == []


def test_the_parts_of_a_score_add_up(chat: tta.Adapted) -> None:
    chat("mavilo tuneb", output=["kade", "lopi"], task="t").correct("lopi")
    reply = chat("mavilo tuneb", output=["kade", "lopi"], task="t")
    for candidate in reply.candidates:
        total = sum(reply.why.weights[name] * part for name, part in candidate.parts.items())
        assert candidate.score == pytest.approx(total)
    assert reply.why.spoke_for[0].record.answer == "lopi"


def test_one_users_memory_never_changes_another_users_answer(chat: tta.Adapted) -> None:
    bob = chat.for_user("bob")
    choices = ["kade", "lopi", "zumo"]
    open_before = bob(QUESTION, n=3, seed=5)
    closed_before = bob("mavilo tuneb", output=choices, task="t")
    ada = chat.for_user("ada")
    ada(QUESTION).correct(ANSWER)
    ada.rule("Answer in upper case.")
    ada(QUESTION).note("parcel means package")
    ada("mavilo tuneb", output=choices, task="t").correct(closed_before.candidates[-1].text)
    open_after = bob(QUESTION, n=3, seed=5)
    closed_after = bob("mavilo tuneb", output=choices, task="t")
    assert open_after.candidates == open_before.candidates
    assert open_after.context == open_before.context
    assert closed_after.candidates == closed_before.candidates


def test_same_seed_and_same_journal_give_the_same_answer(model: tuple[Any, Any]) -> None:
    def run() -> list[tuple[str, ...]]:
        with tta.wrap(*model, embedder=HashEmbedder()) as chat:
            chat(QUESTION).correct(ANSWER)
            replies = [chat("Where is my bag?", n=4, seed=s) for s in (1, 2)]
            return [tuple(c.text for c in reply.candidates) for reply in replies]

    assert run() == run()


def test_undo_is_as_if_the_feedback_had_never_been_given(chat: tta.Adapted) -> None:
    chat.rule("Answer in upper case.")
    before = chat("Where is my bag?")
    learned = [chat("Where is my bag?").correct("Look in the hall."), chat.rule("Be brief.")]
    assert chat("Where is my bag?").text != before.text
    for one in learned:
        chat.undo(one)
    after = chat("Where is my bag?")
    assert (after.text, after.context) == (before.text, before.context)


def test_forgetting_a_user_leaves_the_frozen_model(chat: tta.Adapted) -> None:
    ada = chat.for_user("ada")
    ada(QUESTION).correct(ANSWER)
    assert chat.forget(user="ada") == 2
    assert ada(QUESTION).text == chat.frozen(QUESTION).text
    assert ANSWER not in ada.explain(QUESTION).context.prompt


def test_frozen_is_untouched_by_memory_and_records_nothing(chat: tta.Adapted) -> None:
    before = chat.frozen(QUESTION)
    chat(QUESTION).correct(ANSWER)
    events = len(list(chat.memory.events()))
    after = chat.frozen(QUESTION)
    assert (after.text, after.context) == (before.text, before.context)
    assert len(list(chat.memory.events())) == events


def test_compare_shows_both(chat: tta.Adapted) -> None:
    chat(QUESTION).correct(ANSWER)
    both = chat.compare(QUESTION)
    assert both.adapted.text == ANSWER != both.frozen.text
    assert "<td" in both._repr_html_()


def test_compare_asks_both_for_the_same_user(chat: tta.Adapted) -> None:
    both = chat.compare(QUESTION, user="ada")
    assert both.frozen.request.user == both.adapted.request.user == "ada"


def test_values_are_typed(chat: tta.Adapted) -> None:
    assert isinstance(chat("red or blue?", output=Colour).value, Colour)
    assert chat("one or two?", output=Literal["one", "two"]).value in ("one", "two")
    date = chat("a date", output=tta.Regex(r"\d{4}-\d{2}"), max_new_tokens=20)
    assert len(date.value) == 7


def test_feedback_may_come_later_by_id(chat: tta.Adapted) -> None:
    reply = chat(QUESTION, user="ada")
    learned = chat.learn(tta.Correction(response=reply.id, text=ANSWER), user="ada")
    assert learned.added
    assert chat(QUESTION, user="ada").text == ANSWER


def test_the_same_feedback_twice_is_one_event(chat: tta.Adapted) -> None:
    reply = chat(QUESTION)
    feedback = tta.Correction(response=reply.id, text=ANSWER, id="once")
    chat.learn(feedback)
    events = len(list(chat.memory.events()))
    again = chat.learn(feedback)
    assert len(list(chat.memory.events())) == events
    assert not again.added
    assert again.reason
    with pytest.raises(errors.ConflictingId, match="once"):
        chat.learn(tta.Correction(response=reply.id, text="Something else.", id="once"))


def test_feedback_on_anothers_or_an_unknown_response_is_refused(chat: tta.Adapted) -> None:
    reply = chat(QUESTION, user="ada")
    with pytest.raises(errors.WrongUser):
        chat.learn(tta.Rating(response=reply.id, value=1.0), user="bob")
    with pytest.raises(errors.UnknownResponse, match="nope"):
        chat.learn(tta.Rating(response="nope", value=1.0))
    with pytest.raises(errors.UnknownFeedback, match="nope"):
        chat.undo("nope")
    mine = reply.good()
    with pytest.raises(errors.WrongUser):
        chat.undo(mine, user="bob")


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ("", errors.InvalidText),
        (" \n", errors.InvalidText),
        ("lone \ud800 surrogate", errors.InvalidText),
        ([], errors.InvalidText),
        ([{"role": "assistant", "content": "hi"}], errors.InvalidText),
        ([{"role": "robot", "content": "hi"}], errors.InvalidText),
        ([{"content": "hi"}], errors.InvalidText),
        ("word " * 200_000, errors.PromptTooLong),
    ],
)
def test_a_bad_prompt_is_refused_and_nothing_is_recorded(
    chat: tta.Adapted, prompt: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        chat(prompt)
    assert list(chat.memory.events()) == []


@pytest.mark.parametrize("prompt", ["nul \0 byte", "مرحبا كيف حالك", "😀" * 50, "a\r\nb\tc"])
def test_unusual_prompts_are_answered_and_remembered(chat: tta.Adapted, prompt: str) -> None:
    reply = chat(prompt)
    reply.correct(f"<{prompt}>")
    assert chat(prompt).text == f"<{prompt}>"


@pytest.mark.parametrize(
    "options",
    [
        {"n": 0},
        {"n": True},
        {"max_new_tokens": 0},
        {"seed": -1},
        {"user": ""},
        {"user": "a\nb"},
        {"task": " "},
        {"user": "x" * 300},
    ],
)
def test_a_bad_setting_is_refused_with_its_value(
    chat: tta.Adapted, options: dict[str, Any]
) -> None:
    with pytest.raises(errors.InvalidSetting) as caught:
        chat(QUESTION, **options)
    assert caught.value.value == next(iter(options.values()))


@pytest.mark.parametrize("output", [[], ["a", "a"], object(), {"type": "nonsense"}])
def test_an_unusable_output_is_refused_and_nothing_is_recorded(
    chat: tta.Adapted, output: Any
) -> None:
    with pytest.raises(errors.InvalidOutput):
        chat(QUESTION, output=output)
    assert list(chat.memory.events()) == []


def test_bad_feedback_is_refused_and_nothing_is_recorded(chat: tta.Adapted) -> None:
    reply = chat(QUESTION)
    attempts: list[Callable[[], object]] = [
        lambda: reply.reward(1.5),
        lambda: reply.correct(""),
        lambda: reply.correct("\ud800"),
        lambda: reply.edit(3, 2, "x"),
        lambda: reply.edit(0, 10_000, "x"),
        lambda: reply.prefer(99),
        lambda: reply.prefer(reply.text),
        lambda: reply.note(" "),
        lambda: chat.rule(""),
    ]
    for attempt in attempts:
        with pytest.raises(errors.InputError):
            attempt()
    assert len(list(chat.memory.events())) == 1


def test_a_copied_or_pickled_response_says_how_to_give_feedback(chat: tta.Adapted) -> None:
    reply = chat(QUESTION)
    for other in (copy.copy(reply), pickle.loads(pickle.dumps(reply))):
        assert other == reply
        with pytest.raises(errors.Detached, match=r"chat\.learn\(tta\.Rating"):
            other.good()


def test_errors_survive_pickling() -> None:
    error = errors.WrongUser("no", value="ada", hint="Pass user=")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.value) == (errors.WrongUser, "no. Pass user=", "ada")


def test_a_response_prints_as_its_text_but_is_no_string(chat: tta.Adapted) -> None:
    reply = chat(QUESTION)
    assert str(reply) == f"{reply}" == reply.text
    assert f"{reply:>200}" == reply.text.rjust(200)
    assert not isinstance(reply, str)
    assert repr(reply).startswith("<Response ")


def test_the_notebook_view_is_escaped(chat: tta.Adapted) -> None:
    html = chat("<script>alert('$x$')</script>")._repr_html_()
    assert "<script>" not in html
    assert "$" not in html
    assert "&lt;script&gt;" in html


def test_a_conversation_keeps_its_turns(chat: tta.Adapted) -> None:
    reply = chat(
        [
            {"role": "system", "content": "You are a clerk."},
            {"role": "user", "content": "My name is Ada."},
            {"role": "assistant", "content": "Hello Ada."},
            {"role": "user", "content": QUESTION},
        ]
    )
    roles = [m.role for m in reply.context.messages]
    assert roles == ["system", "user", "assistant", "user"]
    assert reply.request.prompt == QUESTION


def test_without_a_model_only_closed_answers_can_be_given() -> None:
    with tta.wrap(None, embedder=HashEmbedder()) as chat:
        reply = chat("a red thing", output=["red", "blue"])
        assert reply.text == "red"
        reply.correct("blue")
        assert chat("a red thing", output=["red", "blue"]).text == "blue"
        with pytest.raises(errors.ModelNeeded):
            chat("another red thing")


def test_a_closed_chat_says_so(model: tuple[Any, Any]) -> None:
    chat = tta.wrap(*model, embedder=HashEmbedder())
    reply = chat(QUESTION)
    chat.close()
    with pytest.raises(errors.StoreClosed):
        reply.good()
    with pytest.raises(errors.StoreClosed):
        chat(QUESTION)
