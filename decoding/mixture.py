"""Experts' opinions to one score per candidate: a log-linear pool with fixed weights.

Knows log-probabilities and weights by expert name. Refuses to know what an expert is, and what
feedback would do to its weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tta.errors import InvalidSetting

if TYPE_CHECKING:
    from tta.protocols import FloatArray


FLOOR = 1e-4
"""No expert may veto: an answer keeps at least this probability in each opinion. It is what lets a
correction of this very request outvote a model that is sure of something else."""


def normalise(scores: FloatArray) -> FloatArray:
    """Log-softmax over the candidates: float64, shape (K,); the exponentials sum to one.

    A candidate at -inf stays there. `InvalidSetting`: not one-dimensional, empty, NaN, +inf, or
    no finite score at all.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise InvalidSetting(
            f"Scores have shape {values.shape}, not (candidates,)",
            value=values.shape,
            hint="Give one log-probability per candidate",
        )
    top = values.max()
    if not np.isfinite(top):  # NaN and +inf propagate to the maximum; so does "all -inf"
        raise InvalidSetting(
            f"Scores that cannot be normalised: {values!r}",
            value=scores,
            hint="At least one must be finite, none NaN or +inf",
        )
    shifted = values - top
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), dtype=np.float64)


def heard(opinion: FloatArray) -> FloatArray:
    """An opinion as it is weighed: normalised over the candidates, then bounded by `FLOOR`."""
    return np.maximum(normalise(opinion), np.log(FLOOR))


def combine(opinions: Mapping[str, FloatArray], weights: Mapping[str, float]) -> FloatArray:
    """The weighted sum of log-probabilities as they are `heard`: float64, shape (K,).

    Each opinion is normalised over the candidates first, so that an expert that speaks of few
    nats and one that speaks of hundreds are weighed alike (logarithmic opinion pool: Genest and
    Zidek, 1986). An opinion of weight 0 is not looked at. `InvalidSetting`: no opinion, an opinion
    without a weight, a weight that is negative or not finite, opinions over different numbers of
    candidates.
    """
    if not opinions:
        raise InvalidSetting("No opinion to combine", value=opinions, hint="Give at least one")
    sizes = {name: np.shape(opinion) for name, opinion in opinions.items()}
    if len(set(sizes.values())) > 1:
        raise InvalidSetting(
            f"Opinions over different candidates: {sizes!r}",
            value=sizes,
            hint="Every expert must speak of the same candidates",
        )
    total = np.zeros(next(iter(sizes.values())), dtype=np.float64)
    for name, opinion in opinions.items():
        weight = _weight(name, weights)
        if weight > 0.0:
            total += weight * heard(opinion)
    return total


def _weight(name: str, weights: Mapping[str, float]) -> float:
    weight = weights.get(name)
    if weight is None or not np.isfinite(weight) or weight < 0.0:
        raise InvalidSetting(
            f"The weight of {name!r} is {weight!r}",
            value=weight,
            hint="Every expert needs a finite weight of at least 0",
        )
    return float(weight)
