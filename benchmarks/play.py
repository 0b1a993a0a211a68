"""The loop: predict, then feedback, then the next; and what there is to say of it afterwards.

Knows the protocol (benchmarks/README.md) and times. The method is handed items and what it
is told, never a target: scoring happens on this side. Refuses to know how methods work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

import tta
from benchmarks.bench import Answer, Method
from benchmarks.methods import Tta, expert_answers
from benchmarks.oracle import Oracle, Told
from benchmarks.prompting import levenshtein
from benchmarks.streams import Drawn, Item


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One answer, scored. `distance` is the edit distance to what was right over the longer
    one's length (0 to 1); `experts`: whether each expert alone would have been right; `ms` is
    answering and learning, without embedding texts for the first time."""

    text: str
    right: bool
    confidence: float | None
    distance: float
    tokens: int
    reused: int
    passes: int
    shown: int
    ms: float
    learn_ms: float
    asked: bool
    experts: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Feedback on a share of the steps only: those the method chooses, or random ones."""

    share: float
    chosen: bool
    seed: int


def play(
    method: Method, drawn: Drawn, oracle: Oracle, *, delay: int = 0, asking: Asking | None = None
) -> list[Step]:
    """Every step of one stream. Feedback on step t arrives after the answer to step t + delay."""
    waiting: deque[tuple[int, Item, Answer, Told]] = deque()
    steps: list[Step] = []
    rng = np.random.default_rng([asking.seed, 13]) if asking else None
    for number, item in enumerate(drawn.stream.items):
        started = perf_counter()
        answer = method.predict(item)
        answered = perf_counter()
        asked = rng is None or asking is None or _asks(method, answer, asking, rng)
        told = oracle.tell(number, answer.text, answer.notes) if asked else None
        if told is not None:
            waiting.append((number, item, answer, told))
        learning = perf_counter()
        while waiting and waiting[0][0] <= number - delay:
            _, about, given, feedback = waiting.popleft()
            method.learn(about, given, feedback)
        learn_ms = 1000 * (perf_counter() - learning)
        ms = 1000 * (answered - started) + learn_ms + answer.saved_ms
        steps.append(_step(oracle, number, answer, ms, learn_ms, told is not None))
    return steps


def _asks(method: Method, answer: Answer, asking: Asking, rng: np.random.Generator) -> bool:
    if asking.chosen and isinstance(method, Tta):
        return method.wants(answer, asking.share)
    return bool(rng.random() < asking.share)


def _step(
    oracle: Oracle, number: int, answer: Answer, ms: float, learn_ms: float, asked: bool
) -> Step:
    right, target = oracle.right(number, answer.text, answer.notes), oracle.target(number)
    longest = max(len(answer.text), len(target), 1)
    cost, reply = answer.cost, answer.receipt
    experts = expert_answers(reply.candidates) if isinstance(reply, tta.Response) else {}
    return Step(
        text=answer.text,
        right=right,
        confidence=answer.confidence,
        distance=0.0 if right else levenshtein(answer.text, target) / longest,
        tokens=cost.prefilled + cost.reused + cost.drawn,
        reused=cost.reused,
        passes=cost.passes,
        shown=answer.shown,
        ms=ms,
        learn_ms=learn_ms,
        asked=asked,
        experts={name: text == target for name, text in experts.items()},
    )


def embed_ahead(drawn: Drawn, embed: object) -> None:
    """All texts of a stream in one batch, so that no method pays for being the first."""
    texts: Sequence[str] = [item.text for item in drawn.stream.items]
    if hasattr(embed, "embed"):
        embed.embed(texts)
