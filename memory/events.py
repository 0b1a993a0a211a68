"""Events as plain data: what an event must hold, and its form as JSON.

Knows the fields a fold will read, and refuses an event that a fold could not read, before
anything is written. Knows nothing of databases, vectors, or what an event means.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from tta.errors import CorruptStore, InvalidSetting, InvalidText
from tta.types import Event, EventKind, Json

FEEDBACK = frozenset(
    {
        EventKind.RATING,
        EventKind.CORRECTION,
        EventKind.EDIT,
        EventKind.PREFERENCE,
        EventKind.NOTE,
        EventKind.RULE,
        EventKind.SETTING,
        EventKind.MERGED,
        EventKind.SPLIT,
    }
)
"""The kinds that can be learned from, and undone."""
LEARNED = FEEDBACK | {EventKind.READ}
"""Those, and documents: a newer reading takes the older one's place."""

UNDOABLE = FEEDBACK | {EventKind.PROMOTED}

_TEXTS = {
    EventKind.ANSWERED: ("request", "pattern", "answer"),
    EventKind.RATING: ("request", "answer"),
    EventKind.CORRECTION: ("request", "answer", "text"),
    EventKind.EDIT: ("request", "answer", "result"),
    EventKind.PREFERENCE: ("request", "chosen", "rejected"),
    EventKind.NOTE: ("pattern", "text"),
    EventKind.RULE: ("text",),
    EventKind.READ: ("document", "digest"),
    EventKind.PROMOTED: ("request", "text"),
    EventKind.SETTING: (),
    EventKind.MERGED: ("into",),
    EventKind.SPLIT: ("into",),
    EventKind.UNDONE: ("feedback",),
    EventKind.FORGOTTEN: (),
}
_NEVER_EMPTY = frozenset({"text", "result", "chosen", "document", "into"})


def to_dict(event: Event) -> dict[str, Json]:
    """The event as one JSON object; `from_dict` gives an equal event back."""
    return {
        "id": event.id,
        "kind": str(event.kind),
        "user": event.user,
        "task": event.task,
        "response": event.response,
        "time": event.time,
        "body": cast(Json, json.loads(body_json(event))),
    }


def from_dict(data: Mapping[str, Any]) -> Event:
    """The event that `to_dict` wrote.

    Raises CorruptStore when a field is missing or of another type.
    """
    try:
        event = Event(
            kind=EventKind(data["kind"]),
            user=data["user"],
            task=data["task"],
            response=data["response"],
            body=data["body"],
            id=data["id"],
            time=float(data["time"]),
        )
    except (KeyError, ValueError, TypeError) as problem:
        raise CorruptStore(
            f"Not an event of tta ({problem!r})", value=data, hint="Was the line cut or edited?"
        ) from problem
    if not isinstance(event.body, Mapping):
        raise CorruptStore("Not an event of tta: its body is no object", value=data)
    return event


