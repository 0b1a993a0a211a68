"""Open answers: where candidates come from, and who has an opinion on them.

Candidates are drawn, or were accepted for the same request before. Knows the model, the readers and
what was recalled; how opinions are mixed is `mixture`'s, what becomes of them `decide`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tta.decoding.ballot import Keys, Meanings
from tta.decoding.best import Best
from tta.decoding.constrain import Output
from tta.decoding.experts import EXACT, FORCE, FROZEN, RECALLED, is_contender, is_needed, settled
from tta.decoding.mixture import Blend, normalise, without
from tta.decoding.remembered import Remembered
from tta.decoding.stop import Timing
from tta.decoding.verify import Judge
from tta.errors import ModelNeeded
from tta.protocols import Model, Readers
from tta.types import (
    Candidate,
    Cost,
    Finish,
    Meaning,
    Prompt,
    Recall,
    Request,
    Standing,
    Steps,
    UpTo,
)

if TYPE_CHECKING:
    from tta.protocols import FloatArray

SAME = 0.98
"""Cosine similarity from which two requests count as the same."""
DEFAULT_NEW_TOKENS = 64
CERTAINTY = "self_certainty"
"""The statistic of a drawn candidate that tells how sure the model was (Kang et al., 2025)."""
POOLED = ("votes", "all")
"""The experts with which the model's opinion with memory is pooled, log-linearly."""
EMPTY = -50.0
"""Log-probability (nats) of an answer without text, which no pass can score."""
_SURE = 9.0
"""Log-odds (nats) of an answer that the verifier passes, and less than none of one it refuses."""


class BothPrompts(Protocol):
    """What the model is shown with memory and without (`decide.Prompts`)."""

    @property
    def recalled(self) -> Prompt: ...
    @property
    def differ(self) -> bool: ...
    @property
    def thinks(self) -> bool | None: ...
    def frozen(self) -> Prompt: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Distinct candidates; which prompt each was drawn from (None: it was remembered); the frozen
    model's greedy answer, if it was drawn; and what the samples said."""

    candidates: tuple[Candidate, ...]
    source: tuple[str | None, ...]
    frozen: str | None
    cost: Cost
    best: Best


