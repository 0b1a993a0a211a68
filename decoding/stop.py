"""When enough has been drawn, and what the drawn answers say together.

Knows counts, weights, rewards and times. Refuses to know models, rows and what an answer means:
votes are over keys that a caller made of the answers (a typed value, canonical JSON, a cluster).
Answers that were cut off or rejected are the caller's to leave out; they never vote.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, erf, exp, inf, isfinite, lgamma, log, pi, sqrt

from tta.errors import InvalidSetting

CONFIDENCE = 0.95
MANY = 64
"""Rows that are drawn at once at most."""
_TINY = 1e-300


# --------------------------------------------------------------------------------- Beta stop


def lead_probability(first: float, second: float, alpha: float = 1.0, beta: float = 1.0) -> float:
    """P(the leading answer is the likelier of the two): 1 - I_1/2(first + alpha, second + beta).

    `first` and `second` are the two highest counts, or sums of weights scaled to mean 1; `alpha`
    and `beta` are what is known beforehand, as counts plus one (Adaptive-Consistency: Aggarwal et
    al., 2023, in closed form). With the uniform prior (1, 1) and whole counts it is
    P(Bin(first + second + 1, 1/2) <= first). `InvalidSetting`: a negative count, or a prior that
    is not positive.
    """
    for name, value, least in (("first", first, 0.0), ("second", second, 0.0)):
        if not (isfinite(value) and value >= least):
            raise InvalidSetting(f"{name} is {value!r}", value=value, hint="Use 0 or more")
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not (isfinite(value) and value > 0.0):
            raise InvalidSetting(f"{name} is {value!r}", value=value, hint="Use more than 0")
    return 1.0 - _half_beta(first + alpha, second + beta)


def _half_beta(a: float, b: float) -> float:
    """The regularised incomplete beta function at 1/2."""
    if a > b:  # the fraction converges fast below the mean
        return _half_beta_below(a, b)
    return 1.0 - _half_beta_below(b, a)


def _half_beta_below(a: float, b: float) -> float:
    """For a >= b, by Lentz's continued fraction (Numerical Recipes, 6.4)."""
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) - (a + b) * log(2.0)) / a
    c, d = 1.0, 1.0 / _away(1.0 - (a + b) * 0.5 / (a + 1.0))
    total = d
    for m in range(1, 500):
        even = m * (b - m) * 0.5 / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * 0.5 / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _away(1.0 + term * d)
            c = _away(1.0 + term / c)
            total *= c * d
        if abs(c * d - 1.0) < 1e-14:
            break
    return front * total


def _away(x: float) -> float:
    return x if abs(x) > _TINY else _TINY


@dataclass(frozen=True, slots=True, kw_only=True)
class BetaStop:
    """Stop once the leader is the likelier answer with probability `confidence`.

    `alpha`, `beta`: the prior, (1, 1) when nothing is known. Of a task whose votes were right r
    times and wrong w times, `BetaStop.after(r, w)`. `lossless`: stop only when the rest could not
    change the answer. `InvalidSetting`: a confidence outside [0.5, 1).
    """

    confidence: float = CONFIDENCE
    alpha: float = 1.0
    beta: float = 1.0
    lossless: bool = False

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1.0:
            raise InvalidSetting(
                f"confidence is {self.confidence!r}",
                value=self.confidence,
                hint="Use at least 0.5 and less than 1",
            )
        lead_probability(0, 0, self.alpha, self.beta)

    @classmethod
    def after(
        cls, right: float, wrong: float, *, weight: float = 4.0, confidence: float = CONFIDENCE
    ) -> BetaStop:
        """With a prior from feedback on the same task: its share of right answers, worth at most
        `weight` votes, so that a long history cannot decide before anything is drawn."""
        scale = min(1.0, weight / max(right + wrong, _TINY))
        return cls(confidence=confidence, alpha=1.0 + right * scale, beta=1.0 + wrong * scale)

    def posterior(self, votes: Mapping[Hashable, float]) -> float:
        """P(the leader is likelier than the runner-up); 0 before the first vote."""
        first, second = _two(votes)
        return lead_probability(first, second, self.alpha, self.beta) if first > 0.0 else 0.0

    def enough(self, votes: Mapping[Hashable, float], *, remaining: float = inf) -> bool:
        """`remaining`: how many votes could still come, as a weight."""
        first, second = _two(votes)
        if first - second > remaining or remaining <= 0:
            return True
        return not self.lossless and self.posterior(votes) >= self.confidence

    def wave(self, votes: Mapping[Hashable, float], *, remaining: int, least: int = 1) -> int:
        """How many to draw next, all at once: the fewest that could satisfy this rule, were they
        all for the leader. Drawn one by one they could not end it sooner, so nothing is lost.

        At least `least` (where rows cost little beside a pass), at most `remaining`; 0 when it is
        satisfied.
        """
        if self.enough(votes, remaining=remaining):
            return 0
        first, second = _two(votes)
        more = 1
        while more < remaining:
            hoped: dict[Hashable, float] = {True: first + more, False: second}
            if self.enough(hoped, remaining=remaining - more):
                break
            more += 1
        return min(max(more, least), remaining)


