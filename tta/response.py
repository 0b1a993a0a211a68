"""The answer to one request, with everything that led to it and the ways to react to it.

A `Response` is no `str`: it has `.text` and prints as its text, but never silently loses itself in
a string operation. It is a value; only feedback reaches back to the chat that answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tta.errors import Detached, InvalidSetting
from tta.types import (
    Candidate,
    Context,
    Correction,
    Cost,
    Edit,
    Feedback,
    Learned,
    Note,
    Preference,
    Rating,
    Recall,
    Request,
    Task,
    Why,
)

if TYPE_CHECKING:
    from tta.protocols import Learner


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What was answered, and why.

    `value` is the answer as the type that `output=` asked for (the text itself without one).
    `candidates` are sorted best first; `confidence` is the probability (0 to 1) that the first is
    right, as the experts see it who were right so far; `margin` is its distance to the second's.
    """

    text: str
    value: Any
    request: Request
    task: Task
    context: Context
    candidates: Sequence[Candidate]
    confidence: float
    margin: float
    cost: Cost
    why: Why
    learner: Learner | None = field(default=None, repr=False, compare=False)

    @property
    def id(self) -> str:
        """Names this response in feedback that comes later or from elsewhere."""
        return self.request.id

    def good(self, comment: str = "") -> Learned:
        """This answer is right."""
        return self._learn(Rating(response=self.id, value=1.0, comment=comment))

    def bad(self, comment: str = "") -> Learned:
        """This answer is wrong."""
        return self._learn(Rating(response=self.id, value=-1.0, comment=comment))

    def reward(self, value: float, comment: str = "") -> Learned:
        """How good this answer is, from -1 (wrong) to 1 (right)."""
        return self._learn(Rating(response=self.id, value=value, comment=comment))

    def correct(self, text: str) -> Learned:
        """What the answer should have been."""
        return self._learn(Correction(response=self.id, text=text))

    def edit(self, start: int, stop: int, text: str) -> Learned:
        """The answer with its characters `start` to `stop` replaced by `text`."""
        return self._learn(Edit(response=self.id, start=start, stop=stop, text=text))

    def prefer(self, other: str | int | Candidate) -> Learned:
        """Another answer is better: its text, a candidate, or an index into `candidates`."""
        chosen = self._other(other)
        return self._learn(Preference(response=self.id, chosen=chosen, rejected=self.text))

    def note(self, text: str) -> Learned:
        """What this kind of request means ("when I ask for X, I want Y")."""
        return self._learn(Note(response=self.id, text=text))

    def _learn(self, feedback: Feedback) -> Learned:
        if self.learner is None:
            raise Detached(
                f"response {self.id!r} is a copy without its chat",
                value=self.id,
                hint=f"Use chat.learn(tta.{type(feedback).__name__}(response={self.id!r}, ...))",
            )
        return self.learner.learn(feedback, user=self.request.user)

    def _other(self, other: str | int | Candidate) -> str:
        if isinstance(other, Candidate):
            return other.text
        if isinstance(other, str):
            return other
        if not 0 <= other < len(self.candidates):
            raise InvalidSetting(
                f"no candidate {other!r}, there are {len(self.candidates)}",
                value=other,
                hint="Ask for more with n=, or pass the better text",
            )
        return self.candidates[other].text

    def __str__(self) -> str:
        return self.text

    def __format__(self, spec: str) -> str:
        return format(self.text, spec)

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 60 else self.text[:59] + "…"
        shown = (
            f"{len(self.context.shown)} of {len(self.context.shown) + len(self.context.dropped)}"
        )
        return (
            f"<Response {text!r} task={self.task.name!r} shown={shown} n={len(self.candidates)}"
            f" confidence={self.confidence:.2f}>"
        )

    def _repr_html_(self) -> str:
        from tta.display import response_html

        return response_html(self)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy or a pickle must not drag the model along.
        return _rebuild, tuple(getattr(self, f) for f in _FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Everything up to decoding: what was inferred, recalled, and would be shown."""

    request: Request
    task: Task
    recall: Recall
    context: Context

    def __str__(self) -> str:
        return self.context.prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The untouched model's answer and the adapted one."""

    frozen: Response
    adapted: Response

    def __str__(self) -> str:
        return f"frozen:  {self.frozen}\nadapted: {self.adapted}"

    def _repr_html_(self) -> str:
        from tta.display import comparison_html

        return comparison_html(self)


_FIELDS = tuple(f for f in Response.__dataclass_fields__ if f != "learner")


def _rebuild(*values: Any) -> Response:  # noqa: ANN401 (the fields, whatever they are)
    return Response(**dict(zip(_FIELDS, values, strict=True)))
