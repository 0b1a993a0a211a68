"""What a task's newest answers have in common, as an `output` that the next one can be held to.

Knows texts: answers that were accepted, and what the user made of those that were not. Refuses to
know tasks and ledgers.

A date or a number is hardly ever one by chance. Length and lower case are, so they count only where
the user has put them there, again and again.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal

from tta.types import Regex, Text

CHANGES = 3
"""After as many corrections that made an answer end somewhere, or took its capitals away."""

Corrected = tuple[str, str]
"""(what was answered, what was right instead)"""
Form = tuple[str, Callable[[Sequence[str]], object | None]]
"""A name, and what to hold the next answer to if all of these answers are of the form."""


def form_of(
    answers: Sequence[str], corrected: Sequence[Corrected] = ()
) -> tuple[str, object | None]:
    """The first form that all these answers have, with what to hold the next one to; ("", None) for
    answers that have none, or are all the same."""
    texts = [answer.strip() for answer in answers]
    if len(set(texts)) > 1:
        for name, proposes in _FORMS:
            if (proposed := proposes(texts)) is not None:
                return name, proposed
        return _written(texts, [(said.strip(), told.strip()) for said, told in corrected])
    return "", None


def _written(texts: Sequence[str], changes: Sequence[Corrected]) -> tuple[str, object | None]:
    """How a text is written that is free otherwise. What is drawn is written so, and nothing ruled
    out: with capitals forbidden, "I do not know." would become something else."""
    end, case = _end(texts, changes), _case(texts, changes)
    name = "one line" if end.end == "\n" else f"up to {end.end!r}" if end.end else ""
    names = [part for part in (_CASES[case], name) if part]
    return ", ".join(names), replace(end, case=case) if names else None


def _end(texts: Sequence[str], changes: Sequence[Corrected]) -> Text:
    """Where the answer ends: what the user cuts away begins there again and again, and none of the
    answers goes on behind it."""
    found = Counter(end for said, told in changes if (end := _cut(said, told)) is not None)
    for end, times in found.most_common(1):
        if times >= CHANGES and all(end.of(text) == text for text in texts):
            return end
    return Text()


def _cut(said: str, told: str) -> Text | None:
    """The end that a user cut an answer at. Only where no word or name can be torn: at a line
    break, or at a mark that a space follows."""
    if not told or not said.startswith(told) or said == told:
        return None
    rest = said[len(told) :]
    if rest[0] == "\n":
        return Text(end="\n")
    if found := re.match(r"[.!?;:,] | [(–—-]", rest):
        return Text(end=found[0])
    return Text(end=f"{told[-1]} ", kept=1) if told[-1] in ".!?" and rest[0] == " " else None


def _case(texts: Sequence[str], changes: Sequence[Corrected]) -> Literal["", "lower", "upper"]:
    """Capitals are hardly ever chance. That there are none is, and names have some, so that lower
    case counts where the user has taken capitals away."""
    if all(text.isupper() and len(text) > 1 for text in texts):
        return "upper"
    lower = all(text == text.lower() for text in texts)
    taken = sum(_lowered(said, told) for said, told in changes)
    return "lower" if lower and taken >= CHANGES else ""


def _lowered(said: str, told: str) -> bool:
    """Whether a word stayed and lost its capitals."""
    capitalised = {word.lower() for word in re.findall(r"\w+", said) if word != word.lower()}
    return not capitalised.isdisjoint(re.findall(r"\w+", told))


_CASES = {"": "", "lower": "lower case", "upper": "capitals"}


def _json(texts: Sequence[str]) -> object | None:
    """A schema with the keys, in their order, and the types that all objects have."""
    try:
        objects = [json.loads(text) for text in texts]
    except ValueError:
        return None
    if not all(isinstance(found, dict) and found for found in objects):
        return None
    keys = list(objects[0])
    if any(list(found) != keys for found in objects):
        return None
    properties = {key: _typed([found[key] for found in objects]) for key in keys}
    return {
        "type": "object",
        "properties": properties,
        "required": keys,
        "additionalProperties": False,
    }


def _typed(values: Iterable[object]) -> dict[str, object]:
    types = {_JSON_TYPES.get(type(value), "") for value in values}
    return {"type": types.pop()} if len(types) == 1 and "" not in types else {}


_JSON_TYPES: dict[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number"}


def _matching(pattern: str) -> Callable[[Sequence[str]], object | None]:
    whole = re.compile(pattern)

    def proposes(texts: Sequence[str]) -> object | None:
        return Regex(pattern) if all(whole.fullmatch(text) for text in texts) else None

    return proposes


_FORMS: tuple[Form, ...] = (
    ("JSON", _json),
    ("date YYYY-MM-DD", _matching(r"[0-9]{4}-[01][0-9]-[0-3][0-9]")),
    ("date DD.MM.YYYY", _matching(r"[0-3][0-9]\.[01][0-9]\.[0-9]{4}")),
    ("date MM/DD/YYYY", _matching(r"[01][0-9]/[0-3][0-9]/[0-9]{4}")),
    ("time HH:MM", _matching(r"[0-2][0-9]:[0-5][0-9]")),
    ("integer", _matching(r"-?[0-9]{1,18}")),
    ("two decimals", _matching(r"-?[0-9]{1,15}\.[0-9]{2}")),
    ("number", _matching(r"-?[0-9]{1,15}(?:\.[0-9]{1,9})?")),
)
"""What is worth holding an answer to: a form that an answer in words is hardly ever in by chance.
What is read most strictly stands first."""