def _two(votes: Mapping[Hashable, float]) -> tuple[float, float]:
    first, second, *_ = (*sorted(votes.values(), reverse=True), 0.0, 0.0)
    return first, second


# ------------------------------------------------------------------------------------- value


def unseen_gain(share: float, n: int) -> float:
    """By how much an answer that `n` samples did not show can be expected to be more probable
    than one of that `share`, at most: max over s of (s - share) (1 - s)^n, in closed form.

    What another sample is worth where an answer is right as often as the model gives it (the value
    of information: Howard, 1966)."""
    rest = (1.0 - share) / (n + 1)
    return float(rest * (n * rest) ** n)


def rival_gain(first: float, second: float) -> float:
    """How much more probable the runner-up can be expected to be than the leader, where it is:
    E[max(0, 1 - 2x)] for x ~ Beta(first + 1, second + 1)."""
    a, b = first + 1.0, second + 1.0
    return _half_beta(a, b) - 2.0 * a / (a + b) * _half_beta(a + 1.0, b)


# ------------------------------------------------------------------------------------- votes


def votes(
    keys: Sequence[Hashable],
    confidences: Sequence[float] | None = None,
    *,
    temperature: float = 1.0,
) -> dict[Hashable, float]:
    """Weight of each answer, heaviest first; ties in the order in which they came.

    Without `confidences` each counts 1. With them each counts softmax(c / temperature), scaled to
    mean 1, so that the sum is still the number of votes (CISC: Taubenfeld et al., 2025). Any of
    `score`'s statistics will do. `InvalidSetting`: not one finite confidence a key, or a
    temperature that is not positive.
    """
    weights = [1.0] * len(keys)
    if confidences is not None:
        weights = _weights(keys, confidences, temperature)
    sums: dict[Hashable, float] = {}
    for key, weight in zip(keys, weights, strict=True):
        sums[key] = sums.get(key, 0.0) + weight
    return dict(sorted(sums.items(), key=lambda pair: -pair[1]))


def _weights(
    keys: Sequence[Hashable], confidences: Sequence[float], temperature: float
) -> list[float]:
    if len(confidences) != len(keys) or not all(map(isfinite, confidences)):
        raise InvalidSetting(
            f"{len(confidences)} confidences for {len(keys)} votes",
            value=confidences,
            hint="Give one finite number a vote",
        )
    if not temperature > 0.0:
        raise InvalidSetting(
            f"temperature is {temperature!r}", value=temperature, hint="Use more than 0"
        )
    top = max(confidences, default=0.0)
    raw = [exp((c - top) / temperature) for c in confidences]
    mean = sum(raw) / max(len(raw), 1)
    return [weight / mean for weight in raw]


# ------------------------------------------------------------------------------------- waves


@dataclass(slots=True, kw_only=True)
class Timing:
    """Milliseconds of a step as they are measured: `fixed` + n * `each` for n rows.

    Least squares over what `add` was told; until two sizes were seen, `fixed` is all of it.
    """

    _n: int = 0
    _sums: list[float] = field(default_factory=lambda: [0.0] * 4)

    def add(self, rows: int, ms: float) -> None:
        self._n += 1
        for i, value in enumerate((rows, ms, rows * rows, rows * ms)):
            self._sums[i] += value

    @property
    def known(self) -> bool:
        """Whether two sizes were seen."""
        return self._n > 1 and self._sums[2] * self._n - self._sums[0] ** 2 > 1e-9

    @property
    def worth(self) -> int:
        """How many rows cost as much as the fixed part."""
        fixed, each = self.line()
        return ceil(min(fixed / each, MANY)) if each > 0.0 else MANY

    def line(self) -> tuple[float, float]:
        """(fixed, each), neither negative."""
        if not self._n:
            return 1.0, 0.0
        x, y, xx, xy = (value / self._n for value in self._sums)
        each = max(0.0, (xy - x * y) / (xx - x * x)) if self.known else 0.0
        return max(0.0, y - each * x), each


