"""What the model is shown of all that was recalled, within a budget of tokens.

Knows the prompt contract (order and wording of the parts) and a way to count tokens. Knows no
model, no chat template and no store.

    system     the caller's own text, then "Rules:", "Notes:", "Facts:" (passages of documents),
               "Answers:", a blank line between
    user       request of the least similar demonstration     } one pair each,
    assistant  its answer                                     } the most similar last
    ...        the conversation's own earlier turns
    user       the question

The stable part stands first, so that a cached prefix stays valid from step to step.

What the user said holds is shown first of all: rules, notes. Demonstrations and passages share what
is left by what they are worth per token. A set S of them is worth the sum, over its clusters, of
the root of the relevance in them: with every further demonstration of one answer the next is worth
less (Lin & Bilmes, 2011); the greedy choice by gain per cost is near the best one for such a worth
(Lin & Bilmes, 2010).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt

from tta.errors import InvalidSetting
from tta.protocols import Tokenizer
from tta.retrieval.tokens import counter
from tta.types import Message, Recall, Recalled, RecordKind, Request

MAX_LISTED_ANSWERS = 16
"""A larger closed set is not listed in the prompt: decoding enforces it all the same."""

TURN_TOKENS = 8
"""Tokens allowed for the template around one turn; what it really takes is the template's."""

ANSWER_TOKENS = 128
"""Kept free in a context for an answer without `max_new_tokens`, and a list of answers."""

AS_NEAR = 0.8
"""A demonstration less near than this, beside the nearest, is not shown though there were room.

Others distract (benchmarks/README.md has the figures).
"""

VOTE_ONLY = "vote"
"""Channel of the cases that `recall` never meant to be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """The messages, and what became of everything recalled.

    `shown` and `dropped` together are all that was recalled, but rejected answers and mere voters,
    which no prompt may hold. `tokens` is what the shown material takes of the budget; `costs` tells
    by record id what each takes, or would have taken.
    """

    messages: tuple[Message, ...]
    shown: tuple[Recalled, ...] = ()
    dropped: tuple[Recalled, ...] = ()
    tokens: int = 0
    costs: Mapping[str, int] = field(default_factory=dict)


def pack(
    request: Request,
    recall: Recall,
    *,
    budget: int,
    count: Callable[[str], int] | Tokenizer | str,
    answers: Sequence[str] | None = None,
    context: int | None = None,
) -> Packed:
    """The messages for `request` with as much of `recall` as `budget` tokens hold.

    Rules come first (the newest before the older ones), then notes, then what is worth most per
    token; what does not fit is dropped, and smaller things after it may still fit. The budget is
    for recalled material alone: the caller's own messages and the list of answers are never
    dropped; what they leave of a `context` of so many tokens limits it as well. `count` is a
    tokenizer, a function, or the name of a model that tiktoken knows. Raises
    InvalidSetting for a negative budget, ModelNotFound for a name that is none.
    """
    if budget < 0:
        raise InvalidSetting(
            f"budget={budget!r} tokens", value=budget, hint="Use 0 to show nothing recalled"
        )
    counts = _counting(count)
    room = _Room(budget if context is None else _left(context, budget, request, counts), counts)
    told = [*reversed(recall.rules), *recall.notes]
    cases = [case for case in recall.cases if case.channel != VOTE_ONLY]
    shared = [*cases, *recall.passages]
    for item in told:
        room.take(item)
    _fill(room, [*_near(cases), *recall.passages])
    return Packed(
        messages=_compose(request, room.shown([*told, *shared]), answers),
        shown=tuple(room.shown([*told, *shared])),
        dropped=tuple(item for item in (*told, *shared) if id(item) not in room.taken),
        tokens=room.used,
        costs={item.record.id: room.cost(item) for item in (*told, *shared)},
    )


def _counting(count: Callable[[str], int] | Tokenizer | str) -> Callable[[str], int]:
    if isinstance(count, str):
        return counter(count)
    return count if callable(count) else count.count


def _left(context: int, budget: int, request: Request, count: Callable[[str], int]) -> int:
    """What the caller's own messages and the answer leave of a model's context."""
    asked = sum(count(message.content) + TURN_TOKENS for message in request.messages)
    answer = request.max_new_tokens or ANSWER_TOKENS
    return max(0, min(budget, context - asked - answer - TURN_TOKENS))


class _Room:
    """A budget, and what has been taken of it."""

    def __init__(self, budget: int, count: Callable[[str], int]) -> None:
        self.used = 0
        self.taken: set[int] = set()
        self._budget, self._count = budget, count
        self._costs: dict[int, int] = {}
        self._headed: set[RecordKind] = set()

    def cost(self, item: Recalled) -> int:
        """Tokens of an item by itself."""
        if id(item) not in self._costs:
            self._costs[id(item)] = _cost(item, self._count)
        return self._costs[id(item)]

    def take(self, item: Recalled) -> bool:
        """Take an item if it fits, with the title of its section if it is the first."""
        kind = item.record.kind
        cost = self.cost(item)
        cost += 0 if kind in self._headed else _heading_cost(kind, self._count)
        if self.used + cost > self._budget:
            return False
        self.used += cost
        self.taken.add(id(item))
        self._headed.add(kind)
        return True

    def shown(self, offered: Sequence[Recalled]) -> list[Recalled]:
        """Those that were taken, in the order in which they were offered."""
        return [item for item in offered if id(item) in self.taken]


def _near(cases: Sequence[Recalled]) -> list[Recalled]:
    """The demonstrations that do more good than harm."""
    nearest = max((case.score for case in cases), default=0.0)
    return [case for case in cases if case.score >= AS_NEAR * nearest]


def _fill(room: _Room, offered: Sequence[Recalled]) -> None:
    """Take what gains most per token, again and again."""
    mass: defaultdict[tuple[str, ...], float] = defaultdict(float)
    left = list(offered)
    while left:
        best = max(left, key=lambda item: _gain(item, mass) / max(1, room.cost(item)))
        left.remove(best)
        if room.take(best):
            mass[_cluster(best)] += _relevance(best)


def _gain(item: Recalled, mass: Mapping[tuple[str, ...], float]) -> float:
    known = mass.get(_cluster(item), 0.0)
    return sqrt(known + _relevance(item)) - sqrt(known)


def _cluster(item: Recalled) -> tuple[str, ...]:
    """What makes items redundant: demonstrations of one answer are, and no two passages."""
    record = item.record
    return (record.kind, record.answer if record.kind is RecordKind.CASE else record.id)


def _relevance(item: Recalled) -> float:
    return max(item.score, 0.01) ** 2


def _cost(item: Recalled, count: Callable[[str], int]) -> int:
    record = item.record
    if record.kind is RecordKind.CASE:
        return count(record.request) + count(record.answer) + 2 * TURN_TOKENS
    return count(_bullet(_text(item)))


def _heading_cost(kind: RecordKind, count: Callable[[str], int]) -> int:
    """A section's title and blank line; the first section may also open the system turn."""
    if kind is RecordKind.CASE:
        return 0
    return count(f"\n\n{_HEADINGS[kind]}") + TURN_TOKENS


