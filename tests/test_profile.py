"""What a task's accepted answers say of the next one, and what the step makes of it."""

from collections.abc import Iterator

import pytest

import tta
from tta.tasks.profile import CLOSED_FROM, CONSISTENT, profile
from tta.testing import HashEmbedder
from tta.types import Choices, Regex


def newest(*answers: str) -> tuple[str, object]:
    accepted = {answer: answers.count(answer) for answer in answers}
    found = profile("t", accepted, answers)
    return found.form, found.proposed


@pytest.mark.parametrize(
    ("answers", "form"),
    [
        (("2024-05-01", "2023-12-24", "2020-01-01", "1999-09-09"), "date YYYY-MM-DD"),
        (("01.05.2024", "24.12.2023", "01.01.2020", "09.09.1999"), "date DD.MM.YYYY"),
        (("1", "22", "-3", "40"), "integer"),
        (("1.50", "22.00", "3.10", "4.99"), "two decimals"),
        (("1", "2.5", "3", "4.125"), "number"),
        (("YES", "NO WAY", "NOT YET", "SURE!"), "capitals"),
        (("a cat", "the dog", "1", "2024-05-01"), ""),
    ],
)
def test_a_form_that_all_newest_answers_have_is_proposed(
    answers: tuple[str, ...], form: str
) -> None:
    found, proposed = newest(*answers)
    assert found == form
    assert (proposed is not None) == bool(form)


def test_objects_with_the_same_keys_are_proposed_as_a_schema() -> None:
    form, proposed = newest(*(f'{{"name": "x{n}", "age": {n}, "tags": []}}' for n in range(4)))
    assert form == "JSON"
    assert proposed == {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "tags": {}},
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    }


def test_a_form_takes_so_many_answers_and_ends_at_the_first_that_has_another() -> None:
    dates = [f"2024-05-{day:02}" for day in range(1, 10)]
    assert newest(*dates[: CONSISTENT - 1]) == ("", None)
    assert newest(*dates)[0] == "date YYYY-MM-DD"
    assert newest(*dates, "tomorrow") == ("", None)
    assert newest(*dates, "tomorrow", *dates[: CONSISTENT - 1]) == ("", None)
    assert newest(*dates, "tomorrow", *dates[:CONSISTENT])[0] == "date YYYY-MM-DD"


def test_one_answer_given_again_and_again_is_no_form() -> None:
    assert newest("7", "7", "7", "7") == ("", None)


def test_answers_that_recur_are_a_closed_set_until_a_new_one_comes() -> None:
    seen = {"red": 7, "green": 7}
    closed = profile("t", seen, ("red", "green", "red", "green"))
    assert closed.proposed == Choices(answers=("green", "red"))
    assert 0 < closed.elsewhere < 0.1
    opened = profile("t", {**seen, "blue": 1}, ("red", "green", "red", "blue"))
    assert opened.elsewhere > closed.elsewhere
    assert opened.proposed is None
    assert profile("t", {**seen, "blue": 2}, ("red", "blue", "red", "blue")).form == "answers"


def test_few_answers_are_no_closed_set() -> None:
    few = CLOSED_FROM - 1
    assert profile("t", {"yes": few - 5, "no": 5}, ("yes", "no", "yes", "no")).proposed is None


# ----------------------------------------------------------------------------- in a step


@pytest.fixture
def chat() -> Iterator[tta.Adapted]:
    with tta.wrap(None, embedder=HashEmbedder()) as chat:
        yield chat


COLOURS = {"blood": "red", "grass": "green"}


def teach(chat: tta.Adapted, times: int = 7) -> None:
    for number in range(times):
        for thing, colour in COLOURS.items():
            text = f"Which colour has {thing} number {number}?"
            chat(text, task="colour", output=["red", "green"]).correct(colour)


def test_the_answers_seen_are_the_closed_set_of_an_open_request(chat: tta.Adapted) -> None:
    teach(chat)
    reply = chat("Which colour has grass number 77?", task="colour")
    assert reply.text == reply.value == "green"
    assert {candidate.text for candidate in reply.candidates} == {"red", "green"}


def test_a_new_answer_opens_the_set_again(chat: tta.Adapted) -> None:
    teach(chat)
    chat("Which colour has the sky?", task="colour").correct("blue")
    assert chat.tasks["colour"].proposed is None
    with pytest.raises(tta.errors.ModelNeeded):
        chat("Which colour has grass number 77?", task="colour")


def test_undoing_the_new_answer_closes_it(chat: tta.Adapted) -> None:
    teach(chat)
    learned = chat("Which colour has the sky?", task="colour").correct("blue")
    chat.undo(learned)
    assert chat.tasks["colour"].form == "answers"
    assert "blue" not in chat.tasks["colour"].answers


def test_a_task_can_be_freed_held_again_and_the_edit_undone(chat: tta.Adapted) -> None:
    teach(chat)
    freed = chat.tasks.hold("colour", False)
    assert chat.tasks["colour"].free
    with pytest.raises(tta.errors.ModelNeeded):
        chat("Which colour has grass?", task="colour")
    again = chat.tasks.hold("colour")
    assert not chat.tasks["colour"].free
    chat.undo(again)
    assert chat.tasks["colour"].free
    chat.undo(freed)
    assert not chat.tasks["colour"].free
    assert chat("Which colour has grass?", task="colour").text == "green"


def test_an_open_answer_that_the_caller_judges_is_held_to_nothing(chat: tta.Adapted) -> None:
    teach(chat)
    with pytest.raises(tta.errors.ModelNeeded):
        chat("Which colour has grass?", task="colour", verify=bool)
    with pytest.raises(tta.errors.ModelNeeded):
        chat("Which colour has grass?", task="colour", verify_step=bool)


def test_a_profile_is_its_users_alone(chat: tta.Adapted) -> None:
    teach(chat)
    other = chat.for_user("bob")
    assert len(other.tasks) == 0
    assert other.tasks.profile("colour").cases == 0
    with pytest.raises(tta.errors.ModelNeeded):
        other("Which colour has grass?", task="colour")


def test_a_forgotten_user_has_no_tasks(chat: tta.Adapted) -> None:
    teach(chat)
    chat.tasks.hold("colour", False)
    chat.forget(user=chat.user)
    assert len(chat.tasks) == 0
    assert not chat.tasks.profile("colour").free


def test_tasks_say_what_is_known_of_them(chat: tta.Adapted) -> None:
    assert repr(chat.tasks) == "<no tasks yet>"
    teach(chat)
    assert list(chat.tasks) == ["colour"]
    assert "14 accepted, 2 different" in repr(chat.tasks)
    assert "which colour has blood number _?" in chat.tasks.patterns("colour")
    with pytest.raises(KeyError):
        chat.tasks["taste"]


def test_a_proposed_form_is_one_a_step_can_decode_into() -> None:
    from tta.decoding import Output

    for answers in (("1", "2", "3", "44"), ("2024-05-01", "2024-05-02") * 2, ("AB", "CD!") * 2):
        output = Output.of(newest(*answers)[1])
        assert output is not None
        assert all(output.accepts(answer) for answer in answers)
    assert isinstance(newest("1", "2", "3", "4")[1], Regex)
