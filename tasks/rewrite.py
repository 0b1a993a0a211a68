"""How answers are written from the words of their requests, learned from examples.

Knows requests and the answers that were accepted. Refuses to know tasks and models.

Programming by example (Gulwani, 2011), of one kind: all that varies in a request is in its answer,
word by word, in another order, case or punctuation. A rule is believed when it gives every example
to the letter, and speaks of requests that are written like these. Where an answer leaves out
something that varies it was chosen, not rewritten, and two examples would not tell by what.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tta.types import Regex

EXAMPLES = 2
"""Fewer tell no rule."""
_PIECE = re.compile(r"\d+|[^\W\d_]+")
_SPECIAL = re.compile(r"([\\.^$|?*+()\[\]{}])")
_STYLES: Mapping[str, Callable[[str], str]] = {
    "as it is": str,
    "lower": str.lower,
    "upper": str.upper,
    "capitalised": str.capitalize,
}

Example = tuple[str, str]
"""(request, the answer that was accepted)"""


@dataclass(frozen=True, slots=True)
class _Written:
    """Words, and what stands before, between and after them: one more than words."""

    words: tuple[str, ...]
    around: tuple[str, ...]

    def edges(self) -> tuple[str, frozenset[str], str]:
        """What stands before, between any two, and after."""
        return self.around[0], frozenset(self.around[1:-1]), self.around[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A rule for so many words: of each in the answer, which of the request it is (from 0), and
    its style. `around`: the answers'; `asked`: the requests', whose words are all but `left_out`.
    """

    left_out: frozenset[str]
    asked: frozenset[tuple[str, ...]]
    around: tuple[str, ...]
    places: tuple[tuple[int, str], ...]

    def of(self, request: str) -> str | None:
        """The answer; None where the rule does not speak of such a request."""
        found = _written(request, lambda word: word not in self.left_out)
        if found.around not in self.asked:
            return None
        words = [_STYLES[style](found.words[place]) for place, style in self.places]
        return "".join(map("".join, zip(self.around, [*words, ""], strict=True)))

    def output(self, request: str) -> Regex | None:
        """What the answer to a request is held to."""
        return _exactly(self.of(request))

    def __str__(self) -> str:
        words = [_slot(place + 1, style) for place, style in self.places]
        return "words as " + "".join(map("".join, zip(self.around, [*words, ""], strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A rule for any number of words, in the order of the request: what stands before, between any
    two and after is `around`; `asked` are the requests' edges, whose words are all but `left_out`.
    """

    left_out: frozenset[str]
    asked: frozenset[tuple[str, frozenset[str], str]]
    around: tuple[str, str, str]
    style: str

    def of(self, request: str) -> str | None:
        """The answer; None where the rule does not speak of such a request."""
        found = _written(request, lambda word: word not in self.left_out)
        begins, between, ends = found.edges()
        if not found.words or not any(
            begins == b and between <= m and ends == e for b, m, e in self.asked
        ):
            return None
        before, mark, after = self.around
        return before + mark.join(map(_STYLES[self.style], found.words)) + after

    def output(self, request: str) -> Regex | None:
        """What the answer to a request is held to."""
        return _exactly(self.of(request))

    def __str__(self) -> str:
        before, mark, after = self.around
        words = [_slot(1, self.style), _slot(2, self.style), "…"]
        return f"words as {before}{mark.join(words)}{after}"


Rewrite = Placed | Joined


def rewrite(examples: Sequence[Example]) -> Rewrite | None:
    """The rule that gives all of these answers; None if there is none, or they are too few."""
    if any(len({one[side] for one in examples}) < EXAMPLES for side in (0, 1)):
        return None
    if any(answer in request for request, answer in examples):
        return None  # left as it was: where there was nothing to mend, there may be next time
    left_out = _left_out(examples)
    if left_out is None:
        return None
    asked = [_written(request, lambda word: word not in left_out) for request, _ in examples]
    told = [_written(answer, _words(request).__contains__) for request, answer in examples]
    if any(len(one.words) < 2 for one in told):
        return None
    rules: list[Rewrite] = [*_placed(asked, told, left_out), *_joined(asked, told, left_out)]
    for rule in rules:
        if all(rule.of(request) == answer for request, answer in examples):
            return rule
    return None


def _words(text: str) -> frozenset[str]:
    return frozenset(word.casefold() for word in _PIECE.findall(text))


def _written(text: str, counts: Callable[[str], bool]) -> _Written:
    """The words that count, and all else around them."""
    words, around, end = [], [], 0
    for found in _PIECE.finditer(text):
        if counts(found[0].casefold()):
            words.append(found[0])
            around.append(text[end : found.start()])
            end = found.end()
    return _Written(tuple(words), (*around, text[end:]))


def _left_out(examples: Iterable[Example]) -> frozenset[str] | None:
    """Words that requests share and answers do not have; None if answers lack others, too."""
    found: Counter[str] = Counter()
    for request, answer in examples:
        found.update(_words(request) - _words(answer))
    return frozenset(found) if all(times > 1 for times in found.values()) else None


def _placed(
    asked: Sequence[_Written], told: Sequence[_Written], left_out: frozenset[str]
) -> list[Placed]:
    shapes = {one.around for one in told}
    size = len(told[0].words)
    if len(shapes) != 1 or any(len(one.words) != size for one in asked):
        return []
    origin: dict[tuple[str, ...], tuple[int, str]] = {}
    for place, words in enumerate(zip(*(one.words for one in asked), strict=True)):
        for style, write in _STYLES.items():
            origin.setdefault(tuple(map(write, words)), (place, style))
    answers = zip(*(one.words for one in told), strict=True)
    places = [origin[words] for words in answers if words in origin]
    if len(places) < size or {place for place, _ in places} != set(range(size)):
        return []
    known = frozenset(one.around for one in asked)
    return [Placed(left_out=left_out, asked=known, around=shapes.pop(), places=tuple(places))]


def _joined(
    asked: Sequence[_Written], told: Sequence[_Written], left_out: frozenset[str]
) -> list[Joined]:
    edges = {one.edges() for one in told}
    before, marks, after = edges.pop()
    if edges or len(marks) != 1:
        return []
    known = frozenset(one.edges() for one in asked)
    around = (before, next(iter(marks)), after)
    return [Joined(left_out=left_out, asked=known, around=around, style=s) for s in _STYLES]


def _slot(number: int, style: str) -> str:
    return f"{{{number}}}" if style == "as it is" else f"{{{number} {style}}}"


def _exactly(answer: str | None) -> Regex | None:
    return None if answer is None else Regex(_SPECIAL.sub(r"\\\1", answer))
