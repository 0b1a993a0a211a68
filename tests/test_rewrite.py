"""Answers that are made of the words of their requests: the rule that two of them show."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tta
from tta.outputs import Regex
from tta.tasks.rewrite import rewrite
from tta.testing import HashEmbedder

LEARNED = [
    (
        [("Convert: Leo Singh", "leo_singh"), ("Convert: Sam Stone", "sam_stone")],
        ("Convert: Bruno Weber", "bruno_weber"),
    ),
    (
        [("Convert Weber George", "WEBER George"), ("Convert Klein Frank", "KLEIN Frank")],
        ("Convert Costa David", "COSTA David"),
    ),
    (
        [
            ("Convert: a1x and Grace and run", '"a","1","x","Grace","run"'),
            ("Convert: two and more", '"two","more"'),
        ],
        ("Convert: now and then and ever", '"now","then","ever"'),
    ),
    (
        [("1965-01-19", "19/01/1965"), ("2001-12-31", "31/12/2001")],
        ("1958-04-23", "23/04/1958"),
    ),
    (
        [
            ("Convert: vicad (Elif)", "Elif is vicad"),
            ("Convert: posabe (Tariq)", "Tariq is posabe"),
        ],
        ("Convert: kyx (Ada)", "Ada is kyx"),
    ),
    (
        [("12:36", "12 hours 36 minutes"), ("7:05", "7 hours 05 minutes")],
        ("9:41", "9 hours 41 minutes"),
    ),
    ([("£325.66", "GBP 325,66"), ("£1.05", "GBP 1,05")], ("£88.00", "GBP 88,00")),
    (
        [("buhi; ada; x", "[buhi, ada, x]"), ("one; two", "[one, two]")],
        ("a; b; c; d; e", "[a, b, c, d, e]"),
    ),
]


@pytest.mark.parametrize(("examples", "case"), LEARNED)
def test_two_answers_show_how_the_words_of_a_request_are_written(
    examples: list[tuple[str, str]], case: tuple[str, str]
) -> None:
    rule = rewrite(examples)
    assert rule is not None
    assert rule.of(case[0]) == case[1]
    held = rule.output(case[0])
    assert isinstance(held, Regex) and re.fullmatch(held.pattern, case[1])


@pytest.mark.parametrize(
    "examples",
    [
        [],
        [("Convert: Leo Singh", "leo_singh")],
        [("Convert: Leo Singh", "leo_singh"), ("Convert: Leo Singh", "leo_singh")],
        # What varies is left out: it was chosen.
        [
            ("Is Paris or Rome larger?", "Paris is larger"),
            ("Is Oslo or Bonn larger?", "Oslo is larger"),
        ],
        # One word is hardly ever a rule.
        [("Is it red or blue?", "red"), ("Is it hot or cold?", "hot")],
        [("Say: abc", "abc"), ("Say: xyz", "xyz")],
        # What is left as it was tells of no change.
        [("Mend: the cat sat.", "the cat sat."), ("Mend: a dog ran.", "a dog ran.")],
        # One of them is written otherwise.
        [("Leo Singh", "leo_singh"), ("Sam Stone", "sam_stone"), ("Ada Weber", "Ada Weber")],
        [("Leo Singh", "Singh, Leo"), ("Sam Stone", "Sam, Stone")],
        # Capitals stand where no style puts them: in the first word, in the second.
        [("leo singh", "lEO-singh"), ("sam stone", "sAM-stone")],
        [("leo singh", "leo-sINGH"), ("sam stone", "sam-sTONE")],
        [("who wrote Emma", "Jane Austen"), ("who wrote Dune", "Frank Herbert")],
    ],
)
def test_where_examples_differ_or_choose_there_is_no_rule(examples: list[tuple[str, str]]) -> None:
    assert rewrite(examples) is None


WORDS = st.lists(st.text("abcxyz", min_size=1, max_size=5), min_size=2, max_size=4)


@given(st.lists(WORDS, min_size=2, max_size=4), st.sampled_from([", ", "-", " | "]))
def test_a_rule_gives_every_example_to_the_letter(rows: list[list[str]], mark: str) -> None:
    examples = [(" ".join(words), f"<{mark.join(words)}>") for words in rows]
    rule = rewrite(examples)
    different = len({r for r, _ in examples}) > 1
    assert (rule is not None) == different
    if rule is not None:
        assert [rule.of(request) for request, _ in examples] == [answer for _, answer in examples]


def test_long_texts_are_rewritten_as_short_ones_are() -> None:
    def example(letter: str) -> tuple[str, str]:
        words = [letter + "".join(ends) for ends in itertools.product("klmnop", repeat=4)]
        return "Turn round: " + ", ".join(words), "; ".join(reversed(words)).upper()

    rule = rewrite([example("a"), example("b")])
    assert rule is not None
    request, answer = example("c")
    assert rule.of(request) == answer


def test_a_rule_does_not_speak_of_requests_that_have_no_such_words() -> None:
    rule = rewrite([("1965-01-19", "19/01/1965"), ("2001-12-31", "31/12/2001")])
    assert rule is not None
    for request in ("1965-01", "", "1965/01/19", "on 1965-01-19", "1965-01-19-12"):
        assert rule.of(request) is None
        assert rule.output(request) is None
    assert str(rule) == "words as {3}/{2}/{1}"
    rule = rewrite([("buhi; ada; x", "[buhi, ada, x]"), ("one; two", "[one, two]")])
    assert rule is not None
    assert str(rule) == "words as [{1}, {2}, …]"
    for request in ("", "?", "What is a list?", "a, b", "see: a; b", "a; b."):
        assert rule.of(request) is None


def test_the_step_writes_by_the_rule_until_the_user_says_otherwise() -> None:
    chat = tta.wrap(*tta.bundled(), embedder=HashEmbedder())

    def ask(request: str) -> tta.Response:
        return chat(request, task="names")

    for request, right in (
        ("Convert Weber George", "WEBER George"),
        ("Convert Klein Ada", "KLEIN Ada"),
    ):
        ask(request).correct(right)
    assert chat.tasks["names"].form == "words as {1 upper} {2}"
    assert ask("Convert Costa David").text == "COSTA David"
    learned = ask("Convert Stone Nina").correct("Nina Stone")
    assert chat.tasks["names"].proposed is None
    chat.undo(learned)
    assert ask("Convert White Leo").text == "WHITE Leo"
    chat.tasks.hold("names", False)
    assert ask("Convert White Leo").why.stopped


def test_what_is_asked_otherwise_in_the_same_task_is_answered_freely() -> None:
    chat = tta.wrap(*tta.bundled(), embedder=HashEmbedder())
    for request, right in (("Weber George", "WEBER George"), ("Klein Ada", "KLEIN Ada")):
        chat(request, task="names").correct(right)
    assert chat("Costa David", task="names").text == "COSTA David"
    assert chat("What is 3 + 4?", task="names").text != "3 4"
