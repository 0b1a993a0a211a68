"""The main job: stream labelled examples through a chat, and see what learning was worth.

At each step the chat answers, then it is told, then the next. What is right is known to the
`Oracle` alone: the code that asks is never handed a target. Knows no files and prints nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from tta.errors import InvalidSetting, InvalidText
from tta.labelled import Example
from tta.types import Choices, Json, Learned

if TYPE_CHECKING:
    from tta.response import Response

FEEDBACK = ("correct", "bit")
"""`correct`: the right answer is told after a mistake. `bit`: only right or wrong is."""


BINS = 15
"""Of equal width, from confidence 0 to 1."""


class Chat(Protocol):
    """What is evaluated: `tta.Adapted`, or anything that answers like it."""

    @property
    def model(self) -> Any: ...  # noqa: ANN401 (None, or a model that may have a fingerprint)

    def __call__(
        self, prompt: str, *, task: str | None = None, output: object = None
    ) -> Response: ...

    def frozen(self, prompt: str, *, output: object = None) -> Response: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One answer, the frozen model's answer to the same text, and whether they were right.

    `ms` is what answering and learning took, `learn_ms` learning alone; neither counts the
    comparison with the frozen model. `confidence` is the reply's; `weights` are the experts'.
    """

    answer: str
    frozen: str
    right: bool
    frozen_right: bool
    ms: float
    learn_ms: float
    confidence: float = 1.0
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Shares (0 to 1) of right answers: over all steps, and over the last fifth of them."""

    accuracy: float
    last_fifth: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Milliseconds: the median, and what 95 in 100 stay below."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an evaluation found. `calibration_error` (0 to 1) is the expected calibration error of
    the confidence in 15 bins (Guo et al., 2017); `taken` holds every step."""

    steps: int
    adapted: Score
    frozen: Score
    calibration_error: float
    feedback: str
    ms_per_step: Percentiles
    learn_ms: Percentiles
    weights_unchanged: bool
    taken: tuple[Step, ...]

    def to_dict(self) -> dict[str, Json]:
        """Everything but the single steps, as JSON takes it."""
        return {key: value for key, value in asdict(self).items() if key != "taken"}

    def fifths(self) -> tuple[tuple[int, int, float, float], ...]:
        """(first step, last step, adapted, frozen) of each fifth of the stream; steps from 1."""
        return tuple(
            (start + 1, stop, _share(part, "right"), _share(part, "frozen_right"))
            for start, stop in pairwise(_cuts(self.steps))
            for part in [self.taken[start:stop]]
        )


class Oracle:
    """Who knows what is right. Gives feedback on an answer, and only after it was given.

    With probability `flip` the feedback is wrong: another answer is told than the right one, or
    the bit is inverted. Scores are not flipped.
    """

    def __init__(
        self,
        targets: Sequence[str],
        answers: Sequence[str],
        *,
        feedback: str = "correct",
        flip: float = 0.0,
        seed: int = 0,
    ) -> None:
        if feedback not in FEEDBACK:
            raise InvalidSetting(f"feedback is one of {FEEDBACK}, not {feedback!r}", value=feedback)
        if not 0 <= flip <= 1:
            raise InvalidSetting(f"flip must be from 0 to 1, was {flip!r}", value=flip)
        self._targets = tuple(targets)
        self._answers = tuple(answers)
        self._feedback = feedback
        self._flip = flip
        self._random = random.Random(f"oracle {seed}")

    def is_right(self, step: int, answer: str) -> bool:
        return answer == self._targets[step]

    def tell(self, step: int, reply: Response) -> Learned:
        """Give feedback on the reply to step `step`."""
        told, right = self._targets[step], self.is_right(step, reply.text)
        if self._random.random() < self._flip:
            others = [answer for answer in self._answers if answer != told]
            told, right = self._random.choice(others or [told]), not right
        if self._feedback == "bit":
            return reply.good() if right else reply.bad()
        return reply.good() if reply.text == told else reply.correct(told)


