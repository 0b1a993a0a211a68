"""From a piece of feedback and the answer it is about to the event that the journal keeps.

Knows what each kind of feedback must carry; knows no storage and no model. What feedback *does* is
decided where events are folded (`tta.memory`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from tta.errors import InvalidSetting, UnknownResponse, WrongUser
from tta.request import check_name, check_text, check_utf8
from tta.types import (
    ANY_TASK,
    Correction,
    Edit,
    Event,
    EventKind,
    Feedback,
    Json,
    Note,
    Preference,
    Rating,
    Rule,
)


def feedback_event(feedback: Feedback, answered: Event | None, *, user: str) -> Event:
    """The event of `feedback`, holding all that folding it needs.

    Raises InvalidText or InvalidSetting for content that cannot be used, UnknownResponse when
    `answered` is None, WrongUser when the answer was not given to `user`.
    """
    check_name("feedback id", feedback.id)
    if isinstance(feedback, Rule):
        return _rule_event(feedback, user)
    if answered is None or answered.kind is not EventKind.ANSWERED:
        raise UnknownResponse(
            f"no response {feedback.response!r} in this memory",
            value=feedback.response,
            hint="Pass the id of a reply (`reply.id`) that this memory answered",
        )
    if answered.user != user:
        raise WrongUser(
            f"response {feedback.response!r} does not belong to user {user!r}",
            value=user,
            hint="Feedback must come from the user who was answered: `chat.learn(..., user=...)`",
        )
    kind, said = _kind_and_body(feedback, str(answered.body["answer"]))
    about = {key: answered.body[key] for key in ("request", "pattern", "answer")}
    return Event(
        id=feedback.id,
        kind=kind,
        user=user,
        task=answered.task,
        response=answered.id,
        body={**about, **said},
    )


def _rule_event(rule: Rule, user: str) -> Event:
    if rule.task != ANY_TASK:
        check_name("task", rule.task)
    body: Mapping[str, Json] = {"text": check_text("a rule", rule.text)}
    return Event(id=rule.id, kind=EventKind.RULE, user=user, task=rule.task, body=body)


def _kind_and_body(
    feedback: Rating | Correction | Edit | Preference | Note, answer: str
) -> tuple[EventKind, Mapping[str, Json]]:
    match feedback:
        case Rating(value=value, comment=comment):
            check_utf8("a comment", comment)
            return EventKind.RATING, {"value": _check_value(value), "comment": comment}
        case Correction(text=text):
            return EventKind.CORRECTION, {"text": check_text("a correction", text)}
        case Edit(start=start, stop=stop, text=text):
            result = _edited(answer, start, stop, check_utf8("an edit", text))
            return EventKind.EDIT, {"start": start, "stop": stop, "text": text, "result": result}
        case Preference(chosen=chosen, rejected=rejected):
            return EventKind.PREFERENCE, _preference(chosen, rejected)
        case Note(text=text):
            return EventKind.NOTE, {"text": check_text("a note", text)}
        case _:
            assert_never(feedback)


def _check_value(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1 <= value <= 1:
        raise InvalidSetting(f"a rating must be from -1 to 1, was {value!r}", value=value)
    return float(value)


def _edited(answer: str, start: int, stop: int, text: str) -> str:
    if not 0 <= start <= stop <= len(answer):
        raise InvalidSetting(
            f"an edit must lie within the answer's {len(answer)} characters, was {start}:{stop}",
            value=(start, stop),
        )
    return check_text("the edited answer", answer[:start] + text + answer[stop:])


def _preference(chosen: str, rejected: str) -> Mapping[str, Json]:
    check_text("the preferred answer", chosen)
    check_utf8("the other answer", rejected)
    if chosen == rejected:
        raise InvalidSetting(f"both answers of a preference are {chosen!r}", value=chosen)
    return {"chosen": chosen, "rejected": rejected}
