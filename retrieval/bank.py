"""The closed-form experts of each (scope, task), kept up with what is remembered there.

Knows which readers there are for which scope and what they have learned so far; follows the
ledgers of the memory lazily, so that nothing is computed for a task that is not asked. Knows
nothing of weights: all opinions are given, and `decoding.mixture` decides.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tta.protocols import Embedder, Ledgers
from tta.retrieval.names import Names
from tta.retrieval.readers import (
    Kernel,
    Lesson,
    Question,
    Reader,
    Voters,
    normalised,
    readers,
)
from tta.retrieval.recall import Recaller
from tta.types import EVERYONE, Recall, Recalled, Record, RecordKind, Request

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tta.protocols import FloatArray

WIDER = ("kernel.05", "ridge", "all")
"""The experts that are heard of a wider scope than the user's own."""
REPELLED = ("centroid",)
"""The experts to which what was corrected counts as refused: a mean that moves away from it gained
.2 to .4 points where there are at most 500 pieces of feedback, and lost as much on TREC with 20 %
wrong labels."""
RECURRING = ("words", "ridge", "all")
"""Those heard of open answers, where the task's answers recur."""
REPEATS = 1 / 3
"""From this share of accepted answers that were given before, a task's answers recur."""
NEAR = 0.7
"""Cosine similarity from which the answer to another request may be the answer to this one: whether
it is, the experts learn."""
NEAREST = 3
"""How many such answers are known."""
LIKELIEST = 8
"""How many of the answers that recur."""
COMMON = 256
"""From among how many, the most common ones."""
BANKS = 64
"""How many (scope, task) are kept in RAM; the others are made anew from the memory when asked."""
_WORD = re.compile(r"\w+|[?!]")


