"""Baselines that put what they remember into the prompt, after their papers.

All show material within one token budget: k is a wish, reduced to what fits. Right answers are
shown as turns of the conversation, which is how the bundled model was trained to read them (and how
tta shows them); verbalised feedback stands in the system text. Knows what it was told at each
step; refuses to know targets.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.baselines import Rows, accepted
from benchmarks.bench import Answer, Bench, messages
from benchmarks.oracle import Told
from benchmarks.streams import Item
from tta.micro.corpus_words import listed
from tta.types import Message

DELIMITER = "\n\n\n"
NEAR = 6
"""MemPrompt looks up a key at a Levenshtein distance below this."""


RIGHT = Told(right=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A remembered request with its answer and, for those who verbalise it, the feedback."""

    text: str
    answer: str
    told: Told = RIGHT

    @property
    def chunk(self) -> str:
        """As StreamBench writes a triple; where the right answer was told, it is told too."""
        verdict = "correct" if self.told.right else "not correct"
        known = self.told.answer is not None and not self.told.right
        more = f"; the correct answer is {self.told.answer}" if known else ""
        feedback = f"Your answer is {verdict}{more}"
        return f"{self.text}\nYour answer: {self.answer}\nUser Feedback: {feedback}"


class Shown:
    """Shows cases as demonstrations. `wish` cases at most, as many as the budget holds; of
    equally many, those that `_recalled` names first. The last shown is the first named."""

    def __init__(self, bench: Bench, wish: int) -> None:
        self.bench = bench
        self._wish = wish

    def predict(self, item: Item) -> Answer:
        cases = self._fitting(item)
        if not cases:
            opinion, saved = self.bench.frozen(item)
            return Answer(text=opinion.text, cost=opinion.cost, saved_ms=saved)
        opinion = self.bench.ask(self._messages(item, cases), item)
        return Answer(text=opinion.text, cost=opinion.cost, shown=len(cases))

    def learn(self, item: Item, answer: Answer, told: Told) -> None:
        """Nothing, unless a subclass does."""

    def _recalled(self, item: Item) -> Iterable[Case]:
        raise NotImplementedError

    def _messages(self, item: Item, cases: Sequence[Case]) -> Sequence[Message]:
        return messages(item, shown=[(case.text, case.answer) for case in cases])

    def _tokens(self, case: Case) -> int:
        return self.bench.count(case.text, case.answer)

    def _fitting(self, item: Item) -> list[Case]:
        """What fits, in the order in which it is shown."""
        room, kept = self.bench.room(item), list[Case]()
        for case in self._recalled(item):
            tokens = self._tokens(case)
            if tokens <= room and len(kept) < self._wish:
                kept.append(case)
                room -= tokens
        return kept[::-1]


class FixedShots(Shown):
    """B1: sixteen right answers from a disjoint split, the same at every step."""

    def __init__(self, bench: Bench, shots: Sequence[tuple[Item, str]]) -> None:
        super().__init__(bench, len(shots))
        self._shots = [Case(text=item.text, answer=answer) for item, answer in shots]

    def _recalled(self, item: Item) -> Iterable[Case]:
        return self._shots


class StreamICL(Shown):
    """B4, Self-StreamICL (StreamBench: Wu et al. 2024): remembers its own answers that were right,
    never what it was told; the `wish` most similar are shown, the most similar last.

    `gold`: B4g, remembers what was right after each step, if it was told. `at_random`: B11, as
    `gold`, but shows any.
    """

    def __init__(
        self, bench: Bench, wish: int, *, gold: bool = False, at_random: int | None = None
    ) -> None:
        super().__init__(bench, wish)
        self._gold = gold or at_random is not None
        self._rng = None if at_random is None else np.random.default_rng([at_random, 11])
        self.cases: list[Case] = []
        self._vectors = Rows(bench.embedder.dim)

    def learn(self, item: Item, answer: Answer, told: Told) -> None:
        kept = accepted(answer, told) if self._gold else (answer.text if told.right else None)
        if kept:
            self._add(Case(text=item.text, answer=kept))

    def _add(self, case: Case) -> None:
        self.cases.append(case)
        self._vectors.add(self.bench.vector(case.text))

    def _recalled(self, item: Item) -> Iterable[Case]:
        if self._rng is not None:
            order = self._rng.permutation(len(self.cases))
        else:
            order = np.argsort(-(self._vectors.all @ self.bench.vector(item.text)), kind="stable")
        return (self.cases[int(i)] for i in order[: self._wish])