def waves(limit: int, *, first: int = 4, timing: Timing | None = None) -> Iterator[int]:
    """How many to draw at once: 4, 4, 8, 16, ..., `limit` in all.

    Few waves cost few times the fixed part of a step; small waves draw little too much. As soon as
    it was measured what rows cost (`timing`), a wave has as many as cost together what another
    wave's step would.
    """
    if limit < 1 or first < 1:
        raise InvalidSetting(
            f"waves of {first!r} up to {limit!r}", value=(first, limit), hint="Use 1 or more"
        )
    drawn, size = 0, min(first, limit)
    while drawn < limit:
        size = min(size, limit - drawn)
        yield size
        drawn += size
        # Unless it is known better, the next wave doubles what there is.
        size = max(first, timing.worth) if timing is not None and timing.known else drawn


# ----------------------------------------------------------------------- successive halving


@dataclass(frozen=True, slots=True, kw_only=True)
class Halving:
    """Which of the running rows go on: at each checkpoint the best `keep` share of those alive.

    Checkpoints are at an eighth, a quarter and a half of `limit` tokens (speculative rejection:
    Sun et al., 2024, counted in tokens): 16 rows cost 5 * limit tokens and not 16.
    """

    limit: int
    keep: float = 0.5
    at: tuple[float, ...] = (0.125, 0.25, 0.5)

    def __post_init__(self) -> None:
        if self.limit < 1 or not 0.0 < self.keep <= 1.0:
            raise InvalidSetting(
                f"limit {self.limit!r}, keep {self.keep!r}",
                value=(self.limit, self.keep),
                hint="Use a limit of at least 1 and a share in (0, 1]",
            )

    def dropped(self, step: int, scores: Sequence[float]) -> tuple[int, ...]:
        """Indices of the rows to stop after `step` tokens; `scores`: of the live rows, more is
        better, ties for the earlier row. At least one row stays."""
        if step not in {max(1, int(share * self.limit)) for share in self.at}:
            return ()
        stay = max(1, ceil(self.keep * len(scores)))
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        return tuple(sorted(order[stay:]))


# ----------------------------------------------------------------------------------- Pandora


def fair_cap(mean: float, spread: float, cost: float) -> float:
    """The reward from which another draw is not worth its cost: E[(reward - cap)+] = cost, for
    rewards that are normal with that mean and standard deviation (Weitzman, 1979).

    `InvalidSetting`: a negative spread, a cost that is not positive.
    """
    if spread < 0.0 or not cost > 0.0:
        raise InvalidSetting(
            f"spread {spread!r}, cost {cost!r}",
            value=(spread, cost),
            hint="Use a spread of at least 0 and a cost above 0",
        )
    if spread == 0.0:
        return mean - cost
    low, high = -cost / spread - 1.0, 40.0
    for _ in range(200):
        middle = (low + high) / 2.0
        if spread * _gain(middle) > cost:
            low = middle
        else:
            high = middle
    return mean + spread * (low + high) / 2.0


def _gain(u: float) -> float:
    """E[(Z - u)+] for a standard normal Z."""
    density = exp(-u * u / 2.0) / sqrt(2.0 * pi)
    return density - u * (1.0 - erf(u / sqrt(2.0))) / 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pandora:
    """Stop once the best reward reaches the fair cap of rewards like those seen.

    `cost`: of one more draw, in units of reward. Mean and spread are learned as rewards come;
    `optimism` standard errors are added to the mean, so that few draws do not end it too soon
    (the upper-confidence rule for an unknown law; Kalayci et al., 2025).
    """

    cost: float
    optimism: float = 1.0
    least: int = 2

    def cap(self, rewards: Sequence[float]) -> float:
        """`inf` while fewer than `least` rewards were seen."""
        n = len(rewards)
        if n < max(self.least, 2):
            return inf
        mean = sum(rewards) / n
        spread = sqrt(sum((r - mean) ** 2 for r in rewards) / (n - 1))
        return fair_cap(mean + self.optimism * spread / sqrt(n), spread, self.cost)

    def enough(self, rewards: Sequence[float]) -> bool:
        return bool(rewards) and max(rewards) >= self.cap(rewards)
