"""How sure the model was of what it drew, from raw logits (before temperature, mask and cut).

Knows one number per token and how they are summed up. Refuses to know text, and never runs the
model again: all of it falls out of the pass that drew the token.

`Stats.summary()` has these names, each for the whole answer, end of turn included:

`self_certainty`     mean over tokens of KL(uniform || p) in nats: 0 for a flat distribution, more
                     when the model is sure (Kang et al., 2025)
`confidence`         mean over tokens of minus the mean log-probability of the 20 most probable
                     tokens, in nats: more is surer (DeepConf: Fu et al., 2025)
`confidence_tail`    the same over the last group of tokens
`confidence_lowest`  the lowest mean over any group of successive tokens
`confidence_bottom`  the mean of the lowest tenth of the groups (at least one)
`mask_mass`          sum over tokens of ln(probability that the constraint allowed): 0 when it
                     never got in the way, and the log importance weight of the answer when its
                     prior is to be p(answer | valid); a token that was forced counts as the only
                     one allowed

A group is `group_size(T)` successive tokens of an answer of T.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

TOP = 20
"""Tokens in a DeepConf confidence."""
GROUP = 2048
"""Tokens in a DeepConf group, for answers of at least eight times as many."""


@dataclass(slots=True)
class Stats:
    """Filled token by token as a row is drawn; moves and ends with it."""

    certainty: float = 0.0
    """Sum over tokens, nats."""
    confidences: list[float] = field(default_factory=list)
    """One a token, nats."""
    mask_mass: float = 0.0
    """Sum over tokens, nats."""

    def add(self, certainty: float, confidence: float, mask_mass: float) -> None:
        self.certainty += certainty
        self.confidences.append(confidence)
        self.mask_mass += mask_mass

    def summary(self) -> Mapping[str, float]:
        """See the module; empty before the first token."""
        tokens = len(self.confidences)
        if not tokens:
            return {}
        groups = group_confidences(self.confidences)
        lowest = np.sort(groups)[: max(1, groups.size // 10)]
        return {
            "self_certainty": self.certainty / tokens,
            "confidence": float(np.mean(self.confidences)),
            "confidence_tail": float(groups[-1]),
            "confidence_lowest": float(lowest[0]),
            "confidence_bottom": float(lowest.mean()),
            "mask_mass": self.mask_mass,
        }


def group_size(tokens: int) -> int:
    """An eighth of the answer, at least one token, at most `GROUP`."""
    return min(GROUP, max(1, tokens // 8))


def group_confidences(confidences: Sequence[float]) -> NDArray[np.float64]:
    """Mean of every window of `group_size` successive tokens, shape (T - size + 1,)."""
    size = group_size(len(confidences))
    sums: NDArray[np.float64] = np.cumsum([0.0, *confidences])
    return (sums[size:] - sums[:-size]) / size
