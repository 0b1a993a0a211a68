"""What memory says of one step of an answer, so that a search over steps needs no other judge.

Knows the steps of answers that were accepted and refused for requests like this one. Refuses to
know the model, and how ways are searched. Which step of a refused answer was wrong nobody said:
one at least (a noisy-or: Pearl, 1988), and none that stands in an answer that was accepted for a
request no less alike.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log
from typing import TYPE_CHECKING

import numpy as np

from tta.types import Recall

if TYPE_CHECKING:
    from tta.protocols import FloatArray

ALIKE = 0.8
"""Cosine similarity from which one step says something of another; the same step says all."""
UNKNOWN = 0.75
"""The score of a step like none that is known."""
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""How often a step may be wrong before anything is known."""
ROUNDS = 4
"""Of mean field: by then the blame has settled."""
_SURE = 30.0
"""Nats: no step is blamed more."""


def steps_of(text: str, end: str) -> tuple[str, ...]:
    """Blank ones are none."""
    return tuple(step for step in text.split(end) if step.strip())


@dataclass(slots=True, kw_only=True)
class Remembered:
    """How good the last of some steps is, 0 to 1: `UNKNOWN` where nothing is known of it, less as
    it is likelier wrong than such a one, more where it was accepted.

    `accepted`: by step, how much alike the request was (0 to 1). `wrong`: of steps that stood in
    refused answers, by how much they are likelier wrong than others (0 to 1). `whole`: the answers
    refused for this very request.
    """

    accepted: Mapping[str, float]
    wrong: Mapping[str, float]
    whole: Collection[tuple[str, ...]]
    vectors: Callable[[Sequence[str]], FloatArray]
    _known: dict[str, FloatArray] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        recall: Recall,
        whole: Collection[str],
        end: str,
        vectors: Callable[[Sequence[str]], FloatArray],
    ) -> Remembered:
        accepted: dict[str, float] = {}
        for case in recall.cases:
            for step in steps_of(case.record.answer, end):
                accepted[step] = max(accepted.get(step, 0.0), case.score)
        right = [len(steps_of(case.record.answer, end)) for case in recall.cases]
        suspects = []
        for case in recall.rejected:
            steps = dict.fromkeys(steps_of(case.record.answer, end))
            if left := [step for step in steps if accepted.get(step, 0.0) < case.score]:
                suspects.append((min(1.0, case.score), left))
        return cls(
            accepted=accepted,
            wrong=_blamed(suspects, right),
            whole={steps_of(text, end) for text in whole},
            vectors=vectors,
        )

    def __call__(self, steps: Sequence[str]) -> float:
        if tuple(steps) in self.whole:
            return 0.0
        step = steps[-1]
        right = 1.0 - max((w * self._alike(step, s) for s, w in self.wrong.items()), default=0.0)
        near = max((w * self._alike(step, s) for s, w in self.accepted.items()), default=0.0)
        return right * (UNKNOWN + (1.0 - UNKNOWN) * min(1.0, max(0.0, near)))

    def _alike(self, step: str, other: str) -> float:
        if step == other:
            return 1.0
        cosine = float(np.dot(self._vector(step), self._vector(other)))
        return max(0.0, (cosine - ALIKE) / (1.0 - ALIKE))

    def _vector(self, step: str) -> FloatArray:
        if not self._known:
            texts = list(dict.fromkeys([*self.accepted, *self.wrong]))
            self._known.update(zip(texts, self.vectors(texts), strict=True))
        if step not in self._known:
            self._known[step] = self.vectors([step])[0]
        return self._known[step]


def _blamed(
    refused: Sequence[tuple[float, Sequence[str]]], accepted: Sequence[int]
) -> dict[str, float]:
    """By how much each step of refused answers (how much alike their requests were, and their
    steps) is likelier wrong than one nobody has seen. `accepted`: how many steps the right ones
    had. By mean field: each other step that may have been wrong takes some of the blame."""
    common = _common([len(steps) for _, steps in refused], accepted)
    wrong = {step: common for _, steps in refused for step in steps}
    for _ in range(ROUNDS):
        nats = dict.fromkeys(wrong, log(common / (1 - common)))
        for alike, steps in refused:
            for step in steps:
                others = np.prod([1 - wrong[other] for other in steps if other != step])
                nats[step] -= alike * log(max(1e-9, 1 - float(others)))
        wrong = {step: 1 / (1 + exp(-min(_SURE, by))) for step, by in nats.items()}
    return {step: max(0.0, (by - common) / (1 - common)) for step, by in wrong.items()}


def _common(refused: Sequence[int], accepted: Sequence[int]) -> float:
    """How often a step is wrong: the posterior mean over `SHARES`, from how many steps refused and
    accepted answers have."""
    shares = np.array(SHARES)
    likely = np.zeros(len(shares))
    for length in refused:
        likely += np.log(1 - (1 - shares) ** length)
    for length in accepted:
        likely += length * np.log(1 - shares)
    weights = np.exp(likely - likely.max())
    return float(weights @ shares / weights.sum())