def evaluate(
    chat: Chat,
    examples: Sequence[Example],
    answers: Sequence[str] | Mapping[str, str],
    *,
    feedback: str = "correct",
    flip: float = 0.0,
    steps: int | None = None,
    seed: int = 0,
    task: str = "evaluate",
    progress: Callable[[Step], None] | None = None,
) -> Report:
    """Stream `examples`, shuffled by `seed`, at most `steps` of them, and score every answer.

    `answers` is the closed set that may be answered, or name -> description. `progress` is called
    after each step. Raises InvalidText without examples, InvalidSetting for settings out of range,
    and whatever the chat raises.
    """
    if not examples:
        raise InvalidText("there are no examples", value=examples)
    if steps is not None and steps < 1:
        raise InvalidSetting(f"steps must be at least 1, was {steps!r}", value=steps)
    order = random.Random(seed).sample(range(len(examples)), len(examples))[:steps]
    output = choices(answers)
    targets = [examples[i].target for i in order]
    oracle = Oracle(targets, output.answers, feedback=feedback, flip=flip, seed=seed)
    before = _fingerprint(chat.model)
    taken = stream(chat, [examples[i].text for i in order], oracle, output, task, progress)
    return report(taken, feedback=feedback, unchanged=_fingerprint(chat.model) == before)


def choices(answers: Sequence[str] | Mapping[str, str]) -> Choices:
    """The closed set, with the descriptions that say something."""
    described = answers if isinstance(answers, Mapping) else {}
    return Choices(
        answers=tuple(answers),
        descriptions={name: text for name, text in described.items() if text},
    )


def stream(
    chat: Chat,
    texts: Sequence[str],
    oracle: Oracle,
    output: Choices,
    task: str = "evaluate",
    progress: Callable[[Step], None] | None = None,
) -> tuple[Step, ...]:
    """Answer, be told, go on: the whole loop, which never sees a target."""
    taken: list[Step] = []
    for number, text in enumerate(texts):
        frozen = chat.frozen(text, output=output).text
        started = perf_counter()
        reply = chat(text, task=task, output=output)
        answered = perf_counter()
        oracle.tell(number, reply)
        learned = perf_counter()
        taken.append(
            Step(
                answer=reply.text,
                frozen=frozen,
                right=oracle.is_right(number, reply.text),
                frozen_right=oracle.is_right(number, frozen),
                ms=1000 * (learned - started),
                learn_ms=1000 * (learned - answered),
                confidence=reply.confidence,
                weights=reply.why.weights,
            )
        )
        if progress is not None:
            progress(taken[-1])
    return tuple(taken)


def report(taken: Sequence[Step], *, feedback: str, unchanged: bool) -> Report:
    """Sum up the steps of one stream."""
    return Report(
        steps=len(taken),
        adapted=_score(taken, "right"),
        frozen=_score(taken, "frozen_right"),
        calibration_error=_calibration_error(taken),
        feedback=feedback,
        ms_per_step=_percentiles([step.ms for step in taken]),
        learn_ms=_percentiles([step.learn_ms for step in taken]),
        weights_unchanged=unchanged,
        taken=tuple(taken),
    )


def _calibration_error(taken: Sequence[Step]) -> float:
    bins: dict[int, list[Step]] = {}
    for step in taken:
        bins.setdefault(min(BINS - 1, int(BINS * step.confidence)), []).append(step)
    off = sum(abs(sum(s.confidence - s.right for s in steps)) for steps in bins.values())
    return round(off / len(taken), 4)


def _score(taken: Sequence[Step], field: str) -> Score:
    last = taken[_cuts(len(taken))[-2] :]
    return Score(accuracy=_share(taken, field), last_fifth=_share(last, field))


def _cuts(steps: int) -> list[int]:
    """Where the fifths begin, and the end; fewer than five when there are fewer steps."""
    return sorted({round(i * steps / 5) for i in range(6)})


def _share(taken: Sequence[Step], field: str) -> float:
    rights = sum(1 for step in taken if getattr(step, field))
    return round(rights / len(taken), 4)


def _percentiles(values: Sequence[float]) -> Percentiles:
    """By the nearest rank, so that each is a time that was really taken."""
    ranked = sorted(values)
    at = [ranked[min(len(ranked) - 1, int(share * len(ranked)))] for share in (0.5, 0.95)]
    return Percentiles(p50=round(at[0], 2), p95=round(at[1], 2))


def _fingerprint(model: Any) -> str:  # noqa: ANN401 (see Chat.model)
    """The hash of all weights; without a model there are none that could change."""
    return "" if model is None else str(model.fingerprint())
