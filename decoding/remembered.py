"""What memory says of one step of an answer, so that a search over steps needs no other judge.

Knows the steps of answers that were accepted and refused for requests like this one. Refuses to
know the model, and how ways are searched. Which step of a refused answer was wrong nobody said:
each may be it, but for those that stand in an answer that was accepted for a request no less alike.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tta.types import Recall

if TYPE_CHECKING:
    from tta.protocols import FloatArray

ALIKE = 0.8
"""Cosine similarity from which one step says something of another; the same step says all."""
UNKNOWN = 0.75
"""The score of a step like none that is known."""


def steps_of(text: str, end: str) -> tuple[str, ...]:
    """Blank ones are none."""
    return tuple(step for step in text.split(end) if step.strip())


@dataclass(slots=True, kw_only=True)
class Remembered:
    """How good the last of some steps is, 0 to 1: `UNKNOWN` times the probability that it is not
    what was refused, more where it was accepted.

    `accepted`: by step, how much alike the request was (0 to 1). `suspects`: of each refused answer
    that, and its steps that may be why. `whole`: the answers refused for this very request.
    """

    accepted: Mapping[str, float]
    suspects: Sequence[tuple[float, Sequence[str]]]
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
        suspects = []
        for case in recall.rejected:
            steps = dict.fromkeys(steps_of(case.record.answer, end))
            if left := [step for step in steps if accepted.get(step, 0.0) < case.score]:
                suspects.append((min(1.0, case.score), left))
        refused = {steps_of(text, end) for text in whole}
        return cls(accepted=accepted, suspects=suspects, whole=refused, vectors=vectors)

    def __call__(self, steps: Sequence[str]) -> float:
        if tuple(steps) in self.whole:
            return 0.0
        step, right = steps[-1], 1.0
        for weight, suspects in self.suspects:
            near = max(self._alike(step, suspect) for suspect in suspects)
            right *= max(0.0, 1.0 - weight * near / len(suspects))
        near = max((w * self._alike(step, s) for s, w in self.accepted.items()), default=0.0)
        return right * (UNKNOWN + (1.0 - UNKNOWN) * min(1.0, max(0.0, near)))

    def _alike(self, step: str, other: str) -> float:
        if step == other:
            return 1.0
        cosine = float(np.dot(self._vector(step), self._vector(other)))
        return max(0.0, (cosine - ALIKE) / (1.0 - ALIKE))

    def _vector(self, step: str) -> FloatArray:
        if not self._known:
            given = [*self.accepted, *(s for _, suspects in self.suspects for s in suspects)]
            texts = list(dict.fromkeys(given))
            self._known.update(zip(texts, self.vectors(texts), strict=True))
        if step not in self._known:
            self._known[step] = self.vectors([step])[0]
        return self._known[step]
