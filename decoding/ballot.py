"""What the samples of one request say together: votes, and what is known of their probability.

Knows keys, votes and probabilities. Refuses to know when to draw another (`best`) and how much
votes count beside other experts (`mixture`).

Each text that was drawn comes with the probability that the model gave it. So the share of its
answer among endlessly many samples is at least that, without counting; what is left of 1 is split
as the votes are:

    share(a) = sum of p(text) over a's texts + (1 - sum of p over all texts seen) * votes(a) / votes

Short answers are known nearly exactly after a few samples; where many texts lead to one answer
(`same=`), the sums are small and it is the count.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp
from typing import TYPE_CHECKING, Any

import numpy as np

from tta.decoding.constrain import Output
from tta.decoding.stop import BetaStop, rival_gain, unseen_gain, votes
from tta.errors import InvalidOutput, InvalidSetting
from tta.types import Candidate, Finish

if TYPE_CHECKING:
    from tta.protocols import FloatArray

AGREEMENT = "agreement"
WEIGHTED = {
    "agreement/certain": "self_certainty",
    "agreement/group": "confidence_bottom",
    "agreement/mask": "mask_mass",
}
"""Experts that let surer samples count more, and the statistic that says how sure (CISC: Taubenfeld
et al., 2025; DeepConf: Fu et al., 2025; how little the constraint was in the way)."""
_LEAST = 1e-4
_PUNCTUATION = ".,;:!?\"'`*()[] \n\t"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What makes two answers the same: `same` of their values, else the value itself as JSON, else
    the text but for case, spaces and punctuation around it."""

    output: Output | None
    same: Callable[[Any], object] | None

    @property
    def merges(self) -> bool:
        """Whether answers with one key are one candidate: of free texts each spelling stays."""
        return self._typed or self.same is not None

    @property
    def _typed(self) -> bool:
        return self.output is not None and self.output.text is None

    def value(self, candidate: Candidate) -> object:
        """Raises InvalidOutput for one that was cut off or is no value of its type."""
        if self.output is not None:
            return self.output.parse(candidate.text, candidate.finish)
        if candidate.finish is Finish.LENGTH:
            raise InvalidOutput(f"The answer was cut off: {candidate.text!r}", value=candidate.text)
        return candidate.text

    def key(self, candidate: Candidate) -> str | None:
        """None for what has no vote: cut off, or no value of its type."""
        try:
            value = self.value(candidate)
        except InvalidOutput:
            return None
        if self.same is not None:
            return _canonical(self._same(value))
        if self._typed:
            return _canonical(value)
        return " ".join(candidate.text.casefold().split()).strip(_PUNCTUATION)

    def _same(self, value: object) -> object:
        assert self.same is not None
        try:
            return self.same(value)
        except Exception as error:
            raise InvalidSetting(
                f"same raised {type(error).__name__} for {value!r}: {error}",
                value=value,
                hint="It must take every value that the answer can have",
            ) from error


class Meanings:
    """Keys of answers by what they mean: each is of the first kind that it is near enough to
    (leader clustering: Hartigan, 1975)."""

    def __init__(self, vectors: Callable[[Sequence[str]], FloatArray], least: float) -> None:
        self._vectors, self._least = vectors, least
        self._kinds: list[FloatArray] = []
        self._known: dict[str, int] = {}

    def __call__(self, value: object) -> int:
        text = value if isinstance(value, str) else _canonical(value)
        if text not in self._known:
            self._known[text] = self._kind(self._vectors([text])[0])
        return self._known[text]

    def _kind(self, vector: FloatArray) -> int:
        near = (i for i, kind in enumerate(self._kinds) if kind @ vector >= self._least)
        found = next(near, len(self._kinds))
        if found == len(self._kinds):
            self._kinds.append(vector)
        return found


def _canonical(value: object) -> str:
    from pydantic import TypeAdapter

    plain = TypeAdapter(object).dump_python(value, mode="json", fallback=repr)
    return json.dumps(plain, sort_keys=True, ensure_ascii=False)


@dataclass(slots=True)
class Ballot:
    """The samples that vote, by key; `exact`: a text is its answer, so that its probability is
    that of the answer."""

    exact: bool
    keys: list[str] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    _known: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, key: str, candidate: Candidate) -> None:
        self.keys.append(key)
        self.candidates.append(candidate)
        # Of a constrained answer: given that it is a valid one.
        logprob = candidate.logprob - candidate.stats.get("mask_mass", 0.0)
        self._known.setdefault(key, {})[candidate.text] = exp(min(0.0, logprob))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def votes(self) -> Mapping[Hashable, float]:
        """Heaviest first."""
        return votes(self.keys)

    @property
    def known(self) -> dict[str, float]:
        """The least share that each answer can have."""
        return {key: sum(texts.values()) for key, texts in self._known.items()}

    @property
    def unknown(self) -> float:
        """What is left of 1: the probability that a sample is a text not seen yet."""
        return max(0.0, 1.0 - sum(self.known.values()))

    @property
    def novel(self) -> float:
        """The probability that the next sample is an answer not seen yet, at most: what is left of
        1, or by how many were seen once (Good, 1953; one more of each kind)."""
        once = sum(n == 1 for n in Counter(self.keys).values())
        return min(self.unknown, (once + 1) / (len(self) + 2))

    def shares(self) -> dict[str, float]:
        """The share of each answer among endlessly many samples, as far as it is known; they sum
        to 1."""
        known, left = self.known, self.unknown
        found = {key: known[key] + left * n / len(self) for key, n in Counter(self.keys).items()}
        total = sum(found.values())  # sums of rounded probabilities may exceed 1
        return {key: share / total for key, share in found.items()}

    def posterior(self, rule: BetaStop) -> float:
        """P(the leader is the answer that most samples would give); 0 before the first vote."""
        if not self.keys:
            return 0.0
        counted = rule.posterior(self.votes)
        return max(counted, self._settled()) if self.exact else counted

    def gain(self) -> float:
        """What drawing on can be expected to add to the leader's share, at most."""
        shares = sorted(self.shares().values(), reverse=True)
        first, second, *_ = (*self.votes.values(), 0.0)
        rivals = self.unknown * (first + second) / len(self) * rival_gain(first, second)
        return max(rivals, unseen_gain(shares[0], len(self)))

    def _settled(self) -> float:
        """From probabilities alone: 1 where what is not known could not lift another answer above
        the leader; else how improbable it is that a likelier answer was never drawn."""
        first, second, *_ = (*sorted(self.known.values(), reverse=True), 0.0)
        if first >= second + self.unknown:
            return 1.0
        return 1.0 - (1.0 - first) ** len(self)

    # ------------------------------------------------------------------------------- opinions

    def opinions(self, keys: Sequence[str | None]) -> dict[str, FloatArray]:
        """Log-probabilities of candidates with these keys by expert, shape (K,); empty where one
        sample or none voted."""
        if len(self) < 2:
            return {}
        found = {AGREEMENT: _logs(self.shares(), keys)}
        for name, statistic in WEIGHTED.items():
            sure = [c.stats.get(statistic, 0.0) for c in self.candidates]
            if max(sure) > min(sure):
                weighed = votes(self.keys, sure)
                found[name] = _logs({str(k): w / len(self) for k, w in weighed.items()}, keys)
        return found


def _logs(shares: Mapping[str, float], keys: Sequence[str | None]) -> FloatArray:
    """Of an answer that no sample gave, and of none: next to nothing."""
    return np.log([max(_LEAST, shares.get(key, 0.0) if key is not None else 0.0) for key in keys])
