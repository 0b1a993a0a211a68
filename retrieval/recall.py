"""Which records of one user and one task bear on a request, and in which order.

Knows the rules of choice: near, newest wins, diverse. Knows neither where records and vectors are
kept (`Records`), nor how much of what it recalls fits into a prompt (`pack`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from tta.errors import InvalidSetting
from tta.protocols import Embedder, Records
from tta.retrieval.passages import Passages
from tta.types import ANY_TASK, EVERYONE, Recall, Recalled, Record, RecordKind, Request, Task

if TYPE_CHECKING:
    from tta.protocols import FloatArray

RULE, NOTE, REJECTED = "rule", "note", "rejected"
DEMONSTRATION = "demonstration"
"""Channel of the cases meant to be shown."""
VOTE = "vote"
"""Channel of the cases beyond those: they vote, and are not offered to the prompt."""

NOTE_THRESHOLD = 0.9
"""Least cosine between a note's pattern and the request's for the note to apply.

High, because wording says little about intent: among MemPrompt's questions the nearest *other*
wording has the same intent in 27 to 53 % of cases; above 0.9 hardly any two wordings are left.
"""

SAME_ANSWER_PENALTY = 0.1
"""How much nearer a demonstration must be for each one chosen before it with the same answer."""

BORROW_THRESHOLD = 0.5
"""Least cosine at which cases of other tasks are lent to an inferred task that has none."""

_INDISTINCT = 0.999
"""Texts beyond this cosine may be one text to the embedder (it reads only their beginning)."""


class Recaller:
    """Rules, notes, cases and rejected answers for one request.

    `demonstrations`: how many cases are meant to be shown; `voters`: how many cases, and how many
    rejected answers, are recalled in all (exact search, so many are cheap); `notes`: at most so
    many notes; `passages`: finds those of documents. Raises InvalidSetting for counts below 0 or
    more demonstrations than voters.
    """

    def __init__(
        self,
        records: Records,
        embedder: Embedder,
        *,
        demonstrations: int = 16,
        voters: int = 64,
        notes: int = 3,
        note_threshold: float = NOTE_THRESHOLD,
        passages: Passages | None = None,
    ) -> None:
        if not 0 <= demonstrations <= voters or notes < 0:
            raise InvalidSetting(
                f"demonstrations={demonstrations!r}, voters={voters!r}, notes={notes!r}",
                value=(demonstrations, voters, notes),
                hint="Use 0 <= demonstrations <= voters and notes >= 0",
            )
        self._records = records
        self._embedder = embedder
        self._demonstrations = demonstrations
        self._voters = voters
        self._notes = notes
        self._note_threshold = note_threshold
        self._passages = passages

    def recall(self, request: Request, task: Task) -> Recall:
        """What bears on `request` in the scope (request.user, task.name).

        Rules and notes of the scopes in `request.reads` count too, the user's own note first; cases
        of theirs do not (they vote apart: `voters`). One embedding call: the prompt and, where
        there are notes to be found by it, the pattern.
        """
        user, name = request.user, task.name
        scopes = [user, *(scope for scope in request.reads if scope != EVERYONE)]
        noted = [scope for scope in scopes if self._notes and self._has_notes(scope, name)]
        vectors = self._embedder.embed([request.prompt, *([task.pattern] if noted else [])])
        notes = (self._recall_notes(vectors[1], scope, task) for scope in noted)
        return Recall(
            rules=tuple(rule for scope in reversed(scopes) for rule in self._rules(scope, name)),
            notes=next((found for found in notes if found), ()),
            cases=self._recall_cases(vectors[0], request, name),
            rejected=self._recall_rejected(vectors[0], request, name),
            passages=self._passages.find(request, name) if self._passages is not None else (),
        )

    def voters(self, vector: FloatArray, scope: str, task: str) -> Recall:
        """The cases and rejections of another scope, or of EVERYONE, nearest to `vector`."""
        users = self._records.users() if scope == EVERYONE else [scope]
        return Recall(
            cases=self._nearest_of(users, vector, task, RecordKind.CASE),
            rejected=self._nearest_of(users, vector, task, RecordKind.REJECTED),
        )

    def _nearest_of(
        self, users: Sequence[str], vector: FloatArray, task: str, kind: RecordKind
    ) -> tuple[Recalled, ...]:
        found = [
            pair
            for user in users
            for pair in self._records.nearest(vector, self._voters, user=user, task=task, kind=kind)
        ]
        found.sort(key=lambda pair: -pair[1])
        return tuple(_recalled(found[: self._voters], VOTE))

    def _has_notes(self, user: str, task: str) -> bool:
        return bool(self._records.records(user=user, task=task, kind=RecordKind.NOTE))

    def _rules(self, user: str, task: str) -> tuple[Recalled, ...]:
        found = self._records.records(user=user, task=task, kind=RecordKind.RULE)
        ours = [record for record in found if record.task in (ANY_TASK, task)]
        return tuple(Recalled(record=record, score=1.0, channel=RULE) for record in ours)

    def _recall_notes(self, vector: FloatArray, user: str, task: Task) -> tuple[Recalled, ...]:
        """Newest note of each near pattern; a note on this very pattern stands alone."""
        near = self._records.nearest(
            vector, self._voters, user=user, task=task.name, kind=RecordKind.NOTE
        )
        newest: dict[str, Recalled] = {}
        for note in _recalled(near, NOTE):
            known = newest.get(note.record.request)
            if note.score >= self._note_threshold and not (known and _older(note, known)):
                newest[note.record.request] = note
        if task.pattern in newest:
            return (newest[task.pattern],)
        return tuple(sorted(newest.values(), key=lambda n: -n.score)[: self._notes])

    def _recall_cases(
        self, vector: FloatArray, request: Request, task: str
    ) -> tuple[Recalled, ...]:
        """Demonstrations first, each part best first."""
        pool = self._near(vector, request, task, RecordKind.CASE, VOTE)
        if not self._demonstrations:
            return tuple(pool)
        shown = _diverse(_newest_of_each_text(pool), request.prompt, self._demonstrations)
        chosen = {case.record.id for case in shown}
        rest = [case for case in pool if case.record.id not in chosen]
        return (
            *(Recalled(record=c.record, score=c.score, channel=DEMONSTRATION) for c in shown),
            *rest,
        )

    def _recall_rejected(
        self, vector: FloatArray, request: Request, task: str
    ) -> tuple[Recalled, ...]:
        return tuple(self._near(vector, request, task, RecordKind.REJECTED, REJECTED))

    def _near(
        self, vector: FloatArray, request: Request, task: str, kind: RecordKind, channel: str
    ) -> list[Recalled]:
        """Of the task; one that was inferred and has none borrows what is near from the others."""
        own = self._same_text_first(vector, request, task, kind, channel)
        if own or request.task is not None:
            return own
        others = self._same_text_first(vector, request, None, kind, channel)
        return [other for other in others if other.score >= BORROW_THRESHOLD]

    def _same_text_first(
        self,
        vector: FloatArray,
        request: Request,
        task: str | None,
        kind: RecordKind,
        channel: str,
    ) -> list[Recalled]:
        """The nearest records; those of the very same text first, the newest leading."""
        if not self._voters:
            return []
        user, prompt, found = request.user, request.prompt, self._records
        near = list(found.nearest(vector, self._voters, user=user, task=task, kind=kind))
        if len(near) == self._voters and near[-1][1] > _INDISTINCT:
            # Long texts with one beginning crowd out the very text: look for it by name.
            known = {record.id for record, _ in near}
            every = found.records(user=user, task=task, kind=kind)
            near += [(r, 1.0) for r in every if r.request == prompt and r.id not in known]
        pool = _recalled(near, channel)
        same = [case for case in pool if case.record.request == prompt]
        if not same:
            return pool[: self._voters]
        other = [case for case in pool if case.record.request != prompt]
        same.sort(key=lambda case: case.record.created, reverse=True)
        return [*same, *other][: self._voters]


def _diverse(pool: Sequence[Recalled], prompt: str, k: int) -> list[Recalled]:
    """At most `k` of `pool`: near, but not all with one answer; the very same text first.

    Maximal marginal relevance (Carbonell & Goldstein 1998) with the answer as what is redundant:
    the next is argmax of cosine - penalty * (chosen ones with the same answer).
    """
    seen: Counter[str] = Counter()
    chosen: list[Recalled] = []
    heap = [(case.record.request != prompt, -case.score, i, 0) for i, case in enumerate(pool)]
    heapify(heap)
    while heap and len(chosen) < k:
        other, _, i, counted = heappop(heap)
        case, redundant = pool[i], seen[pool[i].record.answer]
        if redundant > counted:  # gains only fall: it is put back where it belongs by now
            loss = SAME_ANSWER_PENALTY * redundant - case.score
            heappush(heap, (other, loss, i, redundant))
            continue
        chosen.append(case)
        seen[case.record.answer] += 1
    return chosen


def _newest_of_each_text(pool: Iterable[Recalled]) -> list[Recalled]:
    """One case per request text: shown together, an old answer would contradict the new one."""
    newest: dict[str, Recalled] = {}
    for case in pool:
        known = newest.get(case.record.request)
        if known is None or _older(known, case):
            newest[case.record.request] = case
    return list(newest.values())


def _older(a: Recalled, b: Recalled) -> bool:
    return a.record.created < b.record.created


def _recalled(found: Iterable[tuple[Record, float]], channel: str) -> list[Recalled]:
    return [Recalled(record=r, score=s if s < 1.0 else 1.0, channel=channel) for r, s in found]