class Verbal(Shown):
    """Triples of request, answer and feedback, told in words before the question."""

    def _messages(self, item: Item, cases: Sequence[Case]) -> Sequence[Message]:
        return messages(item, own=DELIMITER.join(case.chunk for case in cases))

    def _tokens(self, case: Case) -> int:
        return self.bench.count(case.chunk + DELIMITER)


class GrowPrompt(Verbal):
    """B2 (StreamBench): the newest sixteen triples, oldest first."""

    def __init__(self, bench: Bench, wish: int = 16) -> None:
        super().__init__(bench, wish)
        self.cases: deque[Case] = deque(maxlen=wish)

    def learn(self, item: Item, answer: Answer, told: Told) -> None:
        if told.right is not None:
            self.cases.append(Case(text=item.text, answer=answer.text, told=told))

    def _recalled(self, item: Item) -> Iterable[Case]:
        return reversed(self.cases)


class MemPrompt(Verbal, StreamICL):
    """B3, MemPrompt as StreamBench has it: all triples, right or wrong, the sixteen most similar,
    the most similar last."""

    def learn(self, item: Item, answer: Answer, told: Told) -> None:
        if told.right is not None:
            self._add(Case(text=item.text, answer=answer.text, told=told))


class MemPromptOriginal(Shown):
    """B3', MemPrompt (Madaan et al. 2022): a dictionary from the question, without its arguments,
    punctuation and stop words, to the newest clarification; found at a Levenshtein distance below
    6; appended to the question. Stores only after a mistake: what the user said in words, or the
    answer that was told."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench, 1)
        self.known: dict[str, str] = {}

    def predict(self, item: Item) -> Answer:
        note = self._found(memory_key(item.text))
        if note is None:
            opinion, saved = self.bench.frozen(item)
            return Answer(text=opinion.text, cost=opinion.cost, saved_ms=saved)
        clarified = replace(item, text=f"{item.text} | {note}")
        opinion = self.bench.ask(messages(clarified), item)
        return Answer(text=opinion.text, cost=opinion.cost, shown=1, notes=(note,))

    def learn(self, item: Item, answer: Answer, told: Told) -> None:
        if told.note is not None:
            self.known[memory_key(item.text)] = told.note
        elif told.answer is not None and not told.right:
            note = f"clarification: the answer is {told.answer}"
            self.known[memory_key(item.text)] = note

    def _found(self, key: str) -> str | None:
        if key in self.known:
            return self.known[key]
        near = [(levenshtein(key, known, NEAR), known) for known in self.known]
        best = min(near, default=(NEAR, ""))
        return self.known[best[1]] if best[0] < NEAR else None


_STOP = frozenset(
    listed(
        "a an and are as at be by do does for from how i in is it its me my of on or that the "
        "this to was what when where which who will with you your"
    )
)


def memory_key(text: str) -> str:
    """`text` without <arguments>, punctuation and stop words."""
    bare = re.sub(r"<[^<>]*>", " ", text.lower())
    kept = [word for word in re.findall(r"\w+", bare) if word not in _STOP]
    return " ".join(kept)


def levenshtein(a: str, b: str, limit: int | None = None) -> int:
    """Edit distance; at `limit` or more, any number of at least `limit` may be returned."""
    if limit is not None and abs(len(a) - len(b)) >= limit:
        return limit
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
        if limit is not None and min(row) >= limit:
            return limit
    return row[-1]
