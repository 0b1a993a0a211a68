"""One more expert of closed sets: a log-linear pool of the others, each to a power that feedback
learns.

    pool(a) ~ exp(sum over experts of power[e] * log p[e](a))

The mixture finds out whom to listen to; where several know a part each, none of them is it. Powers
are a Gaussian around what they are before feedback. Each piece of feedback moves them by an online
Newton step (Hazan, Agarwal and Kale, 2007): of the experts' opinions nothing has to be kept but one
number each, the slope. Late feedback counts for the powers that its answer was given with: else
fifty answers that wait would all push the same way, for what the first has mended. Knows
probabilities and names of experts. Refuses to know what feedback it was (`testimony`), and how far
the pool is to be trusted: it is one more expert (`mixture`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from tta.types import Powers

if TYPE_CHECKING:
    from tta.protocols import FloatArray

POOL, NAMES = "pool", "names"
POWERS = {
    "recalled/calibrated": 0.4,
    "frozen/calibrated": 0.0,
    NAMES: 0.0,
    "kernel.02": 0.2,
    "kernel.05": 0.2,
    "kernel.1": 0.0,
    "centroid": 0.5,
    "lda": 0.3,
    "ridge": 0.1,
    "words": 0.15,
}
"""Before there is feedback."""
NEEDED = "kernel.05"
"""Nothing is pooled where no reader of remembered cases has spoken."""
SPREAD = 0.25
"""Standard deviation of a power before there is feedback. Chosen on BANKING77 and TREC, as were the
powers: on streams of 100 to 2,000 pieces of feedback no single expert was better in all."""
LEAST = 0.6
"""Share of what the powers sum to at the beginning, below which they never fall together."""
WIDE = 4.0
"""Nats. An opinion whose log-probabilities deviate by s is divided by 1 + s / WIDE: the more
answers there are, the further apart who is overconfident puts them."""


def pooled(opinions: Mapping[str, FloatArray], powers: Powers) -> FloatArray | None:
    """Log-probabilities, shape (K,), of opinions of that shape; None where there is nothing to
    pool."""
    if NEEDED not in opinions:
        return None
    mean = powers.mean or POWERS
    scores = np.array([mean[name] for name in POWERS]) @ features(opinions)
    shifted = scores - scores.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def features(opinions: Mapping[str, FloatArray]) -> FloatArray:
    """What is pooled, shape (experts pooled, K): who has not spoken says nothing."""
    found = np.zeros((len(POWERS), len(opinions[NEEDED])))
    spoken = [row for row, name in enumerate(POWERS) if name in opinions]
    off = np.array([opinions[name] for name in POWERS if name in opinions])
    off -= off.mean(1, keepdims=True)
    deviation = np.sqrt(np.vecdot(off, off) / off.shape[1])
    found[spoken] = off / (1 + deviation[:, None] / WIDE)
    return found


def slope(pooling: FloatArray, before: FloatArray, after: FloatArray) -> dict[str, float]:
    """By how much the likelihood of feedback grows with each power, in nats.

    `pooling`: `features`; `before` (K,): the pool's probabilities, `after` (K,) those given the
    feedback. Both sum to 1.
    """
    found = pooling @ (after - before)
    return {name: float(f"{by:.4g}") for name, by in zip(POWERS, found, strict=True) if by}


def held(opinions: Collection[str], powers: Powers) -> dict[str, float]:
    """What is to be kept of an answer: the powers that it was pooled with, of those who spoke
    (without a model, the names do so under another name)."""
    mean = powers.mean or POWERS
    return {name: round(mean[name], 3) for name in POWERS if name in opinions or name == NAMES}


def reached(slopes: Mapping[str, float], powers: Mapping[str, float]) -> float:
    """How far along the slopes the powers were that an answer was pooled with: the sum of their
    products."""
    return float(f"{sum(by * powers.get(name, 0.0) for name, by in slopes.items()):.5g}")


def moved(
    powers: Powers, slopes: Mapping[str, float], right: float, at: float | None = None
) -> Powers:
    """The powers after feedback that is right with probability `right`.

    Its log-likelihood is taken for a quadratic around the powers that the answer was given with:
    `at` says how far along the slopes those were (`reached`; None: where they are now), so that
    what other feedback has climbed since is not climbed again.

    Those of the experts that spoke never sum to less than `LEAST` of what they did before there was
    feedback, by a generalised projection: where feedback is noise, a pool that says nothing of any
    answer would pass for one that knows.
    """
    if not slopes:
        return powers
    uphill = right * np.array([slopes.get(name, 0.0) for name in POWERS])
    sharp = np.array(powers.precision or _PRIOR) + np.outer(uphill, uphill)
    mean = np.array([(powers.mean or POWERS)[name] for name in POWERS])
    climbed = 0.0 if at is None else float(uphill @ mean) - right * at
    step, spoken = np.linalg.solve(sharp, np.array([(1 - climbed) * uphill, uphill != 0]).T).T
    mean += step
    lost = (uphill != 0) @ (LEAST * _BEGUN - mean)
    if lost > 0:
        mean += spoken * lost / spoken[uphill != 0].sum()
    return Powers(
        mean=dict(zip(POWERS, mean.tolist(), strict=True)),
        precision=tuple(map(tuple, sharp.tolist())),
    )


def passed_on(powers: Powers) -> Powers:
    """Those of a task that is like the others, or is not: half way to where all began."""
    if not powers.mean:
        return powers
    return Powers(mean={name: (powers.mean[name] + POWERS[name]) / 2 for name in POWERS})


def reliance(powers: Powers, name: str) -> float:
    """Which share of what the pool says an expert is behind (0 to 1)."""
    mean = powers.mean or POWERS
    return abs(mean.get(name, 0.0)) / (sum(map(abs, mean.values())) or 1.0)


_BEGUN = np.array(list(POWERS.values()))
_PRIOR = np.eye(len(POWERS)) / SPREAD**2
