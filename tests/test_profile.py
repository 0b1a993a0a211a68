"""What a task's accepted answers say of the next one, and what the step makes of it."""

from collections.abc import Iterator
from typing import Any

import pytest

import tta
from tta.tasks.forms import CHANGES, form_of
from tta.tasks.profile import CLOSED_FROM, CONSISTENT, profile
from tta.testing import HashEmbedder
from tta.types import Choices, Regex, Text


def asked(*answers: str) -> list[tuple[str, str]]:
    return [(f"what now {n}", answer) for n, answer in enumerate(answers)]


def newest(*answers: str) -> tuple[str, object]:
    accepted = {answer: answers.count(answer) for answer in answers}
    found = profile("t", accepted, asked(*answers))
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
        (("ÉCOLE", "ЖУК 3", "GRÜN!", "OK"), "capitals"),
        (("ada", "bob", "straße", "zoë"), ""),
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


def test_a_few_in_a_row_are_no_form_where_answers_of_several_take_turns() -> None:
    numbers, words = ["17", "18", "19", "20"], ["by the door", "upstairs", "Ada", "on the left"]
    assert newest(*words[:1], *numbers)[0] == "integer"
    for others in range(2, CONSISTENT + 1):
        assert newest(*words[:others], *numbers) == ("", None)
    assert newest(*words, *numbers, "21", "22", "23")[0] == "integer"


def test_one_answer_given_again_and_again_is_no_form() -> None:
    assert newest("7", "7", "7", "7") == ("", None)


def test_answers_that_recur_are_a_closed_set_until_a_new_one_comes() -> None:
    seen = {"red": 7, "green": 7}
    closed = profile("t", seen, asked("red", "green", "red", "green"))
    assert closed.proposed == Choices(answers=("green", "red"))
    assert 0 < closed.elsewhere < 0.1
    opened = profile("t", {**seen, "blue": 1}, asked("red", "green", "red", "blue"))
    assert opened.elsewhere > closed.elsewhere
    assert opened.proposed is None
    assert profile("t", {**seen, "blue": 2}, asked("red", "blue", "red", "blue")).form == "answers"


def test_few_answers_are_no_closed_set() -> None:
    few = CLOSED_FROM - 1
    assert profile("t", {"yes": few - 5, "no": 5}, asked("yes", "no", "yes", "no")).proposed is None


# ------------------------------------------------------------------- what the user changes


TOWNS = ("porto", "zürich", "new york", "łódź")
LOWERED = [(town.title(), town) for town in TOWNS]
CUT = [(f"{town.title()}, by the sea", town.title()) for town in TOWNS]


def test_lower_case_is_a_form_where_the_user_takes_capitals_away() -> None:
    assert form_of(TOWNS, LOWERED[: CHANGES - 1]) == ("", None)
    form, proposed = form_of(TOWNS, LOWERED[:CHANGES])
    assert (form, proposed) == ("lower case", Text(case="lower"))
    assert form_of((*TOWNS[1:], "Paris"), LOWERED) == ("", None)


def test_other_words_in_the_place_of_capitals_say_nothing_of_case() -> None:
    assert form_of(TOWNS, [("I do not know.", town) for town in TOWNS]) == ("", None)


@pytest.mark.parametrize(
    ("rest", "form", "end"),
    [
        ("\nIt lies by the sea.", "one line", Text(end="\n")),
        (", by the sea", "up to ', '", Text(end=", ")),
        (". It lies by the sea.", "up to '. '", Text(end=". ")),
        (" (by the sea)", "up to ' ('", Text(end=" (")),
        (" by the sea", "", None),
        ("s", "", None),
    ],
)
def test_an_answer_ends_where_the_user_cuts_it_off_but_never_within_words(
    rest: str, form: str, end: Text | None
) -> None:
    answers = [town.title() for town in TOWNS]
    assert form_of(answers, [(f"{a}{rest}", a) for a in answers]) == (form, end)


def test_a_sentence_is_kept_with_its_full_stop() -> None:
    answers = [f"It is {town}." for town in TOWNS]
    _, end = form_of(answers, [(f"{a} By the sea.", a) for a in answers])
    assert end == Text(end=". ", kept=1)
    assert isinstance(end, Text)
    assert end.of("It is Porto. By the sea.") == "It is Porto."


