"""From a prompt and what was recalled to candidates, each with every expert's log-probability.

Closed answer sets are scored exactly, never sampled. Open answers are drawn; answers accepted
before for the same request join them, and a drawn answer that was refused before is not repeated
while there is another. Knows nothing of how memories are found or kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp
from typing import TYPE_CHECKING

from tta.decoding.constrain import Output
from tta.decoding.mixture import combine, heard, normalise
from tta.errors import ModelNeeded
from tta.protocols import Model, Names, Votes
from tta.types import Candidate, Cost, Finish, Prompt, Recall, Request

if TYPE_CHECKING:
    from tta.protocols import FloatArray

SAME = 0.98
"""Cosine similarity from which two requests count as the same."""
RETRY = 4
"""How many more samples are drawn when all drawn so far were refused before."""
DEFAULT_NEW_TOKENS = 64
CLOSED = {"model": 0.05, "names": 0.3, "memory": 1.0}
"""Weights over a closed set, chosen on BANKING77 and TREC; a model's opinion is a sum over tokens
there, and so far too sure."""
OPEN = {"model": 0.5, "memory": 1.0}
"""Weights over open answers, where the model's opinion is a mean over tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Candidates best first, the probability of the best among them, and what it took."""

    candidates: tuple[Candidate, ...]
    confidence: float
    weights: Mapping[str, float]
    cost: Cost
    stopped: str


class Decider:
    """Weighs a frozen model's opinion against votes of memory.

    Opinions are added with fixed weights: score(a) = sum of weight * log p(a) over the experts.
    Without a model the answers' names stand for it, and only closed sets can be decided.
    """

    def __init__(self, model: Model | None, names: Names, votes: Votes) -> None:
        self._model, self._names, self._votes = model, names, votes

    def decide(
        self, request: Request, output: Output | None, prompt: Prompt, recall: Recall
    ) -> Decision:
        """Raises ModelNeeded for an open answer without a model."""
        if output is not None and output.choices is not None:
            return self._closed(request, output, output.choices, prompt, recall)
        return self._open(request, output, prompt, recall)

    def frozen(self, request: Request, output: Output | None, prompt: Prompt) -> Decision:
        """The model alone (without one: the names alone), greedy, whatever `n` is."""
        if output is not None and output.choices is not None:
            prior, opinion, cost = self._prior(request, output, output.choices, prompt)
            candidates = _chosen(output.choices, opinion)
            return _decision(candidates, {prior: opinion}, {prior: 1.0}, cost, "closed set")
        drawn, cost = self._sample(request, output, prompt, 1)
        opinion = self._per_token(drawn)
        return _decision(drawn, {"model": opinion}, {"model": 1.0}, cost, "greedy")

    def _closed(
        self,
        request: Request,
        output: Output,
        answers: Sequence[str],
        prompt: Prompt,
        recall: Recall,
    ) -> Decision:
        prior, opinion, cost = self._prior(request, output, answers, prompt)
        opinions = {prior: opinion, "memory": self._vote(answers, recall, opinion)}
        return _decision(_chosen(answers, opinion), opinions, CLOSED, cost, "closed set")

    def _prior(
        self, request: Request, output: Output, answers: Sequence[str], prompt: Prompt
    ) -> tuple[str, FloatArray, Cost]:
        if self._model is None:
            opinion = self._names.opinion(
                answers, request=request.prompt, descriptions=output.descriptions
            )
            return "names", opinion, Cost()
        logprobs, cost = self._model.choose(prompt, answers)
        return "model", logprobs, cost

    def _vote(self, answers: Sequence[str], recall: Recall, frozen: FloatArray) -> FloatArray:
        """Where no case is near, the votes repeat the frozen opinion."""
        return self._votes.opinion(
            answers, cases=recall.cases, rejected=recall.rejected, prior=normalise(frozen)
        )

    def _open(
        self, request: Request, output: Output | None, prompt: Prompt, recall: Recall
    ) -> Decision:
        drawn, cost, stopped = self._draw(request, output, prompt, recall)
        recalled, more = self._accepted(output, prompt, recall, {c.text for c in drawn})
        candidates = _whole(output, (*drawn, *recalled))
        opinion = self._per_token(candidates)
        votes = self._vote([c.text for c in candidates], recall, opinion)
        opinions = {"model": opinion, "memory": votes}
        return _decision(candidates, opinions, OPEN, cost + more, stopped)

    def _draw(
        self, request: Request, output: Output | None, prompt: Prompt, recall: Recall
    ) -> tuple[tuple[Candidate, ...], Cost, str]:
        refused = {r.record.answer for r in recall.rejected if r.score >= SAME}
        drawn, cost = self._sample(request, output, prompt, request.n)
        if not all(c.text in refused for c in drawn):
            return _distinct(drawn), cost, f"{request.n} drawn"
        # Sample i does not depend on how many are drawn, so drawing more only adds to the same.
        drawn, more = self._sample(request, output, prompt, request.n + RETRY)
        return _distinct(drawn), cost + more, f"{RETRY} more drawn: refused before"

    def _sample(
        self, request: Request, output: Output | None, prompt: Prompt, n: int
    ) -> tuple[tuple[Candidate, ...], Cost]:
        if self._model is None:
            raise ModelNeeded(
                "an open answer needs a language model",
                value=request.prompt,
                hint="Wrap one, or pass output=[...] with the possible answers",
            )
        return self._model.draw(
            prompt,
            n=n,
            max_new_tokens=request.max_new_tokens or DEFAULT_NEW_TOKENS,
            seed=request.seed,
            output=output,
        )

    def _accepted(
        self, output: Output | None, prompt: Prompt, recall: Recall, drawn: set[str]
    ) -> tuple[tuple[Candidate, ...], Cost]:
        """Answers accepted for this very request that were not drawn, scored by the model."""
        known = dict.fromkeys(r.record.answer for r in recall.cases if r.score >= SAME)
        texts = [t for t in known if t not in drawn and (output is None or output.accepts(t))]
        if not texts or self._model is None:
            return (), Cost()
        logprobs, cost = self._model.choose(prompt, texts)
        found = tuple(
            Candidate(text=text, logprob=float(logprob), finish=Finish.RECALLED)
            for text, logprob in zip(texts, logprobs, strict=True)
        )
        return found, cost

    def _per_token(self, candidates: Sequence[Candidate]) -> FloatArray:
        """Mean log-probability per token: sums would favour short answers."""
        import numpy as np

        count = self._model.count if self._model is not None else len
        return np.array([c.logprob / (count(c.text) + 1) for c in candidates])


