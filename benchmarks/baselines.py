"""Baselines that never show anything to a model: the frozen opinion, and memories read by a vote.

Each is a small class with `predict` and `learn`; what follows a paper says which. Knows what it was
told at each step and nothing else. Refuses to know targets, streams and tta's own memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench import Answer, Bench, Floats, Opinion, log_softmax
from benchmarks.oracle import Told
from benchmarks.streams import Item
from tta.types import Cost

RING = 1024
"""kNN-prompting keeps this many anchors, oldest overwritten (its `queue_ptr`)."""


class Frozen:
    """B0: the model without any memory."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def predict(self, item: Item) -> Answer:
        return self._answer(item, *self.bench.frozen(item))

    def learn(self, item: Item, answer: Answer, told: Told) -> None:
        """Nothing."""

    def _answer(self, item: Item, opinion: Opinion, saved: float) -> Answer:
        """With the probability of the answer among the closed set as confidence."""
        sure = None
        if opinion.logprobs is not None:
            sure = float(np.exp(log_softmax(opinion.logprobs).max()))
        return Answer(text=opinion.text, cost=opinion.cost, confidence=sure, saved_ms=saved)


class Calibrated(Frozen):
    """B0c: the running mean of each answer's log-probability is subtracted; no feedback is used
    (after contextual calibration: Zhao et al. 2021; batch calibration: Zhou et al. 2023)."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self._sums: dict[tuple[str, ...], tuple[Floats, int]] = {}

    def predict(self, item: Item) -> Answer:
        opinion, saved = self.bench.frozen(item)
        if item.answers is None or opinion.logprobs is None:
            return self._answer(item, opinion, saved)
        key, logprobs = item.answers.answers, log_softmax(opinion.logprobs)
        total, count = self._sums.get(key, (np.zeros(len(key)), 0))
        self._sums[key] = total, count = total + logprobs, count + 1
        scores = log_softmax(logprobs - total / count)
        best = Opinion(text=key[int(scores.argmax())], cost=opinion.cost, logprobs=scores)
        return self._answer(item, best, saved)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """A remembered request: its answer was right (+1) or wrong (-1)."""

    vector: Floats
    answer: str
    sign: int


def accepted(answer: Answer, told: Told) -> str | None:
    """The answer known to be right after feedback, if it is known."""
    if told.answer is not None:
        return told.answer
    return answer.text if told.right else None


class NearestMemory(Frozen):
    """B10: memory alone. The k nearest remembered requests vote with weight exp(8 cosine) - 1 for
    what was right and against what was wrong; the frozen opinion breaks ties, and answers while
    nothing is remembered. Open answers: that of the nearest, or the frozen one."""

    def __init__(self, bench: Bench, k: int) -> None:
        super().__init__(bench)
        self._k = k
        self._votes: list[Vote] = []
        self._vectors = Rows(bench.embedder.dim)

    def predict(self, item: Item) -> Answer:
        opinion, saved = self._prior(item)
        near = self._near(item)
        if not near:
            return Answer(text=opinion.text, cost=opinion.cost, saved_ms=saved)
        scores: Counter[str] = Counter()
        for vote, cosine in near:
            scores[vote.answer] += vote.sign * (np.exp(8 * cosine) - 1)
        text = self._elected(item, scores, opinion)
        return Answer(text=text, cost=opinion.cost, saved_ms=saved)

    def learn(self, item: Item, answer: Answer, told: Told) -> None:
        right = accepted(answer, told)
        sign = 1 if right is not None else -1
        self._add(Vote(vector=self.bench.vector(item.text), answer=right or answer.text, sign=sign))

    def _add(self, vote: Vote) -> None:
        self._votes.append(vote)
        self._vectors.add(vote.vector)

    def _prior(self, item: Item) -> tuple[Opinion, float]:
        """The language model is not asked: this is the baseline that does without one."""
        if item.answers is None:
            return Opinion(text="", cost=Cost()), 0.0
        scores = self.bench.names(item.text, item.answers)
        best = item.answers.answers[int(scores.argmax())]
        return Opinion(text=best, cost=Cost(), logprobs=scores), 0.0

    def _near(self, item: Item) -> list[tuple[Vote, float]]:
        cosines = self._vectors.all @ self.bench.vector(item.text)
        if item.answers is not None:
            known = set(item.answers.answers)
            open_to = np.array([vote.answer in known for vote in self._votes], dtype=bool)
            cosines = np.where(open_to, cosines, -np.inf) if len(cosines) else cosines
        order = [int(i) for i in np.argsort(-cosines, kind="stable")[: self._k]]
        return [(self._votes[i], float(cosines[i])) for i in order if np.isfinite(cosines[i])]

    def _elected(self, item: Item, scores: Counter[str], opinion: Opinion) -> str:
        if item.answers is None or opinion.logprobs is None:
            text, score = scores.most_common(1)[0]
            return text if score > 0 else opinion.text
        ties = {a: 1e-6 * p for a, p in zip(item.answers.answers, opinion.logprobs, strict=True)}
        return max(item.answers.answers, key=lambda a: scores[a] + ties[a])


class RandomMemory(NearestMemory):
    """B11: the same votes of five remembered requests picked at random."""

    def __init__(self, bench: Bench, k: int, seed: int) -> None:
        super().__init__(bench, k)
        self._rng = np.random.default_rng([seed, 11])

    def _near(self, item: Item) -> list[tuple[Vote, float]]:
        picked = self._rng.permutation(len(self._votes))[: self._k]
        known = set(item.answers.answers) if item.answers else None
        votes = [self._votes[i] for i in picked]
        return [(vote, 0.5) for vote in votes if known is None or vote.answer in known]


class Rows:
    """Vectors in one growing array, shape (n, dim)."""

    def __init__(self, dim: int) -> None:
        self._kept = np.zeros((64, dim))
        self._used = 0

    @property
    def all(self) -> Floats:
        return self._kept[: self._used]

    def add(self, vector: NDArray[np.floating]) -> None:
        if self._used == len(self._kept):
            self._kept = np.concatenate([self._kept, np.zeros_like(self._kept)])
        self._kept[self._used] = vector
        self._used += 1


class Ridge(NearestMemory):
    """Recursive least squares from embeddings to one-hot answers, exact rank-one updates, the
    names as a mild prior: the pilot's, over one answer set each. Wrong answers teach it nothing."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench, 1)
        self._fits: dict[tuple[str, ...], tuple[Floats, Floats]] = {}

    def predict(self, item: Item) -> Answer:
        if item.answers is None:
            return super().predict(item)
        opinion, saved = self._prior(item)
        assert opinion.logprobs is not None
        _, weights = self._fit(item.answers.answers)
        scores = 8 * (self.bench.vector(item.text) @ weights) + 0.3 * opinion.logprobs
        best = Opinion(
            text=item.answers.answers[int(scores.argmax())],
            cost=opinion.cost,
            logprobs=log_softmax(scores),
        )
        return self._answer(item, best, saved)

    def learn(self, item: Item, answer: Answer, told: Told) -> None:
        right = accepted(answer, told)
        if item.answers is None:
            super().learn(item, answer, told)
        elif right is not None:
            self._update(item.answers.answers, self.bench.vector(item.text), right)

    def _fit(self, answers: tuple[str, ...]) -> tuple[Floats, Floats]:
        if answers not in self._fits:
            dim = self.bench.embedder.dim
            self._fits[answers] = np.eye(dim), np.zeros((dim, len(answers)))
        return self._fits[answers]

    def _update(self, answers: tuple[str, ...], x: Floats, right: str) -> None:
        inverse, weights = self._fit(answers)
        column = inverse @ x
        gain = column / (1 + x @ column)
        error = -(x @ weights)
        error[answers.index(right)] += 1
        weights += np.outer(gain, error)
        inverse -= np.outer(gain, column)