def test_an_answer_that_goes_on_there_ends_the_form() -> None:
    answers = [town.title() for town in TOWNS]
    assert form_of([*answers[1:], "Paris, France"], CUT) == ("", None)


def test_case_and_end_are_held_to_together() -> None:
    changed = [(f"{town.title()}, by the sea", town) for town in TOWNS]
    lower = [(said.split(",")[0], told) for said, told in changed]
    cut = [(f"{told}, by the sea", told) for _, told in changed]
    form, proposed = form_of(TOWNS, [*lower, *cut])
    assert (form, proposed) == ("lower case, up to ', '", Text(end=", ", case="lower"))


def test_a_text_is_written_letter_by_letter_and_does_not_begin_with_its_end() -> None:
    assert Text(case="lower").of("ΟΔΟΣ ÉCOLE 3") == "οδοσ école 3"
    assert Text(case="upper").of("straße") == "STRASSE"
    assert Text(end="\n").of("\n\nPorto\nby the sea") == "\n\nPorto"


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


def test_what_was_corrected_is_read_from_the_ledger_and_undone_with_it(chat: tta.Adapted) -> None:
    learned = []
    for number, (said, told) in enumerate(LOWERED):
        reply = chat(f"Where is desk {number}?", task="town", output=[said])
        learned.append(reply.correct(told))
    assert chat.tasks["town"].form == "lower case"
    chat.undo(learned[0])
    chat.undo(learned[1])
    assert chat.tasks["town"].form == ""


@pytest.fixture
def talking(model: tuple[Any, Any]) -> Iterator[tta.Adapted]:
    with tta.wrap(*model, embedder=HashEmbedder(), budget=0) as chat:
        yield chat


PEOPLE = {"Ada": "Porto", "Bob": "Lima", "Eve": "Leeds", "Tom": "Seoul", "Ida": "London"}


def town_of(chat: tta.Adapted, name: str, more: str = "", **options: Any) -> tta.Response:
    fact = tta.Message(role="system", content=f"Facts:\n- {name}'s town is {PEOPLE[name]}{more}.")
    question = tta.Message(role="user", content=f"What is {name}'s town?")
    return chat([fact, question], task="town", max_new_tokens=24, **options)


def test_the_model_is_held_to_lower_case_and_no_word_is_bent(talking: tta.Adapted) -> None:
    *taught, last = PEOPLE
    for name in taught:
        reply = town_of(talking, name)
        assert reply.text == PEOPLE[name]
        reply.correct(reply.text.lower())
    assert talking.tasks["town"].form == "lower case"
    assert town_of(talking, last).text == PEOPLE[last].lower()
    freed = talking.tasks.hold("town", False)
    assert town_of(talking, last).text == PEOPLE[last]
    talking.undo(freed)
    town_of(talking, last, output=str).correct("St. Ives")
    assert talking.tasks["town"].form == ""


def test_an_answer_that_was_accepted_stands_against_the_form_of_others(
    talking: tta.Adapted,
) -> None:
    talking("Where is Ada's desk?", task="desk").correct("by the window")
    for number, name in enumerate(("Bob", "Eve", "Tom", "Ida")):
        talking(f"Where is {name}'s desk?", task="desk").correct(str(17 + number))
    assert talking.tasks["desk"].form
    again = talking("Where is Ada's desk?", task="desk")
    assert again.text == "by the window"
    assert again.cost.passes == 0
    asked = talking("Where is Ada's desk?", task="desk", output=int)
    assert isinstance(asked.value, int)


REPEAT = "Repeat: where is the lake and who was at the door"


def test_an_answer_ends_at_a_text_that_was_named(talking: tta.Adapted) -> None:
    whole = talking(REPEAT)
    cut = talking(REPEAT, output=tta.Text(end=" and "))
    assert cut.text == cut.value == whole.text.split(" and ")[0] != whole.text
    assert cut.cost.drawn < whole.cost.drawn
    assert "".join(talking.stream(REPEAT, output=tta.Text(end=" and "))) == cut.text
    shouted = talking(REPEAT, output=tta.Text(end=" and ", kept=4, case="upper"))
    assert shouted.text == f"{cut.text.upper()} AND"
    with pytest.raises(tta.errors.InvalidOutput):
        talking(REPEAT, output=tta.Text(end="x", kept=1))
