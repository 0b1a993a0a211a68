"""Who knows what is right, what of it is told, and to whom it never is.

Knows the targets, and gives feedback on an answer only after it was given: one answer or one bit
a step. Refuses to know methods and streams; whatever is random here is drawn before the first
step, so that every method on one stream meets the same flips, silences and coins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.streams import Drawn
from tta.errors import InvalidSetting

FEEDBACK = ("label", "bit")
"""`label`: the right answer is told. `bit`: only whether the given one was right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """What feedback there is.

    `flip`: probability of wrong feedback (label: an answer drawn uniformly from all, the right one
    included; bit: inverted). `noise`: all of it is random (random answers, fair coins). `every`:
    share of steps that get any. `delay`: how many steps late it comes. `note`: probability that a
    misread request is clarified in words, on streams with clarifications.
    """

    feedback: str = "label"
    flip: float = 0.0
    noise: bool = False
    every: float = 1.0
    delay: int = 0
    note: float = 0.5

    def __post_init__(self) -> None:
        if self.feedback not in FEEDBACK:
            raise InvalidSetting(
                f"feedback is one of {FEEDBACK}, not {self.feedback!r}", value=self.feedback
            )
        for name in ("flip", "every", "note"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise InvalidSetting(f"{name} must be from 0 to 1, was {share!r}", value=share)
        if self.delay < 0:
            raise InvalidSetting(
                f"delay must not be negative, was {self.delay!r}", value=self.delay
            )

    def __str__(self) -> str:
        parts = [self.feedback]
        parts += [f"{100 * self.flip:g} % flipped"] if self.flip else []
        parts += ["all of it noise"] if self.noise else []
        parts += [f"on {100 * self.every:g} % of steps"] if self.every < 1 else []
        parts += [f"{self.delay} steps late"] if self.delay else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """All that a method learns of one step.

    `right`: whether its answer was. `answer`: what it should have been (feedback by label). `note`:
    what was meant, in words; then nothing else is told.
    """

    right: bool | None = None
    answer: str | None = None
    note: str | None = None


class Oracle:
    """Gives feedback on one stream. `right` scores by the truth; `tell` may flip it."""

    def __init__(self, drawn: Drawn, regime: Regime, *, seed: int) -> None:
        self._drawn = drawn
        self._regime = regime
        steps, rng = len(drawn.targets), np.random.default_rng(seed + 1000)
        self._flipped = rng.random(steps) < regime.flip
        self._asked = rng.random(steps) < regime.every
        self._coin = rng.random(steps) < 0.5
        self._clarified = rng.random(steps) < regime.note
        self._drawn_answer = rng.random(steps)

    def right(self, step: int, text: str, notes: Sequence[str] = ()) -> bool:
        """Whether the answer is right. On a stream of clarifications: whether what was meant is
        understood, that is, every clarification shown (`notes`) is one for the right intent."""
        target = self._drawn.targets[step]
        if not self._drawn.meanings:
            return text == target
        return bool(notes) and all(self._drawn.meanings.get(note) == target for note in notes)

    def target(self, step: int) -> str:
        """For scoring alone."""
        return self._drawn.targets[step]

    def tell(self, step: int, text: str, notes: Sequence[str] = ()) -> Told | None:
        """The feedback on this step, if any is given."""
        if not self._asked[step]:
            return None
        right = self.right(step, text, notes)
        if self._drawn.meanings:
            told = not right and self._clarified[step]
            return Told(note=self._drawn.clarifications[step]) if told else None
        if self._regime.feedback == "bit":
            return Told(right=self._bit(step, right))
        answer = self._answer(step)
        return Told(right=answer == text, answer=answer)

    def _bit(self, step: int, right: bool) -> bool:
        if self._regime.noise:
            return bool(self._coin[step])
        return right != bool(self._flipped[step])

    def _answer(self, step: int) -> str:
        if not (self._regime.noise or self._flipped[step]):
            return self._drawn.targets[step]
        item = self._drawn.stream.items[step]
        pool = item.answers.answers if item.answers else sorted(set(self._drawn.targets))
        return pool[int(self._drawn_answer[step] * len(pool))]