class Drawing:
    """Open candidates of a model; raises ModelNeeded where one is needed and there is none."""

    def __init__(self, model: Model | None, readers: Readers, timing: Timing) -> None:
        self._model, self._readers, self._timing = model, readers, timing

    def accepted(self, request: Request, output: Output | None, recall: Recall) -> Candidate | None:
        """What was accepted for this very request, unless more was asked for than one answer, or
        a rule came later. A form that was only inferred from other answers does not stand against
        it."""
        same = settled(request, recall)
        if not same or request.n not in (None, 1):
            return None
        if request.verify is not None or request.verify_step is not None:
            return None
        newest = same[0]
        if any(rule.record.created > newest.created for rule in recall.rules):
            return None
        wanted = output if request.output is not None else None
        if wanted is not None and not wanted.accepts(newest.answer):
            return None
        return Candidate(text=newest.answer, finish=Finish.RECALLED)

    def draw(
        self,
        request: Request,
        task: str,
        output: Output | None,
        prompts: BothPrompts,
        recall: Recall,
        leader: str,
        standing: Standing,
    ) -> Drawn:
        """Samples from the leader's prompt, as many as `Best` wants; from the other one a greedy
        answer, when it is worth knowing; and what was accepted before.

        A rule or a note is no opinion to be voted down by a model that was not told: with one,
        all are drawn from the prompt that holds it."""
        source, prompt = _source(prompts, recall, leader)
        best = self._best(request, output, recall, standing)
        if request.verify_step is not None:
            scorer = self._scorer(request, request.verify_step, recall)
            return self._searched(
                request, request.verify_step, scorer, output, source, prompt, best
            )
        drawn, cost = self.sample(request, output, prompt, best.first, best)
        found = {c.text: (c, source) for c in reversed(drawn)}
        greedy = {source: drawn[0].text}
        other = FROZEN if source == RECALLED else RECALLED
        voted = prompts.differ and standing.experienced and not _is_told(recall)
        if voted and is_contender(other, standing):
            more_prompt = prompts.recalled if other == RECALLED else prompts.frozen()
            (extra, *_), more = self.sample(request, output, more_prompt, 1)
            greedy[other], cost = extra.text, cost + more
            found.setdefault(extra.text, (extra, other))
        ordered = [found[t] for t in dict.fromkeys([*(c.text for c in drawn), *found])]
        known = self._readers.known(request, task, recall)
        texts = [t for t in known if t not in found and (output is None or output.accepts(t))]
        remembered = [Candidate(text=t, finish=Finish.RECALLED) for t in texts]
        whole = _distinct(best.keys, [*ordered, *((c, None) for c in remembered)])
        return Drawn(
            candidates=tuple(c for c, _ in whole),
            source=tuple(s for _, s in whole),
            frozen=greedy.get(FROZEN),
            cost=cost,
            best=best,
        )

    def stream(
        self,
        request: Request,
        output: Output | None,
        prompts: BothPrompts,
        recall: Recall,
        leader: str,
        standing: Standing,
    ) -> Generator[str, None, Drawn]:
        """The text of the leader's greedy candidate as it is drawn; it has no rivals."""
        source, prompt = _source(prompts, recall, leader)
        candidate, cost = yield from self._asked(request).stream(
            prompt,
            max_new_tokens=request.max_new_tokens or DEFAULT_NEW_TOKENS,
            seed=request.seed,
            output=output,
            scope=request.user,
        )
        best = self._best(request, output, recall, standing)
        best.over(candidate)
        return Drawn(
            candidates=(candidate,),
            source=(source,),
            frozen=candidate.text if source == FROZEN else None,
            cost=cost,
            best=best,
        )

    def _searched(
        self,
        request: Request,
        steps: Steps,
        scorer: Callable[[tuple[str, ...]], float],
        output: Output | None,
        source: str,
        prompt: Prompt,
        best: Best,
    ) -> Drawn:
        """What passed step by step: nothing else is a candidate."""
        found, cost, stopped = self._asked(request).search(
            prompt,
            steps,
            scorer,
            n=request.n if isinstance(request.n, int) else 1,
            max_new_tokens=request.max_new_tokens or DEFAULT_NEW_TOKENS,
            seed=request.seed,
            output=output,
            scope=request.user,
        )
        for candidate in found:
            best.over(candidate)
        best.stopped = stopped
        distinct = tuple({c.text: c for c in reversed(found)}.values())[::-1]
        sources = (source,) * len(distinct)
        return Drawn(candidates=distinct, source=sources, frozen=None, cost=cost, best=best)

    def _scorer(
        self, request: Request, steps: Steps, recall: Recall
    ) -> Callable[[tuple[str, ...]], float]:
        """How good the last of some steps is: by the caller's function, or by memory."""
        if steps.check is None:
            refused = refused_before(recall)
            return Remembered.of(recall, refused, steps.end, self._readers.vectors)
        judge = Judge(verify=steps.check, seconds=request.verify_seconds)
        return lambda done: judge.score("\0".join(done), done)

    def opinions(
        self,
        request: Request,
        task: str,
        output: Output | None,
        prompts: BothPrompts,
        recall: Recall,
        standing: Standing,
        found: Drawn,
    ) -> tuple[dict[str, FloatArray], Cost]:
        """Log-probabilities of the candidates by expert, each of shape (K,). Raises what asking
        the verifier raises."""
        texts = [c.text for c in found.candidates]
        keys = [found.best.keys.key(c) for c in found.candidates]
        judged = _verified(found.best, found.candidates, keys)
        if len(texts) == 1:
            return {RECALLED if prompts.differ else FROZEN: np.zeros(1)}, Cost()
        opinions, cost = self._likelihoods(request.user, prompts, standing, found, texts)
        read = self._readers.judged(request, task, texts, recall)
        opinions |= read
        if RECALLED in opinions:
            own = normalise(opinions[RECALLED])
            opinions |= {f"{RECALLED}*{name}": own + read[name] for name in POOLED if name in read}
        certain = [c.stats.get(CERTAINTY) for c in found.candidates]
        if all(value is not None for value in certain):
            opinions["certainty"] = np.array(certain, dtype=np.float64)
        opinions |= found.best.ballot.opinions(keys)
        if judged is not None:
            opinions["verifier"] = judged
        return opinions, cost

    def forced(self, mixed: Blend, request: Request, texts: Sequence[str], recall: Recall) -> Blend:
        """An answer refused for this very request is not repeated while there is another."""
        refused = refused_before(recall)
        return without(mixed, [text not in refused for text in texts], EXACT, FORCE)

    def sureness(self, candidate: Candidate) -> float:
        """The geometric mean of its tokens' probabilities (0 to 1): a single candidate has no rival
        to be compared with."""
        if candidate.finish is Finish.RECALLED or self._model is None:
            return 1.0
        return float(np.exp(candidate.logprob / (self._model.count(candidate.text) + 1)))

    def sample(
        self,
        request: Request,
        output: Output | None,
        prompt: Prompt,
        n: int,
        best: Best | None = None,
    ) -> tuple[tuple[Candidate, ...], Cost]:
        """`n` candidates, the first greedy, and as many more as `best` wants."""
        return self._asked(request).draw(
            prompt,
            n=n,
            max_new_tokens=request.max_new_tokens or DEFAULT_NEW_TOKENS,
            seed=request.seed,
            output=output,
            scope=request.user,
            watch=best,
            halving=isinstance(request.n, UpTo) and request.n.halving,
        )

    def _best(
        self, request: Request, output: Output | None, recall: Recall, standing: Standing
    ) -> Best:
        judge = None
        if request.verify is not None:
            judge = Judge(verify=request.verify, seconds=request.verify_seconds)
        same = request.same
        if isinstance(same, Meaning):
            same = Meanings(self._readers.vectors, same.least)
        return Best(
            request=request,
            keys=Keys(output=output, same=same),
            standing=standing,
            refused=frozenset(refused_before(recall)),
            timing=self._timing,
            judge=judge,
        )

    def _asked(self, request: Request) -> Model:
        if self._model is None:
            raise ModelNeeded(
                "an open answer needs a language model",
                value=request.prompt,
                hint="Wrap one, or pass output=[...] with the possible answers",
            )
        return self._model

    def _likelihoods(
        self,
        scope: str,
        prompts: BothPrompts,
        standing: Standing,
        found: Drawn,
        texts: Sequence[str],
    ) -> tuple[dict[str, FloatArray], Cost]:
        """Mean log-probability per token under each prompt: sums would favour short answers. What
        was drawn from a prompt is known; the rest takes a pass."""
        assert self._model is not None  # something was drawn
        opinions: dict[str, FloatArray] = {}
        cost = Cost()
        lengths = np.array([self._model.count(text) + 1 for text in texts])
        for name in (RECALLED, FROZEN) if prompts.differ else (FROZEN,):
            logprobs = np.array([c.logprob for c in found.candidates])
            missing = [i for i, source in enumerate(found.source) if source != name and texts[i]]
            logprobs[[i for i, text in enumerate(texts) if not text]] = EMPTY
            if missing and name == FROZEN and prompts.differ and not is_needed(name, standing):
                continue
            if missing:
                prompt = prompts.recalled if name == RECALLED else prompts.frozen()
                answers = [texts[i] for i in missing]
                scores, more = self._model.choose(prompt, answers, scope=scope)
                logprobs[missing] = scores
                cost += more
            opinions[name] = logprobs / lengths
        return opinions, cost


