"""An answer found step by step: what goes wrong is noticed at its first wrong step, not at its end.

Knows rows, the steps that their text falls into, and a judge of those. Refuses to know what a step
means. Rows run side by side, each on its own way. A step that is refused ends its row at once, and
the row's place is taken by another continuation of the best way known so far: its keys, values and
states were set aside when its last step was accepted, so nothing is run again.

Best-first search over steps (Tree of Thoughts: Yao et al., 2023) with several rows at work (beam
search against a verifier: Snell et al., 2024), where a way's value decides who goes on from it
(REBASE: Wu et al., 2024). It ends, since tokens are bounded: at most as many as the same rows could
draw without a judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import exp, log1p
from typing import TYPE_CHECKING

from tta.decoding import engine
from tta.decoding.engine import Row
from tta.decoding.ragged import Lanes, lanes
from tta.decoding.sample import masked
from tta.errors import VerifierTimeout
from tta.types import Candidate, Cost, Finish, Steps

if TYPE_CHECKING:
    import torch

    from tta.decoding.begun import Begun

ANEW = 0.5
"""What beginning again is worth: as much as a step of which nothing is known."""
PATIENCE = 4
"""Refused continuations after which a way counts half."""
END = -1
"""Stands for the end of the turn, whichever token that is."""
EXHAUSTED = 1 - 1e-12
"""Of what was refused whole so little is left, so that there is always something to draw."""
Ask = Callable[[tuple[str, ...]], float]
"""How good the last of these steps is, 0 to 1."""


@dataclass(slots=True)
class Tried:
    """Continuations that were refused, as a tree: how probable those are together that go through
    each token. Taking that off the model's probabilities draws from all others, each as probable
    as it is given that it is none of these (sampling without replacement: Shi et al., 2020)."""

    mass: dict[int, float] = field(default_factory=dict)
    further: dict[int, Tried] = field(default_factory=dict)
    whole: set[tuple[int, ...]] = field(default_factory=set)

    def add(self, tokens: Sequence[int], logprob: float) -> None:
        """A continuation and its log-probability (nats); it counts once."""
        if tuple(tokens) in self.whole:
            return
        self.whole.add(tuple(tokens))
        here = self
        for token in tokens:
            here.mass[token] = here.mass.get(token, 0.0) + exp(logprob)
            here = here.further.setdefault(token, Tried())

    def subtract(
        self,
        tokens: Sequence[int],
        logprob: float,
        known: torch.Tensor,
        logits: torch.Tensor,
        ends: Sequence[int],
    ) -> None:
        """Lower the `logits` (V,) that follow `tokens`, in place. `logprob` is of those, `known`
        (V,) of what follows: as the constraint leaves them, if there is one."""
        here: Tried | None = self
        for token in tokens:
            here = here.further.get(token) if here is not None else None
        if here is None or not here.mass:
            return
        for token, mass in here.mass.items():
            at = list(ends) if token == END else [token]
            through = exp(logprob + float(known[at].logsumexp(-1)))
            share = mass / through if through > 0.0 else 0.0
            logits[at] += log1p(-min(share, EXHAUSTED))


@dataclass(slots=True, eq=False)
class _Way:
    """Accepted steps, and what it takes to go on from there; the empty way is the prompt."""

    steps: tuple[str, ...] = ()
    score: float = ANEW
    row: Row | None = None
    aside: Lanes | None = None
    refused: int = 0
    tried: Tried = field(default_factory=Tried)

    @property
    def tokens(self) -> int:
        return 0 if self.row is None else len(self.row.ids)

    @property
    def worth(self) -> tuple[float, int]:
        return self.score * 0.5 ** (self.refused // PATIENCE), len(self.steps)


@dataclass(slots=True, eq=False)
class _Going:
    """A row, the way it goes on from, and how probable it made what it drew since (nats)."""

    row: Row
    way: _Way
    logprob: float = 0.0


@dataclass(slots=True, kw_only=True)
class Search:
    """One search for `wanted` answers. `check` raises where nobody waits for them any more."""

    begun: Begun
    steps: Steps
    ask: Ask
    wanted: int
    together: bool
    check: Callable[[], None]
    found: list[tuple[float, Row]] = field(default_factory=list)
    drawn: int = 0
    passes: int = 0
    _scores: dict[tuple[str, ...], float] = field(default_factory=dict)
    _samples: int = 0
    _root: _Way = field(default_factory=_Way)
    _open: list[_Way] = field(default_factory=list)
    _live: list[_Going] = field(default_factory=list)
    _lanes: Lanes | None = None
    _first: Row | None = None
    _late: bool = False

    def run(self) -> tuple[tuple[Candidate, ...], Cost, str]:
        """Candidates, best first; what it took; and why it ended. Without a complete answer, the
        farthest way, as cut off. VerifierTimeout: nothing was found before a step took too long."""
        self._open = [self._root]
        self._refill()
        while not (stopped := self._stopped()):
            self.check()
            self._forward()
            self._refill()
        self._live, self._lanes = [], None
        refused = sum(score < self.steps.least for score in self._scores.values())
        said = f"{stopped}; {len(self._scores)} steps judged, {refused} refused"
        return self._candidates(), self.begun.cost(self.passes, self.drawn), said

    # ------------------------------------------------------------------------------- one token

    def _forward(self) -> None:
        assert self._lanes is not None
        logits = self._lanes.forward([going.row.ids[-1] for going in self._live])
        self.passes += 1
        self._take(self._live, logits)
        self._look()

    def _take(self, live: Sequence[_Going], logits: torch.Tensor) -> None:
        """The next token of each row; `logits` (N, V). What was refused is not drawn again."""
        rules, rows = self.begun.rules, [going.row for going in live]
        allowed = [row.allowed(logits.shape[-1]) for row in rows]
        raw = logits.float()
        known, _ = masked(raw, raw.logsumexp(-1), allowed)
        known, raw_known, left = known.log_softmax(-1), raw.log_softmax(-1), raw.clone()
        for i, going in enumerate(live):
            since = going.row.ids[going.way.tokens :]
            going.way.tried.subtract(since, going.logprob, known[i], left[i], rules.ends)
        taken = engine.sampled(rows, left, allowed, rules)
        for i, (going, step) in enumerate(zip(live, taken, strict=True)):
            at = list(rules.ends) if step.token in rules.ends else [step.token]
            going.logprob += float(known[i, at].logsumexp(-1))
            own = float(raw_known[i, at].logsumexp(-1))
            taken[i] = replace(step, logprob=own, end_logprob=own)
        engine.settle(rows, taken, rules)
        self.drawn += sum(row.finish is not Finish.STOP for row in rows)

    def _look(self) -> None:
        """Judge what is complete; rows that are over or refused leave."""
        stay = [place for place, going in enumerate(self._live) if self._passes(place, going)]
        if len(stay) == len(self._live):
            return
        self._live = [self._live[i] for i in stay]
        if stay and self._lanes is not None:
            self._lanes.keep(stay)
        else:
            self._lanes = None

    def _passes(self, place: int, going: _Going) -> bool:
        """Whether the row goes on, maybe on a new way; not where its newest step is refused."""
        row, way = going.row, going.way
        done = self._complete(row)
        if done == way.steps and row.finish is None:
            return True
        score = way.score
        for i in range(len(way.steps), len(done)):
            score = self._asked(done[: i + 1])
            if score < self.steps.least:
                return self._refuse(going)
        if row.finish is Finish.STOP:
            self.found.append((score, row))
            return False
        if row.finish is not None:  # cut off
            return self._refuse(going)
        going.way, going.logprob = self._way(place, row, done, score), 0.0
        return True

    def _way(self, place: int, row: Row, done: tuple[str, ...], score: float) -> _Way:
        """Where the row is now; rows that came to the same share what was refused there."""
        assert self._lanes is not None
        for known in self._open:
            if known.row is not None and known.row.ids == row.ids:
                return known
        way = _Way(done, score, row.copied(), self._lanes.taken(place))
        self._open.append(way)
        if len(self._open) > self.steps.rows + 1:  # so many are kept, the beginning besides
            self._open.remove(min(self._open[1:], key=lambda way: way.worth))
        return way

    def _refuse(self, going: _Going) -> bool:
        row, way = going.row, going.way
        ended = [END] if row.finish is Finish.STOP else []
        way.tried.add([*row.ids[way.tokens :], *ended], going.logprob)
        way.refused += 1
        return False

    def _complete(self, row: Row) -> tuple[str, ...]:
        """The steps that nothing can be added to any more; blank ones are none."""
        parts = self.begun.read(row.ids).split(self.steps.end)
        whole = parts if row.finish is Finish.STOP else parts[:-1]
        return tuple(step for step in whole if step.strip())

    def _asked(self, steps: tuple[str, ...]) -> float:
        if steps not in self._scores:
            try:
                self._scores[steps] = self.ask(steps)
            except VerifierTimeout:
                if not self.found:
                    raise
                self._late = True
                return 0.0
        return self._scores[steps]

    # ------------------------------------------------------------------------------ going on

    def _refill(self) -> None:
        """Let every place be taken: from the best way, the longest of equals."""
        while len(self._live) < self.steps.rows and not self._stopped():
            way = max(self._open, key=lambda way: way.worth)
            row = self._sample()
            if way.row is None or way.aside is None:
                engine.prepare([row])
                first = _Going(row, way)
                self._take([first], self.begun.prefix.logits)
                self._join(first, lanes(self.begun.prefix, together=self.together))
                self._look()
                continue
            again = way.row.copied(uniforms=row.uniforms)
            self._join(_Going(again, way), way.aside.taken(0))

    def _sample(self) -> Row:
        (row,) = self.begun.rows(self._samples, 1)
        self._samples += 1
        self._first = self._first or row
        return row

    def _join(self, going: _Going, more: Lanes) -> None:
        if self._lanes is None:
            self._lanes = more
        else:
            self._lanes.join(more)
        self._live.append(going)

    # -------------------------------------------------------------------------------- the end

    def _stopped(self) -> str:
        best = sorted((score for score, _ in self.found), reverse=True)[: self.wanted]
        if len(best) == self.wanted and best[-1] >= max(
            (going.way.score for going in self._live), default=0
        ):
            return f"{self.wanted} of {self.wanted} found"
        if self._late:
            return "a step took too long to judge"
        budget = self.steps.rows * self.begun.rules.limit
        spent = self.drawn + max(1, len(self._live)) > budget
        return f"the {budget} tokens allowed are used up" if spent else ""

    def _candidates(self) -> tuple[Candidate, ...]:
        if self.found:
            ranked = sorted(self.found, key=lambda pair: -pair[0])[: self.wanted]
            return tuple(self._candidate(row, score) for score, row in ranked)
        way = max(self._open, key=lambda way: (len(way.steps), way.score))
        row = way.row or self._first
        assert row is not None  # it was begun with
        row.finish = Finish.LENGTH
        return (self._candidate(row, 0.0),)

    def _candidate(self, row: Row, score: float) -> Candidate:
        """`stats["steps"]` is the score of its last step."""
        candidate = self.begun.candidate(row)
        return replace(candidate, stats={**candidate.stats, "steps": score})