def _whole(output: Output | None, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """Without those cut off before their type was complete, while there are others."""
    if output is None:
        return candidates
    return [c for c in candidates if c.finish is not Finish.LENGTH] or candidates


def _distinct(drawn: Sequence[Candidate]) -> tuple[Candidate, ...]:
    first: dict[str, Candidate] = {}
    for candidate in drawn:
        first.setdefault(candidate.text, candidate)
    return tuple(first.values())


def _chosen(answers: Sequence[str], logprobs: FloatArray) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(text=text, logprob=float(logprob), finish=Finish.CHOSEN)
        for text, logprob in zip(answers, logprobs, strict=True)
    )


def _decision(
    candidates: Sequence[Candidate],
    opinions: Mapping[str, FloatArray],
    weights: Mapping[str, float],
    cost: Cost,
    stopped: str,
) -> Decision:
    parts = {name: heard(opinion) for name, opinion in opinions.items()}
    used = {name: weights[name] for name in parts}
    scores = combine(opinions, used)
    order = sorted(range(len(candidates)), key=lambda i: -scores[i])  # stable: ties keep the order
    scored = tuple(
        replace(
            candidates[i],
            parts={name: float(part[i]) for name, part in parts.items()},
            score=float(scores[i]),
        )
        for i in order
    )
    best = float(normalise(scores)[order[0]])
    return Decision(
        candidates=scored, confidence=exp(best), weights=used, cost=cost, stopped=stopped
    )
