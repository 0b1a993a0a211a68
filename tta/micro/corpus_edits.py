"""Edits of a short text, each with the sentences that ask for it.

Knows how to shout, quote, join, reverse and shorten, and how a rule or a note says so. Refuses to
know who asks: rules, notes and shown conventions all draw their edits here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from tta.micro.corpus_words import COLOURS, COMMON, nonce


@dataclass(frozen=True)
class Edit:
    """A change of a text. Two edits of one ``kind`` contradict each other: the later one wins."""

    kind: str
    rules: tuple[str, ...]
    note: str
    apply: Callable[[str], str]


def _swap(gap: str) -> Callable[[str], str]:
    return lambda text: text.replace(" ", gap)


def _around(left: str, right: str) -> Callable[[str], str]:
    return lambda text: f"{left}{text}{right}"


# The order in which edits that do not contradict each other are applied.
ORDER = ("pick", "order", "times", "case", "join", "start", "end", "wrap")

FIXED: tuple[Edit, ...] = (
    Edit(
        "case",
        (
            "Answer in upper case.",
            "Use capital letters only.",
            "Write in UPPER CASE.",
            "Always answer in capitals.",
        ),
        "write it in upper case",
        str.upper,
    ),
    Edit(
        "case",
        ("Answer in lower case.", "Use small letters only.", "Write in lower case."),
        "write it in lower case",
        str.lower,
    ),
    Edit(
        "case",
        (
            "Start every word with a capital letter.",
            "Capitalise each word.",
            "Write in title case.",
        ),
        "capitalise each word",
        lambda text: " ".join(w[:1].upper() + w[1:] for w in text.split(" ")),
    ),
    Edit(
        "wrap",
        (
            "Put the answer in quotes.",
            "Answer in double quotes.",
            "Use quotation marks around the answer.",
        ),
        "put it in quotes",
        _around('"', '"'),
    ),
    Edit(
        "wrap",
        ("Put the answer in square brackets.", "Answer in square brackets."),
        "put it in square brackets",
        _around("[", "]"),
    ),
    Edit(
        "wrap",
        ("Put the answer in parentheses.", "Answer in round brackets."),
        "put it in parentheses",
        _around("(", ")"),
    ),
    Edit(
        "wrap",
        ("Put the answer between stars.", "Answer in bold.", "Put stars around it."),
        "put stars around it",
        _around("*", "*"),
    ),
    Edit(
        "end",
        ("End with a full stop.", "Finish the answer with a period."),
        "end it with a full stop",
        _around("", "."),
    ),
    Edit(
        "end",
        ("End with an exclamation mark.", "Sound excited: end with an exclamation mark."),
        "end it with an exclamation mark",
        _around("", "!"),
    ),
    Edit("end", ("End with a question mark.",), "end it with a question mark", _around("", "?")),
    Edit(
        "join",
        (
            "Write words joined by hyphens.",
            "Use hyphens instead of spaces.",
            "Join the words with hyphens.",
        ),
        "join the words with hyphens",
        _swap("-"),
    ),
    Edit(
        "join",
        ("Use underscores instead of spaces.", "Join the words with underscores."),
        "join the words with underscores",
        _swap("_"),
    ),
    Edit(
        "join",
        ("Separate the words with commas.", "Put commas between the words."),
        "put commas between the words",
        _swap(", "),
    ),
    Edit(
        "join",
        ("Use slashes instead of spaces.", "Join the words with slashes."),
        "join the words with slashes",
        _swap("/"),
    ),
    Edit(
        "order",
        (
            "Write words in reverse order.",
            "Reverse the order of the words.",
            "Say the words backwards.",
        ),
        "reverse the order of the words",
        lambda text: " ".join(reversed(text.split(" "))),
    ),
    Edit(
        "pick",
        ("Answer with the first word only.", "Give only the first word."),
        "say only the first word",
        lambda text: text.split(" ")[0],
    ),
    Edit(
        "pick",
        ("Answer with the last word only.", "Give only the last word."),
        "say only the last word",
        lambda text: text.split(" ")[-1],
    ),
    Edit(
        "pick",
        (
            "Use at most two words.",
            "Answer with the first two words.",
            "Never use more than two words.",
        ),
        "say only the first two words",
        lambda text: " ".join(text.split(" ")[:2]),
    ),
    Edit(
        "pick",
        ("Use at most three words.", "Never use more than three words."),
        "say only the first three words",
        lambda text: " ".join(text.split(" ")[:3]),
    ),
    Edit(
        "times",
        ("Say everything twice.", "Repeat the answer twice."),
        "say it twice",
        lambda text: f"{text} {text}",
    ),
    Edit(
        "times",
        ("Say everything three times.",),
        "say it three times",
        lambda text: f"{text} {text} {text}",
    ),
)


def _opening(rng: Random) -> Edit:
    w = _affix(rng)
    gap = rng.choice((" ", ": ", ", "))
    lead = f"{w}{gap}".rstrip()
    rules = (f'Start with "{lead}".', f'Begin every answer with "{lead}".', f'Put "{lead}" first.')
    return Edit("start", rules, f'say "{lead}" before it', _around(f"{w}{gap}", ""))


def _closing(rng: Random) -> Edit:
    w = _affix(rng)
    rules = (f'End with "{w}".', f'Finish every answer with "{w}".', f'Put "{w}" last.')
    return Edit("end", rules, f'say "{w}" after it', _around("", f" {w}"))


def _affix(rng: Random) -> str:
    w = rng.choice((nonce(rng), rng.choice(COMMON), rng.choice(COLOURS)))
    return w.capitalize() if rng.random() < 0.4 else w


def draw_edit(rng: Random) -> Edit:
    """One edit; openings and closings with a word of their own are common."""
    p = rng.random()
    if p < 0.14:
        return _opening(rng)
    return _closing(rng) if p < 0.28 else rng.choice(FIXED)


def draw_edits(rng: Random, count: int) -> list[Edit]:
    """``count`` edits, in the order in which they are told; some may contradict each other."""
    return [draw_edit(rng) for _ in range(count)]


def apply_all(edits: Sequence[Edit], text: str) -> str:
    """What is left of ``text`` when each kind follows the last edit that speaks of it."""
    latest = {edit.kind: edit for edit in edits}
    for kind in ORDER:
        if kind in latest:
            text = latest[kind].apply(text)
    return text