class Bank:
    """The readers of one (scope, task). `follow` brings them up to date."""

    def __init__(self, dim: int) -> None:
        self.readers: dict[str, Reader] = readers(dim)
        self._rows: dict[str, int] = {}
        self._asked: tuple[tuple[str, ...], NDArray[np.intp]] = (), np.zeros(0, dtype=np.intp)
        self._accepted: Counter[str] = Counter()
        # What was corrected is refused for that very request alone, but by `REPELLED`. Votes
        # against it changed nothing on BANKING77 (82.0 and 81.8) and cost 1 to 2 points with 20 %
        # wrong labels.
        self._corrected: set[str] = set()
        # Of answers that nobody has asked about or accepted: rows for them, where answers are open,
        # would double every table.
        self._aside: dict[str, list[tuple[FloatArray, float]]] = {}
        self._read: dict[str, tuple[Sequence[tuple[int, Record]], int]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nobody has taught anything here yet."""
        return not self._read

    def row(self, answer: str) -> int:
        """The row of an answer; a new one is given the next."""
        row = self._rows.setdefault(answer, len(self._rows))
        for vector, weight in self._aside.pop(answer, ()):
            self._repel(row, vector, weight)
        return row

    def rows(self, answers: Sequence[str]) -> NDArray[np.intp]:
        """The rows of answers, shape (K,); not to be changed."""
        # Most requests of a task ask for the same answers.
        if self._asked[0] != tuple(answers):
            rows = np.array([self.row(answer) for answer in answers], dtype=np.intp)
            self._asked = tuple(answers), rows
        return self._asked[1]

    def known_rows(self, texts: Sequence[str]) -> NDArray[np.intp]:
        """The rows of texts, shape (K,), without giving any to those that have none: theirs are
        beyond all that was learned."""
        new = itertools.count(len(self._rows))
        known = [self._rows.get(text) for text in texts]
        return np.array([next(new) if row is None else row for row in known], dtype=np.intp)

    @property
    def recurring(self) -> tuple[str, ...]:
        """The answers accepted most often, where the same ones come again and again."""
        total = self._accepted.total()
        if total - len(self._accepted) < REPEATS * total:
            return ()
        return tuple(answer for answer, _ in self._accepted.most_common(COMMON))

    def has_read(self, user: str) -> bool:
        """Whether it holds anything of that user's."""
        return user in self._read

    def is_ahead(self, ledgers: Mapping[str, Sequence[tuple[int, Record]]]) -> bool:
        """Whether it has learned what the ledgers no longer hold."""
        return any(ledgers.get(user) is not read for user, (read, _) in self._read.items())

    def follow(self, ledgers: Mapping[str, Sequence[tuple[int, Record]]], memory: Ledgers) -> None:
        """Learn what was added to the ledgers, by user."""
        for user, ledger in ledgers.items():
            start = self._read.get(user, (ledger, 0))[1]
            if start == len(ledger):
                continue
            news = ledger[start:]
            records = [record for _, record in news]
            vectors = memory.vectors(records).astype(np.float64)
            self._corrected.update(r.source for r in records if r.kind is RecordKind.CASE)
            for (sign, record), vector in zip(news, vectors, strict=True):
                if record.kind is RecordKind.CASE:
                    self._count(record.answer, sign)
                if record.kind is RecordKind.CASE or record.source not in self._corrected:
                    self._learn(self._lesson(record, vector), sign)
                elif (row := self._rows.get(record.answer)) is not None:
                    self._repel(row, vector, sign * record.weight)
                else:
                    refusals = self._aside.setdefault(record.answer, [])
                    refusals.append((vector.copy(), sign * record.weight))  # not all it is a row of
            self._read[user] = (ledger, start + len(news))  # it may have grown since

    def ask(self, question: Question) -> Mapping[str, FloatArray]:
        """The opinions of all readers; those that pool others come after them."""
        for name, reader in self.readers.items():
            question.said[name] = reader.opinion(question)
        return question.said

    def _count(self, answer: str, sign: int) -> None:
        self._accepted[answer] += sign
        if not self._accepted[answer]:
            del self._accepted[answer]

    def _learn(self, lesson: Lesson, sign: int) -> None:
        for reader in self.readers.values():
            reader.learn(lesson, float(sign))

    def _repel(self, row: int, vector: FloatArray, weight: float) -> None:
        """What is right is a lesson of its own."""
        lesson = Lesson(vector=vector, words=(), target={}, refused=row, weight=weight)
        for name in REPELLED:
            self.readers[name].learn(lesson, 1.0)

    def _lesson(self, record: Record, vector: FloatArray) -> Lesson:
        refused = record.kind is RecordKind.REJECTED
        likely = record.instead if refused else {record.answer: 1.0}
        return Lesson(
            vector=vector,
            words=features(record.request),
            target={self.row(answer): right for answer, right in likely.items()},
            refused=self.row(record.answer) if refused else None,
            weight=record.weight,
        )


class Banks:
    """The `Readers` of a chat: opinions of its own scope, and of those it may read."""

    def __init__(
        self, memory: Ledgers, recaller: Recaller, embedder: Embedder, names: Names
    ) -> None:
        self._memory, self._recaller = memory, recaller
        self._embedder, self._names = embedder, names
        self._banks: OrderedDict[tuple[str, str], Bank] = OrderedDict()

    def opinions(
        self,
        request: Request,
        task: str,
        answers: Sequence[str],
        descriptions: Mapping[str, str],
        recall: Recall,
    ) -> Mapping[str, FloatArray]:
        """Log-probabilities of each answer by expert; those of a wider scope that was taught
        anything as "name@scope"."""
        vector = self._embedder.embed([request.prompt])[0].astype(np.float64)
        titles = self._names.vectors(answers, descriptions)
        names = self._names.of(vector, titles)
        words = features(request.prompt)

        def ask(bank: Bank, voters: Voters) -> Mapping[str, FloatArray]:
            rows = bank.rows(answers)
            return bank.ask(
                Question(
                    vector=vector, words=words, rows=rows, titles=titles, names=names, voters=voters
                )
            )

        own = self._bank(request.user, self._lender(request.user, task, recall))
        found = {"names": names, **ask(own, voters(answers, recall))}
        for scope in request.reads:
            bank = self._bank(scope, task)
            if bank.is_empty:  # who knows nothing of a task is no expert in it
                continue
            said = ask(bank, voters(answers, self._recaller.voters(vector, scope, task)))
            found.update({f"{name}@{scope}": said[name] for name in WIDER})
        return found

    def _lender(self, user: str, task: str, recall: Recall) -> str:
        """The task whose readers answer: an inferred one that has learned nothing yet borrows those
        of the nearest case it was lent."""
        if self._memory.ledger(user=user, task=task) or not recall.cases:
            return task
        return max(recall.cases, key=lambda case: case.score).record.task

    def vectors(self, texts: Sequence[str]) -> FloatArray:
        return self._embedder.embed(texts)

    def known(self, request: Request, task: str, recall: Recall) -> Sequence[str]:
        """See the `Readers` protocol: of near requests, and the likeliest where answers recur."""
        near = sorted((r for r in recall.cases if r.score >= NEAR), key=lambda r: -r.score)
        found = list(dict.fromkeys(r.record.answer for r in near))[:NEAREST]
        bank = self._bank(request.user, self._lender(request.user, task, recall))
        recurring = bank.recurring
        if recurring:
            opinion = self._asked(bank, request, recurring, recall)["all"]
            found += [recurring[i] for i in np.argsort(-opinion, kind="stable")[:LIKELIEST]]
        return list(dict.fromkeys(found))

    def judged(
        self, request: Request, task: str, texts: Sequence[str], recall: Recall
    ) -> Mapping[str, FloatArray]:
        """See the `Readers` protocol."""
        prior = normalised(np.zeros(len(texts)))
        votes = Kernel(0.05, 1e-2).votes(voters(texts, recall), prior)
        found = {"votes": votes, "similar": self._similar(texts, recall)}
        bank = self._bank(request.user, self._lender(request.user, task, recall))
        if bank.recurring:
            said = self._asked(bank, request, texts, recall)
            found |= {name: said[name] for name in RECURRING}
        return found

    def _asked(
        self, bank: Bank, request: Request, texts: Sequence[str], recall: Recall
    ) -> Mapping[str, FloatArray]:
        """What the readers say of open answers."""
        vector = self._embedder.embed([request.prompt])[0].astype(np.float64)
        titles = self._names.vectors(texts, {})
        question = Question(
            vector=vector,
            words=features(request.prompt),
            rows=bank.known_rows(texts),
            titles=titles,
            names=self._names.of(vector, titles),
            voters=voters(texts, recall),
        )
        return bank.ask(question)

    def _similar(self, texts: Sequence[str], recall: Recall) -> FloatArray:
        """A kernel over requests times the cosine of the answers."""
        heard = [*((r, 1.0) for r in recall.cases), *((r, -1.0) for r in recall.rejected)]
        if not heard or len(texts) < 2:
            return normalised(np.zeros(len(texts)))
        weights = np.array([sign * r.record.weight * _near(r) for r, sign in heard])
        known = [r.record.answer for r, _ in heard]
        vectors = self._embedder.embed([*texts, *known]).astype(np.float64)
        likeness = vectors[: len(texts)] @ vectors[len(texts) :].T
        # A recalled answer is no more like the others for being one of them: that is its vote.
        likeness[np.array([[text == answer for answer in known] for text in texts])] = 0.0
        return normalised(10 * likeness @ weights / (np.abs(weights).sum() + 1e-3))

    def forget(self, user: str) -> None:
        """Let go of what holds texts of a user; other banks stay."""
        gone = [key for key, bank in self._banks.items() if key[0] == user or bank.has_read(user)]
        for key in gone:
            del self._banks[key]

    def _bank(self, scope: str, task: str) -> Bank:
        users = self._memory.users() if scope == EVERYONE else [scope]
        ledgers = {user: self._memory.ledger(user=user, task=task) for user in users}
        bank = self._banks.pop((scope, task), None)
        if bank is None or bank.is_ahead(ledgers):
            bank = Bank(self._embedder.dim)
        bank.follow(ledgers, self._memory)
        self._banks[scope, task] = bank
        while len(self._banks) > BANKS:
            self._banks.popitem(last=False)
        return bank


def voters(answers: Sequence[str], recall: Recall) -> Voters:
    """The recalled cases, and refusals that came without a correction, whose answer is among
    `answers`."""
    place = dict(zip(answers, range(len(answers)), strict=True))
    heard = list(_votes(place, recall))
    return Voters(
        place=np.array([p for p, _, _ in heard], dtype=np.intp),
        cosine=np.array([c for _, c, _ in heard]),
        weight=np.array([w for _, _, w in heard]),
    )


def _votes(place: Mapping[str, int], recall: Recall) -> Iterator[tuple[int, float, float]]:
    corrected = {case.record.source for case in recall.cases}
    refused = [r for r in recall.rejected if r.record.source not in corrected]
    for sign, found in ((1.0, recall.cases), (-1.0, refused)):
        for voter in found:
            i = place.get(voter.record.answer)
            if i is not None:
                yield i, voter.score, sign * voter.record.weight


def features(text: str) -> tuple[str, ...]:
    """Words, pairs of them, and the first three; each once."""
    words = ["<", *_WORD.findall(text.lower())]
    pairs = [f"{a} {b}" for a, b in itertools.pairwise(words)]
    first = [" ".join(words[i : i + 3]) for i in (0, 1) if len(words) >= i + 3]
    return tuple(dict.fromkeys([*words, *pairs, *first]))


def _near(voter: Recalled) -> float:
    return float(np.exp((voter.score - 1) / 0.08))
