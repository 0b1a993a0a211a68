"""Opinions about a closed set of answers, in closed form: no language model, no gradient.

Knows vectors' cosines and remembered cases as plain arguments. Knows neither where they come from
nor how much each opinion counts in the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tta.errors import InvalidSetting
from tta.protocols import Embedder
from tta.types import Recalled

if TYPE_CHECKING:
    from tta.protocols import FloatArray


class KernelVote:
    """Remembered cases vote for their answer, rejected ones against it, by similarity.

        q(a) = (prior_weight * prior(a) + pos(a)) * exp(-3 neg(a) / (neg(a) + .05))

    pos and neg are sums of weight * exp((cosine - 1) / tau) over the cases with answer `a`
    (Nadaraya 1964, Watson 1964; the penalty saturates, so that no number of rejections silences
    an answer for good). `prior_weight` is how near a case must be to be heard over the prior.
    """

    def __init__(self, tau: float = 0.05, *, prior_weight: float = 1e-4) -> None:
        if tau <= 0 or prior_weight <= 0:
            raise InvalidSetting(
                f"tau={tau!r} and prior_weight={prior_weight!r} must be positive",
                value=(tau, prior_weight),
            )
        self._tau = tau
        self._prior_weight = prior_weight

    def opinion(
        self,
        answers: Sequence[str],
        *,
        cases: Sequence[Recalled] = (),
        rejected: Sequence[Recalled] = (),
        prior: FloatArray | None = None,
    ) -> FloatArray:
        """Log-probabilities (nats) of `answers`, shape (len(answers),).

        `prior`: log-probabilities of another reader, uniform when None. Records whose answer is
        not among `answers` are not heard.
        """
        start = uniform(answers) if prior is None else prior
        pos = self._mass(answers, cases)
        neg = self._mass(answers, rejected)
        heard = np.logaddexp(np.log(self._prior_weight) + start, _log(pos))
        return normalised(heard - 3 * neg / (neg + 0.05))

    def _mass(self, answers: Sequence[str], voters: Sequence[Recalled]) -> FloatArray:
        place = {answer: i for i, answer in enumerate(answers)}
        mass = np.zeros(len(answers))
        for voter in voters:
            i = place.get(voter.record.answer)
            if i is not None:
                mass[i] += voter.record.weight * np.exp((voter.score - 1) / self._tau)
        return mass


class Names:
    """How near the request is to what each answer is called: softmax(temperature * cosine).

    Zero-shot classification by embeddings; it stands where a frozen model's own opinion goes when
    there is none. Underscores in names are read as spaces. Answers are embedded once (the
    embedder's cache keeps them).
    """

    def __init__(self, embedder: Embedder, *, temperature: float = 20.0) -> None:
        self._embedder = embedder
        self._temperature = temperature

    def opinion(
        self,
        answers: Sequence[str],
        *,
        request: str,
        descriptions: Mapping[str, str] | None = None,
    ) -> FloatArray:
        """Log-probabilities (nats) of `answers`, shape (len(answers),).

        A description, where there is one, is read instead of the name.
        """
        known = descriptions or {}
        texts = [known.get(answer) or answer.replace("_", " ") for answer in answers]
        vectors = self._embedder.embed([request, *texts])
        return normalised(self._temperature * (vectors[1:] @ vectors[0]).astype(float))


def uniform(answers: Sequence[str]) -> FloatArray:
    """Log-probabilities of no opinion at all."""
    return np.full(len(answers), -np.log(max(1, len(answers))))


def normalised(scores: FloatArray) -> FloatArray:
    """Log-softmax of `scores`."""
    if not len(scores):
        return np.zeros(0)
    shifted = scores - scores.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def _log(mass: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(mass))
