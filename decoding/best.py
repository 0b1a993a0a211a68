"""Best of N, with N found out while drawing: whether another sample is worth its cost.

Knows the samples, the verifier's scores and what feedback has shown of this task. Refuses to know
the model and memories. Samples are judged in their order, one by one: how many are drawn at once,
which measured times decide, changes how long it takes and never the answer.

The greedy sample comes first. Then, unless the caller said how many:

verifier      until one passes; where it gives degrees, until the best is not worth beating
              (Pandora's rule); or until another answer is hardly to be expected
settled       until the leader is with probability `sure` the answer of most samples
worth         with `n=None`: until what drawing on can add is less than `GAIN`; and it does not
              begin where samples could not agree, where answers are free text, or where feedback
              has shown that the greedy answer was as good, or nearly always right

With `n=None` the user's word on the task (`Settings.samples`) is as good as the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tta.decoding.ballot import Ballot, Keys
from tta.decoding.experts import explored
from tta.decoding.stop import CONFIDENCE, BetaStop, Pandora, Timing, waves
from tta.decoding.verify import Judge
from tta.types import Candidate, Cost, Request, Standing, UpTo

MOST = 16
"""Samples with `n=None`."""
FIRST = 4
"""Samples in the first wave, the greedy one included."""
GAIN = 0.02
"""Probability of a right answer that one more sample has to promise with `n=None`, and what it
costs in units of a verifier's score."""
RETRY = 4
"""How many more samples are drawn when all drawn so far were refused before."""
NOVEL = 0.05
"""Probability of an answer that was not refused yet from which on drawing ends: so much is cut from
each step's distribution anyway (`sample.TOP_P`)."""
WORTH = (FIRST - 1) * GAIN
"""How much more often the best of several samples has to be right than the greedy one: what the
rest of the first wave costs."""
HOPED = 0.1
"""What is expected of it before there is feedback, where answers can be compared."""
TRIED = 10.0
"""As how many pieces of feedback that counts."""


