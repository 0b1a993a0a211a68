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

        q(a) = (pseudo * C * prior(a) + pos(a)) * exp(-3 neg(a) / (neg(a) + .05))

    pos and neg are sums of weight * exp((cosine - 1) / tau) over the cases with answer `a`
    (Nadaraya 1964, Watson 1964) and C is the number of answers: a Dirichlet prior of `pseudo`
    votes an answer, so that a near case is heard over the prior and a far one is not. The penalty
    saturates: no number of rejections silences an answer for good.

    The defaults were chosen on two orders of BANKING77 and TREC, with labels and with right/wrong
    bits for feedback, `Names` as the prior and 64 voters (16 or 256 change accuracy by 1 point).
    Raises InvalidSetting unless both are positive.
    """

    def __init__(self, tau: float = 0.08, *, pseudo: float = 3e-4) -> None:
        if tau <= 0 or pseudo <= 0:
            raise InvalidSetting(
                f"tau={tau!r} and pseudo={pseudo!r} must be positive", value=(tau, pseudo)
            )
        self._tau = tau
        self._pseudo = pseudo

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
        base = np.log(self._pseudo * max(1, len(answers))) + start
        heard = np.logaddexp(base, _log(pos))
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
