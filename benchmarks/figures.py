"""From steps to figures: accuracy, calibration, harm, and the table.

Knows steps of several orders of one stream. Percentages are percent (81.7). Refuses to know
methods and models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, lgamma, log
from typing import Any

import numpy as np

from benchmarks.play import Step

BINS = 15
HARM_POINTS = 1.0
HARM_P = 0.05
WINDOW = 100
PRESENT = 0.9
"""An expert that was skipped more often than this allows is not compared."""

Runs = Sequence[Sequence[Step]]
"""The steps of each order."""


def prequential(steps: Sequence[Step]) -> float:
    """Percent right over all steps."""
    return 100 * float(np.mean([step.right for step in steps]))


def last_fifth(steps: Sequence[Step]) -> float:
    """Percent right in the last fifth."""
    return prequential(steps[len(steps) * 4 // 5 :])


def summary(runs: Runs, blocks: Sequence[int] = (0,), *, drifts: bool = False) -> dict[str, Any]:
    """The figures of one method: means over all steps of all orders; `sd` over the orders (0 for
    one order); what each of the `blocks` of the stream came to, and how soon a drift was over."""
    each = [prequential(steps) for steps in runs]
    every = [step for steps in runs for step in steps]
    times = [step.ms for step in every]
    found: dict[str, Any] = {
        "prequential": round(float(np.mean(each)), 2),
        "last": round(float(np.mean([last_fifth(steps) for steps in runs])), 2),
        "sd": round(float(np.std(each, ddof=1)) if len(each) > 1 else 0.0, 2),
        "tokens": round(float(np.mean([step.tokens for step in every])), 1),
        "reused": round(float(np.mean([step.reused for step in every])), 1),
        "passes": round(float(np.mean([step.passes for step in every])), 3),
        "ms": round(float(np.mean(times)), 2),
        "ms_p95": round(float(np.percentile(times, 95)), 2),
        "learn_ms_p95": round(float(np.percentile([s.learn_ms for s in every], 95)), 2),
        "shown": round(float(np.mean([step.shown for step in every])), 1),
        "distance": round(100 * float(np.mean([step.distance for step in every])), 2),
        "asked": round(100 * float(np.mean([step.asked for step in every])), 1),
        "orders": [round(value, 2) for value in each],
    }
    if any(step.confidence is not None for step in every):
        found["ece"] = round(ece(every), 2)
    if len(blocks) > 1:
        found["blocks"] = by_block(runs, blocks)
    if drifts:
        found["recovery"] = recovery(runs, blocks[-1])
    return found


def by_block(runs: Runs, blocks: Sequence[int]) -> list[float]:
    """Percent right in each part of the stream."""
    ends = [*blocks[1:], None]
    parts = [[prequential(s[a:b]) for s in runs] for a, b in zip(blocks, ends, strict=True)]
    return [round(float(np.mean(part)), 2) for part in parts]


def recovery(runs: Runs, at: int) -> int | None:
    """Steps after step `at` until the share of right answers over `WINDOW` steps, mean of the
    orders, is back at 90 % of what it was before; None if it never is."""
    curve = np.mean([[step.right for step in steps] for steps in runs], axis=0)
    before = curve[max(0, at - WINDOW) : at].mean()
    for end in range(at + WINDOW, len(curve) + 1):
        if curve[end - WINDOW : end].mean() >= 0.9 * before:
            return end - WINDOW - at
    return None


def ece(steps: Sequence[Step], bins: int = BINS) -> float:
    """Expected calibration error in points: |accuracy - confidence|, in `bins` bins of equal
    width, weighted by how many answers fall into each (Guo et al. 2017)."""
    known = [(step.confidence, step.right) for step in steps if step.confidence is not None]
    sure = np.array([c for c, _ in known])
    right = np.array([r for _, r in known], dtype=float)
    place = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = [
        np.sum(place == b) * abs(right[place == b].mean() - sure[place == b].mean())
        for b in np.unique(place)
    ]
    return 100 * float(np.sum(gaps)) / len(known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Two methods on the same steps: the gain in points, and the exact two-sided McNemar p."""

    gain: float
    p: float

    @property
    def harmful(self) -> bool:
        """Below by more than a point, and not by chance."""
        return self.gain < -HARM_POINTS and self.p < HARM_P


def paired(runs: Runs, others: Runs) -> Paired:
    """`runs` against `others`, all orders pooled."""
    return _compared(_rights(runs), _rights(others))


def _rights(runs: Runs) -> list[bool]:
    return [step.right for steps in runs for step in steps]


def _compared(rights: Sequence[bool], others: Sequence[bool]) -> Paired:
    pairs = list(zip(rights, others, strict=True))
    better = sum(a and not b for a, b in pairs)
    worse = sum(b and not a for a, b in pairs)
    return Paired(gain=100 * (better - worse) / len(pairs), p=sign_test(better, worse))


def sign_test(better: int, worse: int) -> float:
    """The two-sided exact binomial p of `better` against `worse` at even odds."""
    n, k = better + worse, min(better, worse)
    if n == 0:
        return 1.0
    tail = sum(
        exp(lgamma(n + 1) - lgamma(i + 1) - lgamma(n - i + 1) - n * log(2)) for i in range(k + 1)
    )
    return min(1.0, 2 * tail)


def experts(runs: Runs) -> dict[str, float]:
    """Percent right of each expert alone. Until it has something to go by an expert says what the
    frozen one says; one that was often skipped after that is left out."""
    return {name: round(100 * float(np.mean(rights)), 2) for name, rights in _experts(runs).items()}


def best_expert(runs: Runs) -> tuple[str, Paired] | None:
    """The best of the experts alone, chosen afterwards, against the mixture on the same steps.
    None where no expert spoke. Its p knows nothing of the choice."""
    found = _experts(runs)
    if not found:
        return None
    best = max(found, key=lambda name: sum(found[name]))
    return best, _compared(found[best], _rights(runs))


def _experts(runs: Runs) -> dict[str, list[bool]]:
    """Where each expert alone was right, all orders after one another."""
    names = sorted({name for steps in runs for step in steps for name in step.experts})
    found = {name: [_alone(steps, name) for steps in runs] for name in names}
    return {
        name: [right for rights in orders for right in rights or ()]
        for name, orders in found.items()
        if None not in orders
    }


def _alone(steps: Sequence[Step], name: str) -> list[bool] | None:
    """Where one expert was right in one order."""
    first = next((at for at, step in enumerate(steps) if name in step.experts), len(steps))
    spoken = sum(name in step.experts for step in steps[first:])
    if spoken < max(1, PRESENT * (len(steps) - first)):
        return None
    return [step.experts.get(name, step.experts.get("frozen", False)) for step in steps]


COLUMNS = ("prequential", "last", "sd", "tokens", "passes", "ms")
_HEADS = {"prequential": "preq. %", "last": "last 1/5", "tokens": "tokens", "distance": "edit %"}


def table(methods: Mapping[str, Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> str:
    """One line a method."""
    width = max(map(len, methods))
    heads = "".join(f"{_HEADS.get(column, column):>10}" for column in columns)
    lines = [f"{'':{width}}{heads}"]
    for name, found in methods.items():
        cells = "".join(f"{_cell(found.get(column)):>10}" for column in columns)
        lines.append(f"{name:{width}}{cells}")
    return "\n".join(lines)


def _cell(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) else "-"
