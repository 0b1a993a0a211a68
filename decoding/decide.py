"""From prompts and what was recalled to candidates, each with every expert's opinion.

Closed answer sets are scored exactly, never sampled. Open answers are drawn; answers accepted
before for the same request join them. Knows nothing of how memories are found or kept, nor of what
feedback will do to the weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tta.decoding.constrain import Output
from tta.decoding.experts import (
    EXACT,
    FORCE,
    FROZEN,
    RECALLED,
    is_needed,
    leads,
    names,
    relied,
    settled,
    with_model,
)
from tta.decoding.mixture import Blend, alone, blend, joined, pinned, without
from tta.decoding.open import Drawing, Drawn, refused_before
from tta.decoding.pool import POOL, held, pooled
from tta.decoding.ranked import Ranked
from tta.decoding.stop import Timing
from tta.decoding.testimony import opinions_json
from tta.decoding.think import thought
from tta.errors import InvalidSetting
from tta.protocols import Model, Names, Readers
from tta.types import Candidate, Cost, Finish, Json, Prompt, Recall, Request, Standing

if TYPE_CHECKING:
    from tta.protocols import FloatArray


Scored = Callable[[int, Mapping[str, float], float], Candidate]
"""The candidate of that number, with its parts and its score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """What the model is shown with memory, and (made only when asked for) without any. They are
    one when nothing was recalled. `thinks`: the first of them asks for steps, which are to be
    drawn before the answer; None where that is not even tried."""

    recalled: Prompt
    frozen: Callable[[], Prompt]
    differ: bool
    thinks: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Candidates best first, and what decided.

    `confidence` is the probability that the best is right; `margin` how far its score is above the
    second's; `opinions` what the journal keeps of them; `samples` and `posterior` are as in `Why`.
    """

    candidates: Sequence[Candidate]
    confidence: float
    margin: float
    weights: Mapping[str, float]
    cost: Cost
    stopped: str
    opinions: Mapping[str, Json]
    skipped: tuple[str, ...] = ()
    muted: float = 0.0
    samples: tuple[str | None, ...] = ()
    posterior: tuple[float, ...] = ()
    thought: str = ""


class Decider:
    """Asks the experts and mixes what they say.

    Without a model the answers' names stand for the frozen one, and only closed sets can be
    decided.
    """

    def __init__(self, model: Model | None, names: Names, readers: Readers) -> None:
        self._model, self._names, self._readers = model, names, readers
        self._timing = Timing()

    @property
    def _drawing(self) -> Drawing:
        return Drawing(self._model, self._readers, self._timing)

    def through(self, model: Model) -> Decider:
        """The same with the model reached in another way."""
        other = copy.copy(self)
        other._model = model
        return other

    def decide(
        self,
        request: Request,
        task: str,
        output: Output | None,
        prompts: Prompts,
        recall: Recall,
        standing: Standing,
    ) -> Decision:
        """Raises ModelNeeded for an open answer without a model, InvalidSetting for a verifier of a
        closed set, VerifierError for one that raises or hangs."""
        steps, spent = "", Cost()
        if prompts.thinks and self._drawing.accepted(request, output, recall) is None:
            prompts, steps, spent = self._thought(request, prompts)
        if output is None or output.choices is None:
            found = _open(self._drawing, request, task, output, prompts, recall, standing)
        else:
            answers = output.choices
            found = self._closed(request, task, output, answers, prompts, recall, standing)
        return replace(found, thought=steps, cost=spent + found.cost)

    def _thought(self, request: Request, prompts: Prompts) -> tuple[Prompts, str, Cost]:
        """The prompts with the steps behind the first, where they are to be drawn."""
        if not prompts.thinks or self._model is None:
            return prompts, "", Cost()
        longer, text, cost = thought(self._model, request, prompts.recalled)
        # Without room for steps nothing was tried.
        return replace(prompts, recalled=longer, thinks=True if cost.drawn else None), text, cost

    def settled(
        self,
        request: Request,
        task: str,
        output: Output | None,
        prompts: Prompts,
        recall: Recall,
        standing: Standing,
    ) -> Decision | None:
        """The decision where the answer is not what is drawn first, whatever it is: of a closed
        set, what was accepted for this very request, or where something was refused for it. None
        where it is, so that it may be shown while it is drawn (`stream`)."""
        closed = output is not None and output.choices is not None
        accepted = self._drawing.accepted(request, output, recall)
        if closed or accepted is not None or refused_before(recall):
            return self.decide(request, task, output, prompts, recall, standing)
        return None

    def stream(
        self,
        request: Request,
        task: str,
        output: Output | None,
        prompts: Prompts,
        recall: Recall,
        standing: Standing,
    ) -> Generator[str, None, Decision]:
        """The text of an open answer as it is drawn. Nothing of the memory is read meanwhile."""
        prompts, steps, spent = self._thought(request, prompts)
        leader = leads(standing)
        found = yield from self._drawing.stream(request, output, prompts, recall, leader, standing)
        made = _decided(self._drawing, request, task, output, prompts, recall, standing, found)
        return replace(made, thought=steps, cost=spent + made.cost)

    def frozen(self, request: Request, output: Output | None, prompt: Prompt) -> Decision:
        """The model alone (without one: the names alone), greedy, whatever `n` is."""
        if output is not None and output.choices is not None:
            answers = output.choices
            if self._model is None:
                opinion = self._names.opinion(request.prompt, answers, output.descriptions)
                cost = Cost()
            else:
                opinion, cost = self._model.choose(prompt, answers, scope=request.user)
            mixed = alone(FROZEN, opinion)
            return decision(_chosen(answers, opinion), mixed, cost, "closed set", {})
        drawn, cost = self._drawing.sample(request, output, prompt, 1)
        return decision(_drawn(drawn), alone(FROZEN, np.zeros(1)), cost, "greedy", {})

    def _closed(
        self,
        request: Request,
        task: str,
        output: Output,
        answers: Sequence[str],
        prompts: Prompts,
        recall: Recall,
        standing: Standing,
    ) -> Decision:
        if request.verify is not None or request.verify_step is not None:
            raise InvalidSetting(
                "verify= and verify_step= judge open answers, and output= is a closed set",
                value=request.verify or request.verify_step,
                hint="Leave the answers out that would not pass",
            )
        opinions = dict(self._readers.opinions(request, task, answers, output.descriptions, recall))
        asked, cost, skipped = self._ask(request.user, answers, prompts, standing, opinions)
        opinions |= asked
        together = _together(opinions, standing)
        if together is not None:
            opinions[POOL] = together
        if self._model is None:
            opinions[FROZEN] = opinions.pop("names")
        mixed = _mixed(opinions, standing, prompts)
        logprobs = asked.get(RECALLED, asked.get(FROZEN, np.log(mixed.scores)))
        kept = opinions_json(
            answers,
            opinions,
            mixed,
            closed=True,
            frozen=_favourite(answers, opinions.get(FROZEN)),
            passes=[name for name in (FROZEN, RECALLED) if name in asked],
        )
        kept |= _tried(prompts)
        if together is not None:
            kept["powers"] = held(opinions, standing.weights.powers)
        final = _exactly(mixed, request, answers, recall)
        found = decision(_chosen(answers, logprobs), final, cost, "closed set", kept)
        return replace(found, skipped=skipped)

    def _ask(
        self,
        scope: str,
        answers: Sequence[str],
        prompts: Prompts,
        standing: Standing,
        readers: Mapping[str, FloatArray],
    ) -> tuple[dict[str, FloatArray], Cost, tuple[str, ...]]:
        """The opinions that take a pass of the model, and who was not asked."""
        found: dict[str, FloatArray] = {}
        cost, skipped = Cost(), list[str]()
        if self._model is None:
            return found, cost, ()
        first = not (standing.experienced or standing.settings.experts)
        for name in (RECALLED, FROZEN) if prompts.differ else (FROZEN,):
            if (first and found) or not (first or is_needed(name, standing)):
                skipped += names(name)
                continue
            prompt = prompts.recalled if name == RECALLED else prompts.frozen()
            logprobs, more = self._model.choose(prompt, answers, scope=scope)
            found |= with_model(name, logprobs, answers, standing, readers)
            cost += more
        return found, cost, tuple(skipped)


def _together(opinions: Mapping[str, FloatArray], standing: Standing) -> FloatArray | None:
    """The pool of those who were not said to weigh nothing."""
    said = standing.settings.experts
    heard = {name: opinion for name, opinion in opinions.items() if said.get(name) != 0}
    return pooled(heard, standing.weights.powers)


def _mixed(opinions: Mapping[str, FloatArray], standing: Standing, prompts: Prompts) -> Blend:
    """Until there is feedback, nobody is known to be better than the model as it is (with what it
    was told to be shown: a rule, a note)."""
    wider = any("@" in name for name in opinions)
    if standing.experienced or wider or standing.settings.experts:
        return pinned(blend(opinions, standing.weights), standing.settings.experts)
    leader = RECALLED if RECALLED in opinions and prompts.differ else FROZEN
    return alone(leader, opinions[leader])


def _exactly(mixed: Blend, request: Request, answers: Sequence[str], recall: Recall) -> Blend:
    """What was accepted for this very request is answered, what was refused is not."""
    same = [record.answer for record in settled(request, recall)]
    accepted = next((answers.index(a) for a in same if a in answers), None)
    if accepted is not None:
        opinion = np.zeros(len(answers))
        opinion[accepted] = 1.0
        return joined(mixed, EXACT, opinion, FORCE)
    prompt = request.prompt
    refused = {r.record.answer for r in recall.rejected if r.record.request == prompt}
    if not refused or not request.stands_alone:
        return mixed
    return without(mixed, [answer not in refused for answer in answers], EXACT, FORCE)


def _open(
    drawing: Drawing,
    request: Request,
    task: str,
    output: Output | None,
    prompts: Prompts,
    recall: Recall,
    standing: Standing,
) -> Decision:
    accepted = drawing.accepted(request, output, recall)
    if accepted is not None:
        opinion = alone(EXACT, np.zeros(1))
        return decision(_drawn([accepted]), opinion, Cost(), "accepted for this very request", {})
    found = drawing.draw(request, task, output, prompts, recall, leads(standing), standing)
    return _decided(drawing, request, task, output, prompts, recall, standing, found)


def _decided(
    drawing: Drawing,
    request: Request,
    task: str,
    output: Output | None,
    prompts: Prompts,
    recall: Recall,
    standing: Standing,
    found: Drawn,
) -> Decision:
    opinions, cost = drawing.opinions(request, task, output, prompts, recall, standing, found)
    texts = [c.text for c in found.candidates]
    mixed = pinned(blend(opinions, standing.weights), standing.settings.experts)
    final = drawing.forced(mixed, request, texts, recall)
    sure = drawing.sureness(found.candidates[int(np.argmax(final.scores))])
    confidence = float(final.scores.max()) * sure
    kept = opinions_json(
        texts,
        opinions,
        mixed,
        closed=False,
        frozen=found.frozen,
        passes=[],
        confidence=confidence,
    )
    spent = found.cost + cost
    made = decision(_drawn(found.candidates), final, spent, found.best.stopped, kept)
    kept |= {**found.best.chosen(c.text for c in made.candidates), **_tried(prompts)}
    kept["aided"] = prompts.differ
    return replace(
        made,
        samples=tuple(found.best.samples),
        posterior=tuple(found.best.posterior),
        confidence=relied(confidence, standing.reliability if prompts.differ else standing.unaided),
        margin=made.margin * sure,
    )


def _tried(prompts: Prompts) -> dict[str, Json]:
    return {} if prompts.thinks is None else {"thought": prompts.thinks}


def decision(
    candidate: Scored,
    mixed: Blend,
    cost: Cost,
    stopped: str,
    kept: Mapping[str, Any],
) -> Decision:
    """Candidates sorted by score; of equals the earlier comes first."""
    order = np.argsort(-mixed.scores, kind="stable").tolist()
    scores = mixed.scores.tolist()

    def ranked(place: int) -> Candidate:
        i = order[place]
        parts = {name: float(part[i]) for name, part in mixed.parts.items()}
        return candidate(i, parts, scores[i])

    best = scores[order[0]]
    second = scores[order[1]] if len(order) > 1 else 0.0
    return Decision(
        candidates=Ranked(ranked, len(order)),
        confidence=best,
        margin=best - second,
        weights=mixed.weights,
        cost=cost,
        stopped=stopped,
        opinions=kept,
        muted=mixed.mute,
    )


def _favourite(answers: Sequence[str], opinion: FloatArray | None) -> str | None:
    return None if opinion is None else answers[int(np.argmax(opinion))]


def _chosen(answers: Sequence[str], logprobs: FloatArray) -> Scored:
    def scored(i: int, parts: Mapping[str, float], score: float) -> Candidate:
        return Candidate(
            text=answers[i], logprob=own[i], finish=Finish.CHOSEN, parts=parts, score=score
        )

    own = logprobs.tolist()
    return scored


def _drawn(candidates: Sequence[Candidate]) -> Scored:
    return lambda i, parts, score: replace(candidates[i], parts=parts, score=score)