class KnnPrompting(Frozen):
    """B7, kNN-Prompting (Xu et al. 2023): the key is the next-token distribution after the plain
    prompt, the answer that of the `k` anchors with the least KL(anchor || query); a ring buffer.
    Learns answers told, and its own right ones. Frozen while there is no anchor."""

    def __init__(self, bench: Bench, k: int = 3) -> None:
        super().__init__(bench)
        self._k = k
        self._anchors: NDArray[np.float16] | None = None
        self._entropy = np.zeros(RING)
        self._answers: list[str] = []
        self._next = 0

    def predict(self, item: Item) -> Answer:
        found, cost = self.bench.decision(item)
        voters = self._voters(item, found)
        if not voters:
            frozen = super().predict(item)
            return Answer(text=frozen.text, cost=cost, confidence=None, receipt=found)
        count = Counter(voters)
        text = max(voters, key=lambda a: count[a])  # the first, that is the nearest, of equals
        return Answer(text=text, cost=cost, receipt=found)

    def learn(self, item: Item, answer: Answer, told: Told) -> None:
        right, found = accepted(answer, told), np.asarray(answer.receipt)
        if right is None:
            return
        if self._anchors is None or self._anchors.shape[1] != len(found):
            self._anchors = np.zeros((RING, len(found)), dtype=np.float16)
            self._answers, self._next = [], 0
        at = self._next % RING
        self._anchors[at] = found
        self._entropy[at] = float(np.sum(found * np.log(np.maximum(found, 1e-12))))
        self._answers[at : at + 1] = [right]
        self._next += 1

    def _voters(self, item: Item, found: Floats) -> list[str]:
        """Answers of the nearest anchors, nearest first."""
        if self._anchors is None or self._anchors.shape[1] != len(found):
            return []
        used = len(self._answers)
        log_query = np.log(np.maximum(found, 1e-12)).astype(np.float32)
        far = self._entropy[:used] - self._anchors[:used].astype(np.float32) @ log_query
        known = set(item.answers.answers) if item.answers else None
        order: Sequence[int] = [int(i) for i in np.argsort(far, kind="stable")]
        fitting = (self._answers[i] for i in order)
        return [a for a in fitting if known is None or a in known][: self._k]
