"""What the model is shown of all that was recalled, within a budget of tokens.

Knows the prompt contract (order and wording of the parts) and a way to count tokens. Knows no
model, no chat template and no store.

    system     the caller's own text, then "Rules:", "Notes:", "Answers:", a blank line between
    user       request of the least similar demonstration     } one pair each,
    assistant  its answer                                     } the most similar last
    ...        the conversation's own earlier turns
    user       the question

The stable part stands first, so that a cached prefix stays valid from step to step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tta.errors import InvalidSetting
from tta.protocols import Tokenizer
from tta.types import Message, Recall, Recalled, RecordKind, Request

MAX_LISTED_ANSWERS = 16
"""A larger closed set is not listed in the prompt: decoding enforces it all the same."""

TURN_TOKENS = 8
"""Tokens allowed for the template around one turn; what it really takes is the template's."""

VOTE_ONLY = "vote"
"""Channel of the cases that `recall` never meant to be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """The messages, and what became of everything recalled.

    `shown` and `dropped` together are all that was recalled, but rejected answers and mere voters,
    which no prompt may hold. `tokens` is what the shown material takes of the budget.
    """

    messages: tuple[Message, ...]
    shown: tuple[Recalled, ...] = ()
    dropped: tuple[Recalled, ...] = ()
    tokens: int = 0


def pack(
    request: Request,
    recall: Recall,
    *,
    budget: int,
    count: Callable[[str], int] | Tokenizer,
    answers: Sequence[str] | None = None,
) -> Packed:
    """The messages for `request` with as much of `recall` as `budget` tokens hold.

    What matters most is taken first: rules (the newest before the older ones), notes, then the
    nearest demonstrations; what does not fit is dropped, and smaller things after it may still
    fit. The budget is for recalled material alone: the caller's own messages and the list of
    answers are never dropped. Raises InvalidSetting for a negative budget.
    """
    if budget < 0:
        raise InvalidSetting(
            f"budget={budget!r} tokens", value=budget, hint="Use 0 to show nothing recalled"
        )
    counter = count.count if hasattr(count, "count") else count
    offered = _by_value(recall)
    shown, tokens = _fitting(offered, budget, counter)
    kept = {id(item) for item in shown}
    return Packed(
        messages=_compose(request, shown, answers),
        shown=tuple(shown),
        dropped=tuple(item for item in offered if id(item) not in kept),
        tokens=tokens,
    )


def _by_value(recall: Recall) -> list[Recalled]:
    """All that may be shown, most valuable first."""
    cases = [case for case in recall.cases if case.channel != VOTE_ONLY]
    return [*reversed(recall.rules), *recall.notes, *cases]


def _fitting(
    offered: Sequence[Recalled], budget: int, count: Callable[[str], int]
) -> tuple[list[Recalled], int]:
    shown, used = list[Recalled](), 0
    headed: set[RecordKind] = set()
    for item in offered:
        kind = item.record.kind
        cost = _cost(item, count) + (0 if kind in headed else _heading_cost(kind, count))
        if used + cost <= budget:
            shown.append(item)
            headed.add(kind)
            used += cost
    return shown, used


def _cost(item: Recalled, count: Callable[[str], int]) -> int:
    record = item.record
    if record.kind is RecordKind.CASE:
        return count(record.request) + count(record.answer) + 2 * TURN_TOKENS
    return count(_bullet(record.answer))


def _heading_cost(kind: RecordKind, count: Callable[[str], int]) -> int:
    """A section's title and blank line; the first section may also open the system turn."""
    if kind is RecordKind.CASE:
        return 0
    return count(f"\n\n{_HEADINGS[kind]}") + TURN_TOKENS


_HEADINGS = {RecordKind.RULE: "Rules:", RecordKind.NOTE: "Notes:"}


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
        f"Answers: {', '.join(listed)}" if listed else "",
    )
    return "\n\n".join(section for section in sections if section)


def _section(kind: RecordKind, shown: Sequence[Recalled]) -> str:
    """Shown is best first; the best stands last, nearest to the question."""
    items = [_bullet(item.record.answer) for item in reversed(shown) if item.record.kind is kind]
    return "\n".join([_HEADINGS[kind], *items]) if items else ""


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
