"""How adaptation fares in one (scope, task), from its weights and tallies.

Knows how to read weights and what a paired difference is worth. Refuses to decide anything: the
mixture has already muted what does not help.
"""

from __future__ import annotations

from math import sqrt

from tta.decoding.mixture import FROZEN, noise, totals
from tta.types import Health, Tally, Weights

MUTED = 0.5
"""From this weight on the frozen model decides alone, or nearly so."""
_95 = 1.96


def health(user: str, task: str, weights: Weights, tally: Tally) -> Health:
    """Accuracies on the same steps, their difference with a 95 % interval (normal approximation of
    the paired difference, one pseudo-step of each sign), and whom feedback has made trusted."""
    steps = max(1, tally.steps)
    gain = tally.gained / steps
    spread = (tally.gained_squared + 2) / (steps + 2) - gain**2
    half = _95 * sqrt(max(0.0, spread) / (steps + 2))
    share = totals(weights) if weights.cells else {}
    best = min(weights.expert_log_loss, key=lambda e: weights.expert_log_loss[e], default=None)
    return Health(
        user=user,
        task=task,
        feedback=weights.feedback,
        steps=tally.steps,
        accuracy=tally.adapted / steps,
        frozen_accuracy=tally.frozen / steps,
        gain=gain,
        interval=(gain - half, gain + half),
        weights=dict(sorted(share.items(), key=lambda pair: -pair[1])),
        noise=noise(weights),
        muted=share.get(FROZEN, 0.0) >= MUTED,
        why=_why(weights, share),
        log_loss=weights.log_loss,
        expert_log_loss=dict(weights.expert_log_loss),
        bound=weights.allowance[best] if best is not None else 0.0,
    )


def _why(weights: Weights, share: dict[str, float]) -> str:
    if not share:
        return "no feedback told one expert from another yet"
    if weights.mute >= MUTED:
        return f"muted: the feedback looks random (probability {weights.mute:.2f})"
    if share[FROZEN] >= MUTED:
        return f"muted: nothing is better than the frozen model (weight {share[FROZEN]:.2f})"
    leader = max(share, key=lambda e: share[e])
    return f"adapted: {leader} is trusted most ({share[leader]:.2f})"
