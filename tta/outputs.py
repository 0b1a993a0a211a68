"""What `output=` may be besides types and schemas, as values. Imports nothing of tta and no third
party.

`tta.types`, where the other values are, has these names as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """`output=tta.Choices(answers=[...])`: one of a closed set, each with what it means if that
    helps: `descriptions` maps an answer to a few words that are read instead of its name."""

    answers: tuple[str, ...]
    descriptions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Regex:
    """`output=tta.Regex(r"[A-Z]{3}-\\d+")`: the answer matches the whole pattern."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Grammar:
    """`output=tta.Grammar(lark)`: the answer is a sentence of a Lark grammar."""

    lark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """`output=tta.Text(end="\\n")`: free text, written otherwise than the model would.

    It ends where the model would go on with `end`, of which the first `kept` characters belong to
    the answer. `case`: in "lower" or "upper" case. Nothing is ruled out while it is drawn, so that
    no word is bent or cut in two.
    """

    end: str = ""
    kept: int = 0
    case: Literal["", "lower", "upper"] = ""

    def is_over(self, drawn: str) -> bool:
        """Whether a text that was drawn so far has come to its end."""
        return self._found(drawn) >= 0

    def _found(self, drawn: str) -> int:
        return drawn.find(self.end, len(drawn) - len(drawn.lstrip())) if self.end else -1

    def of(self, drawn: str) -> str:
        """What the answer is of a text that was drawn. It does not begin with its end."""
        found = self._found(drawn)
        kept = drawn if found < 0 else drawn[: found + self.kept]
        # Letter by letter: what was read stays as it is, whatever comes behind it.
        return "".join(getattr(letter, self.case)() for letter in kept) if self.case else kept
