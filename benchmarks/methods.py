"""The methods by name: tta through its public surface, and the baselines.

Knows what each needs (a language model, closed answers, shots) and leaves out, by name, what
cannot run. Refuses to know targets; what tta is told goes through the verbs that a user has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import tta
from benchmarks import baselines, prompting
from benchmarks.bench import NEW_TOKENS, Answer, Bench, Method
from benchmarks.oracle import Told
from benchmarks.streams import Item, Stream
from tta.errors import InvalidSetting
from tta.types import Candidate, RecordKind

SHARED = "everybody"
"""The one scope of `tta.shared`."""


class Tta:
    """`tta.wrap` with its defaults, one memory for the stream, each user in her own scope.

    `scope`: "own" (strict), "shared" (all users are one), "everyone" (her own, and she may read
    everyone's). Without `learns` it is the empty-memory control: the same code, never told.
    """

    def __init__(self, bench: Bench, *, scope: str = "own", learns: bool = True) -> None:
        self._scope, self._learns = scope, learns
        model = bench.model
        self.chat = tta.wrap(
            None if model is None else model.model,
            None if model is None else model.tokenizer,
            embedder=bench.embedder,
            budget=bench.budget,
        )
        self.users: set[str] = set()

    def predict(self, item: Item) -> Answer:
        chat = self._view(item.user)
        self.users.add(chat.user)
        limit = NEW_TOKENS if item.answers is None else None
        reply = chat(item.text, task=item.task, output=item.answers, max_new_tokens=limit)
        notes = [r for r in reply.context.shown if r.record.kind is RecordKind.NOTE]
        return Answer(
            text=reply.text,
            cost=reply.cost,
            confidence=reply.confidence,
            shown=len(reply.context.shown),
            notes=tuple(note.record.answer for note in notes),
            receipt=reply,
        )

    def learn(self, item: Item, answer: Answer, told: Told) -> None:
        if not self._learns:
            return
        reply = _reply(answer)
        if told.note is not None:
            reply.note(told.note)
        elif told.answer is None:
            (reply.good if told.right else reply.bad)()
        elif told.answer == reply.text:
            reply.good()
        elif item.edited:
            reply.edit(*smallest_edit(reply.text, told.answer))
        else:
            reply.correct(told.answer)

    def wants(self, answer: Answer, share: float) -> bool:
        """Whether feedback on this answer is worth asking for, on `share` of the steps."""
        return bool(self.chat.wants_feedback(_reply(answer), share))

    def close(self) -> None:
        self.chat.close()

    def _view(self, user: str) -> tta.Adapted:
        if self._scope == "shared":
            return self.chat.for_user(SHARED)
        if self._scope == "everyone":
            return self.chat.for_user(user, reads=(tta.EVERYONE,))
        return self.chat.for_user(user)


def _reply(answer: Answer) -> tta.Response:
    assert isinstance(answer.receipt, tta.Response)
    return answer.receipt


def expert_answers(candidates: Sequence[Candidate]) -> dict[str, str]:
    """What each expert would have answered by itself."""
    best: dict[str, tuple[float, str]] = {}
    for candidate in candidates:
        for expert, part in candidate.parts.items():
            if expert not in best or part > best[expert][0]:
                best[expert] = part, candidate.text
    return {expert: text for expert, (_, text) in best.items()}


def smallest_edit(old: str, new: str) -> tuple[int, int, str]:
    """(start, stop, text): the one span that has to be replaced, as an editor would send it."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    return start, len(old) - end, new[start : len(new) - end]


class Scoped:
    """One memory per user, for methods that know no users, on streams of strangers."""

    def __init__(self, make: Callable[[], Method]) -> None:
        self._make = make
        self._methods: dict[str, Method] = {}

    def predict(self, item: Item) -> Answer:
        return self._of(item).predict(item)

    def learn(self, item: Item, answer: Answer, told: Told) -> None:
        self._of(item).learn(item, answer, told)

    def _of(self, item: Item) -> Method:
        if item.user not in self._methods:
            self._methods[item.user] = self._make()
        return self._methods[item.user]


Make = Callable[[Bench, Stream, int], Method]
"""(bench, stream, seed) -> a method with an empty memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """How a method is made, and when it cannot run."""

    make: Make
    prompts: bool = False
    """Shows things to a language model: cannot run without one."""
    closed: bool = False
    """Needs a closed answer set."""
    shots: bool = False
    """Needs examples that are not in the stream."""
    users: bool = False
    """Keeps users apart by itself."""
    only: str = ""
    """Part of "all" only on streams whose name begins so."""


METHODS: Mapping[str, Entry] = {
    "tta": Entry(make=lambda b, s, n: Tta(b), users=True),
    "tta.shared": Entry(make=lambda b, s, n: Tta(b, scope="shared"), users=True, only="conflict"),
    "tta.everyone": Entry(
        make=lambda b, s, n: Tta(b, scope="everyone"), users=True, only="conflict"
    ),
    "frozen": Entry(make=lambda b, s, n: baselines.Frozen(b)),
    "frozen+calibration": Entry(make=lambda b, s, n: baselines.Calibrated(b), closed=True),
    "16-shot": Entry(
        make=lambda b, s, n: prompting.FixedShots(b, s.shots), prompts=True, shots=True
    ),
    "growprompt": Entry(make=lambda b, s, n: prompting.GrowPrompt(b), prompts=True),
    "memprompt": Entry(make=lambda b, s, n: prompting.MemPrompt(b, 16), prompts=True),
    "memprompt-original": Entry(
        make=lambda b, s, n: prompting.MemPromptOriginal(b), only="memprompt"
    ),
    "self-streamicl-4": Entry(make=lambda b, s, n: prompting.StreamICL(b, 4), prompts=True),
    "self-streamicl-16": Entry(make=lambda b, s, n: prompting.StreamICL(b, 16), prompts=True),
    "gold-streamicl": Entry(
        make=lambda b, s, n: prompting.StreamICL(b, 16, gold=True), prompts=True
    ),
    "knn-prompting": Entry(make=lambda b, s, n: baselines.KnnPrompting(b)),
    "knn-1": Entry(make=lambda b, s, n: baselines.NearestMemory(b, 1)),
    "knn-5": Entry(make=lambda b, s, n: baselines.NearestMemory(b, 5)),
    "knn-16": Entry(make=lambda b, s, n: baselines.NearestMemory(b, 16)),
    "ridge": Entry(make=lambda b, s, n: baselines.Ridge(b), closed=True),
    "empty-memory": Entry(make=lambda b, s, n: Tta(b, learns=False), users=True),
    "random-memory": Entry(make=lambda b, s, n: _random_memory(b, n)),
}


def _random_memory(bench: Bench, seed: int) -> Method:
    if bench.model is None:
        return baselines.RandomMemory(bench, 5, seed)
    return prompting.StreamICL(bench, 16, at_random=seed)


def chosen(wanted: str, bench: Bench, stream: Stream) -> tuple[tuple[str, ...], dict[str, str]]:
    """The methods to run, and why others that were wanted are left out.

    `wanted`: "all", or names separated by commas. Raises InvalidSetting for an unknown name, or
    when none is left.
    """
    asked = _all(stream) if wanted == "all" else tuple(wanted.split(","))
    for name in asked:
        if name not in METHODS:
            raise InvalidSetting(
                f"no method {name!r}", value=name, hint=f"Use all, or {', '.join(METHODS)}"
            )
    out = {name: why for name in asked if (why := _cannot(METHODS[name], bench, stream))}
    kept = tuple(name for name in asked if name not in out)
    if not kept:
        raise InvalidSetting(f"no method left to run: {out}", value=wanted)
    return kept, out


def _all(stream: Stream) -> tuple[str, ...]:
    """On streams of clarifications only those that know what a note is, and the controls."""
    if stream.name.startswith("memprompt"):
        return ("tta", "frozen", "memprompt-original", "empty-memory")
    return tuple(
        name
        for name, entry in METHODS.items()
        if not entry.only or stream.name.startswith(entry.only) or _open(stream, entry)
    )


def _open(stream: Stream, entry: Entry) -> bool:
    """MemPrompt's own rule also runs on open answers, clarified by the answer that was told."""
    return entry.only == "memprompt" and any(item.answers is None for item in stream.items)


def _cannot(entry: Entry, bench: Bench, stream: Stream) -> str:
    open_answers = any(item.answers is None for item in stream.items)
    if entry.shots and not stream.shots:
        return "no rows are left for a disjoint split"
    if bench.model is None and entry.prompts:
        return "needs a language model"
    if bench.model is None and open_answers:
        return "open answers need a language model"
    if entry.closed and open_answers:
        return "needs closed answers"
    return ""


def make(name: str, bench: Bench, stream: Stream, seed: int) -> Method:
    """A fresh method; those that know no users get one memory per user on a scoped stream."""
    entry = METHODS[name]
    if stream.scoped and not entry.users:
        return Scoped(lambda: entry.make(bench, stream, seed))
    return entry.make(bench, stream, seed)