_HEADINGS = {
    RecordKind.RULE: "Rules:",
    RecordKind.NOTE: "Notes:",
    RecordKind.PASSAGE: "Facts:",
}


def _compose(
    request: Request, shown: Sequence[Recalled], answers: Sequence[str] | None
) -> tuple[Message, ...]:
    own, turns = _split(request.messages)
    system = _system(own, shown, answers)
    opening = (Message(role="system", content=system),) if system else ()
    return (*opening, *_demonstrations(shown), *turns)


def _split(messages: Sequence[Message]) -> tuple[str, tuple[Message, ...]]:
    """The caller's leading system text, and the turns after it."""
    lead = 0
    while lead < len(messages) and messages[lead].role == "system":
        lead += 1
    return "\n\n".join(m.content for m in messages[:lead]), tuple(messages[lead:])


def _system(own: str, shown: Sequence[Recalled], answers: Sequence[str] | None) -> str:
    listed = answers if answers and len(answers) <= MAX_LISTED_ANSWERS else ()
    sections = (
        own,
        _section(RecordKind.RULE, shown),
        _section(RecordKind.NOTE, shown),
        _section(RecordKind.PASSAGE, shown),
        f"Answers: {', '.join(listed)}" if listed else "",
    )
    return "\n\n".join(section for section in sections if section)


def _section(kind: RecordKind, shown: Sequence[Recalled]) -> str:
    """Shown is best first; the best stands last, nearest to the question."""
    items = [_bullet(_text(item)) for item in reversed(shown) if item.record.kind is kind]
    return "\n".join([_HEADINGS[kind], *items]) if items else ""


def _text(item: Recalled) -> str:
    """What is said of a record that is no demonstration."""
    passage = item.record.kind is RecordKind.PASSAGE
    return item.record.request if passage else item.record.answer


def _bullet(text: str) -> str:
    """One item; further lines are indented and blank ones left out, lest they end the section."""
    return "- " + "\n  ".join(line for line in text.strip().splitlines() if line.strip())


def _demonstrations(shown: Sequence[Recalled]) -> list[Message]:
    cases = [item.record for item in shown if item.record.kind is RecordKind.CASE]
    return [
        Message(role=role, content=content)
        for case in reversed(cases)
        for role, content in (("user", case.request), ("assistant", case.answer))
    ]