@dataclass(slots=True)
class Best:
    """The `Watch` over one request's samples. `stopped` says why no more are drawn; `posterior` is
    one number a sample, `samples` one answer (None: it has no vote)."""

    request: Request
    keys: Keys
    standing: Standing
    refused: frozenset[str]
    timing: Timing
    judge: Judge | None = None
    n: int | UpTo | None = field(init=False)
    ballot: Ballot = field(init=False)
    samples: list[str | None] = field(default_factory=list)
    posterior: list[float] = field(default_factory=list)
    stopped: str = ""
    drawn: list[Candidate] = field(default_factory=list)
    _rewards: list[float] = field(default_factory=list)
    _fixed: int | None = field(init=False)
    _why: str = ""
    _halved: bool = False
    _rule: BetaStop = field(init=False)
    _waves: Iterator[int] = field(init=False)

    def __post_init__(self) -> None:
        n = self.n = _wanted(self.request.n, self.standing.settings.samples)
        self.ballot = Ballot(exact=self.keys.same is None)
        self._fixed = n if isinstance(n, int) else None
        self._rule = _rule(n.sure if isinstance(n, UpTo) else CONFIDENCE, self.standing)
        self._waves = waves(self.most, first=min(FIRST, self.most), timing=self.timing)

    @property
    def most(self) -> int:
        return self.n.most if isinstance(self.n, UpTo) else self.n or MOST

    @property
    def first(self) -> int:
        """How many to begin with."""
        return self._fixed or 1

    # ------------------------------------------------------------------------- while drawing

    def over(self, candidate: Candidate) -> bool:
        key = self.keys.key(candidate)
        self.drawn.append(candidate)
        self.samples.append(None if key is None else candidate.text)
        if key is not None:
            self.ballot.add(key, candidate)
            if self.judge is not None:
                self.judge.ask(key, self.keys.value(candidate))
                self._rewards += [self.judge.scores[key]] if key in self.judge.scores else []
        self.posterior.append(self.ballot.posterior(self._rule))
        self.stopped = self._stops()
        return bool(self.stopped)

    def more(self, cost: Cost) -> int:
        if cost.passes:
            self.timing.add(round(cost.drawn / cost.passes), cost.ms / cost.passes)
        if self._all_refused():
            self._fixed = len(self.samples) + RETRY
            self._why, self.stopped = f"{RETRY} more drawn: refused before", ""
            return RETRY
        if not self.stopped and self._halved:
            # What halving gave up was not handed over.
            self.stopped = f"{len(self.samples)} of {self.most} left by halving; {self._said()}"
        return 0 if self.stopped else self._next()

    def _all_refused(self) -> bool:
        if not self.drawn or self._why or (self.judge is not None and self.judge.passed):
            return False
        return all(c.text in self.refused for c in self.drawn)

    def _next(self) -> int:
        remaining = self.most - len(self.samples)
        if isinstance(self.n, UpTo) and self.n.halving:
            self._halved = True  # all are begun at once
            return remaining
        size = next(self._waves, remaining)
        if len(self.samples) == 1:
            size -= 1  # the greedy one is of the first wave
        if self.judge is None and not self.ballot.exact:
            size = self._rule.wave(self.ballot.votes, remaining=remaining, least=size)
        return max(1, min(size, remaining))

    def chosen(self, ranked: Iterable[str]) -> dict[str, str]:
        """For the journal: the greedy answer, and the best of several that were drawn, of answers
        best first. What was remembered says nothing of whether samples are worth it."""
        greedy = self.drawn[0].text
        if len(self.drawn) == 1:
            return {"greedy": greedy}
        texts = {candidate.text for candidate in self.drawn}
        return {
            "greedy": greedy,
            "picked": next((text for text in ranked if text in texts), greedy),
        }

    # ------------------------------------------------------------------------------- stopping

    def _stops(self) -> str:
        """Why this was the last sample; "" if it was not."""
        n = len(self.samples)
        if self._fixed is not None:
            return (self._why or f"{n} drawn, as asked; {self._said()}") if n >= self._fixed else ""
        found = self._judged() if self.judge is not None else self._counted()
        if not found and n >= self.most:
            found = f"{n} drawn, the most allowed"
        return f"{found}; {self._said()}" if found else ""

    def _judged(self) -> str:
        assert self.judge is not None
        if self.judge.passed:
            return f"sample {len(self.samples)} passed the verifier"
        if self.judge.late is not None:
            return "the verifier took too long"
        if self.judge.graded and Pandora(cost=GAIN, least=FIRST).enough(self._rewards):
            return f"a score above {max(self._rewards):.2f} is not worth another sample"
        if self.ballot.keys and self.ballot.novel < NOVEL:
            return f"all refused, and the next is new with probability {self.ballot.novel:.2f}"
        return ""

    def _counted(self) -> str:
        remaining = self.most - len(self.samples)
        settled = not self._rule.lossless and self.posterior[-1] >= self._rule.confidence
        if settled or self._rule.enough(self.ballot.votes, remaining=remaining):
            return "settled"
        return self._not_worth() if self.n is None else ""

    def _not_worth(self) -> str:
        if not self.ballot.keys:
            hopeless = self.keys.output is None or len(self.samples) >= FIRST
            return "cut off at max_new_tokens" if hopeless else ""
        if len(self.samples) > 1:
            left = self.ballot.gain()
            return f"another sample could add {left:.3f} at most" if left < GAIN else ""
        hoped = HOPED if self.keys.merges else 0.0
        if promised(self.standing, hoped) < WORTH and not self._explores():
            return self._not_shown()
        if self.ballot.exact and max(self.ballot.known.values()) * self.most < 1:
            return "an answer too improbable for samples to agree on"
        return ""

    def _not_shown(self) -> str:
        tally = self.standing.sampled
        right = 1 - _wrong(self.standing)
        if right > 1 - WORTH:
            return f"greedy: the first answer is right with probability {right:.2f} here"
        if not tally.steps:
            return "greedy: nothing has shown yet that more samples help here"
        return f"greedy: more samples added {tally.gained / tally.steps:+.2f} so far"

    def _explores(self) -> bool:
        """A decaying share of steps with feedback, so that it is noticed where samples help."""
        known = (*self.standing.reliability, *self.standing.unaided)
        told = sum(count for count, _ in known)
        return told > 0 and explored(self.standing.answers)

    def _said(self) -> str:
        votes = self.ballot.votes
        if not votes:
            return "none could vote"
        leader, agree = next(iter(votes.items()))
        said = f"{agree:.0f} of {len(self.ballot)} agree"
        if self.ballot.exact:
            said += f" with {self.ballot.known[str(leader)]:.2f} of the probability"
        return f"{said}: posterior {self.posterior[-1]:.2f}"


def _rule(sure: float, standing: Standing) -> BetaStop:
    """With how often the task's first samples were right as the prior."""
    if sure >= 1:
        return BetaStop(lossless=True)
    told, right = standing.first
    return BetaStop.after(right, told - right, confidence=sure)


def _wanted(asked: int | UpTo | None, said: int | None) -> int | UpTo | None:
    if asked is not None or said is None:
        return asked
    return UpTo(said) if said > 1 else 1


def prior(standing: Standing) -> tuple[float, float]:
    """(a, b) of the Beta posterior of how often a task's first sample is right; uniform, (1, 1),
    without feedback."""
    told, right = standing.first
    return 1.0 + right, 1.0 + told - right


def budget(standing: Standing) -> int:
    """How many samples of a typed answer are drawn at most where a call does not say."""
    if standing.settings.samples is not None:
        return standing.settings.samples
    return MOST if promised(standing, HOPED) >= WORTH else 1


def promised(standing: Standing, hoped: float) -> float:
    """How much more often answers can be expected to be right than the greedy ones among them:
    as often as they were, shrunk to what was hoped for, and no more than the greedy are wrong."""
    tally = standing.sampled
    gained = (tally.gained + TRIED * hoped) / (tally.steps + TRIED)
    return min(gained, _wrong(standing))


def _wrong(standing: Standing) -> float:
    a, b = prior(standing)
    return b / (a + b)
