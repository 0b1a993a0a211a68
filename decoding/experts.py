"""The experts that need a pass of the model: which to ask, and how to read them.

Knows weights by name and log-probabilities. Refuses to run anything: `decide` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import TYPE_CHECKING

import numpy as np

from tta.decoding.mixture import normalise, totals
from tta.decoding.pool import POOL, reliance
from tta.types import Bias, Recall, Record, Request, Standing

if TYPE_CHECKING:
    from tta.protocols import FloatArray

FROZEN, RECALLED = "frozen", "recalled"
EXACT = "exact"
ACCEPTED = 0.5
"""Reward from which an answer is accepted for good: a lower one is a vote among others."""
FORCE = 0.9
"""Weight of what was said of this very request: it is not up for a vote."""
CALIBRATED = "{}/calibrated"
WITH_MEMORY = "{}*all"
"""The log-linear pool of a calibrated model and the product of all readers."""

NEGLIGIBLE = 0.02
"""Experts that together weigh less are not asked, when each would cost a pass."""
POOLED = 0.1
"""Nor are they for the pool's sake, where they are behind less of what it says: half of what it
begins with."""
CONTENDER = 0.2
"""From this weight on an open answer is drawn from a second prompt, too."""
TRIED = 20
"""Pieces of feedback before any expert is left out."""
SHRINK = 4.0
"""Pieces of feedback before how often it was right counts as much as what was thought."""
PRIOR = 10.0
"""Answers before a running mean counts half."""


def names(passed: str) -> tuple[str, str, str]:
    """The experts that one pass feeds."""
    return passed, CALIBRATED.format(passed), WITH_MEMORY.format(passed)


def settled(request: Request, recall: Recall) -> list[Record]:
    """What was accepted for this very request, the newest first; nothing within a conversation,
    where the same words may ask for something else."""
    if not request.stands_alone:
        return []
    prompt = request.prompt
    same = [r.record for r in recall.cases if r.record.request == prompt]
    return [record for record in same if record.weight >= ACCEPTED]


def is_needed(passed: str, standing: Standing) -> bool:
    """Whether the experts of a pass are worth it here.

    They are asked all the same at a share of steps that decays as 1 / sqrt(steps), so that an
    expert that becomes good is noticed.
    """
    said = standing.settings.experts
    if all(said.get(name) == 0 for name in names(passed)):
        return False
    if standing.weights.feedback < TRIED or explored(standing.answers):
        return True
    known = trusted(standing)
    behind = known.get(POOL, 0.0) * reliance(standing.weights.powers, CALIBRATED.format(passed))
    own = sum(known.get(name, 0.0) for name in names(passed))
    return own >= NEGLIGIBLE or behind >= POOLED


def is_contender(name: str, standing: Standing) -> bool:
    """Whether what the model draws from the other prompt is worth knowing, at a whole generation:
    while it is trusted, and at a decaying share of steps."""
    if standing.settings.experts.get(name) == 0:
        return False
    return explored(standing.answers) or trusted(standing).get(name, 0.0) >= CONTENDER


def leads(standing: Standing) -> str:
    """Which prompt is drawn from: with memory, unless the frozen one is trusted more."""
    known = trusted(standing)
    if not standing.weights.feedback:
        known = {RECALLED: 0.5, FROZEN: 0.1, **standing.settings.experts}
    return FROZEN if known[FROZEN] > known.get(RECALLED, 0.0) else RECALLED


def trusted(standing: Standing) -> dict[str, float]:
    """Each expert's weight as it was learned, or as the user said."""
    return {**totals(standing.weights), **standing.settings.experts}


def explored(answers: int) -> bool:
    """Whether the next answer's number is a perfect square."""
    return isqrt(answers + 1) ** 2 == answers + 1


def calibrated(logprobs: FloatArray, answers: Sequence[str], bias: Bias | None) -> FloatArray:
    """Without what the model thinks of each answer whatever is asked: minus the running mean of
    its log-probabilities (Zhao et al., 2021; Zhou et al., 2023), which counts more as it is known
    better. Shape (K,)."""
    opinion = normalise(logprobs)
    if bias is None or not bias.count:
        return opinion
    mean = np.array([bias.rest + bias.sums.get(answer, 0.0) for answer in answers]) / bias.count
    return normalise(opinion - bias.count / (bias.count + PRIOR) * mean)


def relied(confidence: float, reliability: Sequence[tuple[float, float]]) -> float:
    """The probability that an open answer is right, from how often those that looked like it were:
    histogram binning (Zadrozny and Elkan, 2001), shrunk to the task's mean, which is shrunk to
    `confidence`."""
    if not reliability:
        return confidence
    told, right = map(sum, zip(*reliability, strict=True))
    mean = (right + SHRINK * confidence) / (told + SHRINK)
    count, hits = reliability[min(len(reliability) - 1, int(confidence * len(reliability)))]
    return (hits + SHRINK * mean) / (count + SHRINK)


def with_model(
    passed: str,
    logprobs: FloatArray,
    answers: Sequence[str],
    standing: Standing,
    readers: Mapping[str, FloatArray],
) -> dict[str, FloatArray]:
    """The opinions that one pass over a closed set feeds."""
    plain, even, pooled = names(passed)
    own = calibrated(logprobs, answers, standing.biases.get(passed))
    found = {plain: normalise(logprobs), even: own}
    if "all" in readers:
        found[pooled] = normalise(own + readers["all"])
    return found