def body_json(event: Event) -> str:
    """The body as ASCII JSON with sorted keys: equal bodies give equal text.

    Raises InvalidSetting for values that JSON has no form for (NaN, objects).
    """
    try:
        return json.dumps(dict(event.body), sort_keys=True, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as problem:
        raise InvalidSetting(
            f"The event's body is no JSON ({problem})", value=event.body
        ) from problem


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def check(event: Event, written: str | None = None) -> None:
    """Refuse what a fold could not read. `written`: its `body_json`, where it is at hand.

    Raises InvalidText (a lone surrogate anywhere, an empty user or text) or InvalidSetting (a
    field is missing, a reward outside -1 to 1, opinions or what was heard of them in another form).
    """
    for name in ("id", "user", "task", "response"):
        check_text(getattr(event, name), name)
    # In ASCII every surrogate begins so: what has none need not be gone through text by text.
    if written is None or "\\ud" in written:
        check_text(event.body, "body")
    if not event.id or not event.user:
        raise InvalidText("An event needs an id and a user", value=event)
    for name in _TEXTS[event.kind]:
        text = event.body.get(name)
        if not isinstance(text, str):
            raise InvalidSetting(f"A {event.kind} event needs the text {name!r}", value=text)
        if name in _NEVER_EMPTY and not text.strip():
            raise InvalidText(f"The {name} of a {event.kind} is empty", value=text)
    if event.kind is EventKind.ANSWERED and event.response != event.id:
        raise InvalidSetting("An answer's event has the response's id", value=event.response)
    if event.kind is EventKind.SETTING:
        _check_setting(event.body)
    if event.kind is EventKind.RATING:
        _check_reward(event.body.get("value"))
    if event.kind is EventKind.READ:
        _check_passages(event.body.get("passages"))
    if event.kind is EventKind.PROMOTED:
        _check_users(event.body.get("users"), event.user)
    if event.kind in (EventKind.MERGED, EventKind.SPLIT):
        _check_move(event)
    for name, is_readable in _WEIGHED.items():
        said = event.body.get(name)
        if said and not _can(is_readable, said):
            raise InvalidSetting(f"What an event calls {name!r} cannot be read", value=said)
    if not math.isfinite(event.time):
        raise InvalidSetting("An event's time is in seconds since 1970", value=event.time)


def check_text(value: object, name: str) -> None:
    """Raise InvalidText if `value`, or a text inside it, cannot be written as UTF-8."""
    if _is_plain(value):
        return
    if isinstance(value, str):
        _check_encodes(value, name)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if not _is_plain(key):
                check_text(key, name)
            if not _is_plain(inner):
                check_text(inner, f"{name}.{key}")
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for inner in value:
            check_text(inner, name)


def _is_plain(value: object) -> bool:
    """A number, nothing, or ASCII: most of what an event holds."""
    return value.isascii() if isinstance(value, str) else isinstance(value, _NUMBERS)


def _check_encodes(text: str, name: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as problem:
        raise InvalidText(
            f"{name} holds a lone surrogate at character {problem.start}",
            value=text,
            hint='Clean it with text.encode("utf-8", "replace").decode().',
        ) from None


def _check_reward(value: object) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not -1.0 <= cast(float, value) <= 1.0:
        raise InvalidSetting("A reward is a number from -1 to 1", value=value)


def _check_passages(passages: object) -> None:
    listed = isinstance(passages, Sequence) and not isinstance(passages, str)
    texts = cast(Sequence[object], passages) if listed else ()
    if not listed or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InvalidSetting("A document's passages are texts that are not empty", value=passages)


def _check_users(users: object, scope: str) -> None:
    names = users if isinstance(users, Sequence) and not isinstance(users, str) else ()
    if not names or not all(isinstance(user, str) and user for user in names):
        raise InvalidSetting("A promotion names the users who agree", value=users)
    if scope in names:
        raise InvalidSetting("A scope cannot agree with itself", value=users)


def _check_setting(body: Mapping[str, Json]) -> None:
    if not body or not all(
        name in _SETTINGS and _can(_SETTINGS[name], body[name]) for name in body
    ):
        raise InvalidSetting(
            f"Nothing that can be set of a task: {dict(body)!r}",
            value=body,
            hint="free: a bool; samples: 1 or more, or None; steps: a bool, or None;"
            " experts: weights from 0 to 1, together at most 1",
        )


def _check_move(event: Event) -> None:
    if not event.task or event.task == event.body["into"]:
        raise InvalidSetting("A task is merged into, or split off as, another", value=event.task)
    for name in ("patterns", "taught") if event.kind is EventKind.SPLIT else ():
        listed = event.body.get(name)
        texts = isinstance(listed, Sequence) and not isinstance(listed, str)
        if not texts or not all(isinstance(text, str) for text in cast(Sequence[object], listed)):
            raise InvalidSetting(f"A split lists its {name} as texts", value=listed)


def promoters(event: Event) -> Sequence[str]:
    """Who agreed on what was promoted; nobody for other events."""
    return cast(Sequence[str], event.body["users"]) if event.kind is EventKind.PROMOTED else ()


def _can(is_readable: Callable[[Any], bool], said: object) -> bool:
    """Whether it is; what has not even the parts to look at is not."""
    try:
        return is_readable(said)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def _heard(said: Any) -> bool:  # noqa: ANN401 (from an import it may be anything)
    rows = list(said["likelihood"].values())
    frozen = said["frozen"]
    return (
        len({len(row) for row in rows}) <= 1
        and all(0 < p <= 1 for row in rows for p in row)
        and said["outcomes"] >= 2
        and 0 <= said["right"] <= 1
        and (frozen is None or 0 <= frozen <= 1)
        and _bounded((said.get("slopes") or {}).values())
        and _bounded([] if said.get("reached") is None else [said["reached"]])
    )


def _opinions(said: Any) -> bool:  # noqa: ANN401
    rows, listed = said["experts"].values(), len(said["answers"])
    return (
        all(row.count(" ") == listed - 1 and _LOGS.fullmatch(row) for row in rows)
        and said["of"] >= listed
        and isinstance(said["closed"], bool)
        and set(said["passes"]) <= said["experts"].keys()
        and _bounded((said.get("powers") or {}).values())
    )


def _instead(said: Any) -> bool:  # noqa: ANN401
    return all(isinstance(answer, str) and 0 <= p <= 1 for answer, p in said.items())


def _cited(said: Any) -> bool:  # noqa: ANN401
    return all(isinstance(passage, str) and -1 <= right <= 1 for passage, right in said.items())


def _experts(said: Any) -> bool:  # noqa: ANN401
    weights = [_number(weight) for weight in said.values()]
    return all(said) and all(0 <= w <= 1 for w in weights) and sum(weights) <= 1 + 1e-9


def _bounded(said: Iterable[Any]) -> bool:
    """Numbers that can be squared and summed."""
    return all(abs(_number(number)) <= 1e6 for number in said)


def _number(said: Any) -> float:  # noqa: ANN401
    if isinstance(said, bool) or not isinstance(said, int | float):
        raise TypeError(said)
    return said


_NUMBERS = (int, float, bool, type(None))
_LOGS = re.compile("(?:0|-[0-9]+)(?: (?:0|-[0-9]+))*")
"""Log-probabilities in whole hundredths: none is above 0."""

_SETTINGS: dict[str, Callable[[Any], bool]] = {
    "free": lambda said: isinstance(said, bool),
    "samples": lambda said: said is None or (type(said) is int and said >= 1),
    "steps": lambda said: said is None or isinstance(said, bool),
    "experts": _experts,
}
"""What can be set of a task, and how to tell that it can be used."""

_WEIGHED: dict[str, Callable[[Any], bool]] = {
    "heard": _heard,
    "opinions": _opinions,
    "instead": _instead,
    "cited": _cited,
}
"""Fields that only some events have, and how to tell that a fold can read them."""