def refused_before(recall: Recall) -> set[str]:
    """What was answered to this very request and refused."""
    return {r.record.answer for r in recall.rejected if r.score >= SAME}


def _is_told(recall: Recall) -> bool:
    return bool(recall.rules or recall.notes)


def _source(prompts: BothPrompts, recall: Recall, leader: str) -> tuple[str, Prompt]:
    """Which prompt is drawn from, by its name and itself."""
    if prompts.thinks:
        return RECALLED, prompts.recalled
    source = (RECALLED if _is_told(recall) else leader) if prompts.differ else FROZEN
    return source, prompts.recalled if source == RECALLED else prompts.frozen()


def _verified(
    best: Best, candidates: Sequence[Candidate], keys: Sequence[str | None]
) -> FloatArray | None:
    """Log-odds that each candidate is right, shape (K,); unless one has passed, those not drawn are
    asked about now. None where the verifier could be asked about none."""
    judge = best.judge
    if judge is None:
        return None
    for candidate, key in zip(candidates, keys, strict=True):
        if key is not None and not judge.passed:
            judge.ask(key, best.keys.value(candidate))
    judge.check()
    if not judge.scores:
        return None
    # Half, which says nothing, where it was not asked or hung.
    scores = np.array([judge.scores.get(key, 0.5) if key is not None else 0.0 for key in keys])
    with np.errstate(divide="ignore"):
        odds: FloatArray = np.log(scores) - np.log1p(-scores)
    return odds.clip(-_SURE, _SURE)


def _distinct(
    keys: Keys, candidates: Sequence[tuple[Candidate, str | None]]
) -> Sequence[tuple[Candidate, str | None]]:
    """Of typed answers the first of each value, without those that have none while there are
    others."""
    if not keys.merges:
        return candidates
    found: dict[str, tuple[Candidate, str | None]] = {}
    for candidate, source in candidates:
        key = keys.key(candidate)
        if key is not None:
            found.setdefault(key, (candidate, source))
    return list(found.values()) or candidates
