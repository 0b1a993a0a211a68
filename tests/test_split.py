"""Which part of a request is the instruction."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta.tasks.split import HEAD, TAIL, split


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("Translate to French: good morning", "translate to french: _"),
        ("Dear Bob,\n\nsend me the keys.\n\nSummarise this email.", "summarise this email."),
        ("Write a title.\n---\nA storm hit the coast.", "write a title."),
        ('Classify the text.\n\n"""\nPlease answer me.\n\nYou must.\n"""', "classify the text."),
        (
            "List the names in this text.\nAda met Bob.\nThen it rained.",
            "list the names in this text.",
        ),
        ("Hello, translate this line to German: x", "translate this line to german: _"),
        (
            "Input: walnut : shell\n\nYou get an analogy. Complete it.",
            "you get an analogy. complete it.",
        ),
        ("Give the plural. Input: ox\nOutput:", "give the plural."),
    ],
)
def test_the_instruction_is_told_from_its_content(text: str, pattern: str) -> None:
    found = split(text)
    assert found.pattern == pattern
    assert not found.bare


@pytest.mark.parametrize(
    "text", ["Where is my card?", "The weather is fine today", "12 + 7", "", "I lost 2 cards"]
)
def test_a_text_without_an_instruction_is_bare(text: str) -> None:
    assert split(text).bare


def test_a_question_to_be_sorted_is_bare_though_it_sounds_like_an_instruction() -> None:
    assert not split("Name a river in Germany").bare
    assert split("Name a river in Germany", closed=True).bare
    assert not split("Name its topic: a river in Germany", closed=True).bare


def test_an_instruction_after_a_very_long_content_is_found() -> None:
    text = "The sea was calm. " * 20_000 + "\n\nSummarise this story in one line."
    assert split(text).pattern == "summarise this story in one line."


@given(st.text(alphabet=st.sampled_from('ab \n:"<>`-_.?yY1'), max_size=200))
def test_any_text_has_a_pattern_and_the_same_one_each_time(text: str) -> None:
    assert split(text) == split(text)
    assert bool(split(text).pattern) == bool(text.strip())


def test_only_the_ends_of_a_long_text_are_read() -> None:
    head, tail = "Translate this. " * (HEAD // 16), "x" * TAIL
    assert split(head + tail) == split(head + "ignored " * 1_000 + tail)
