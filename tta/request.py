"""From what the caller passed to a valid `Request`, or a typed error before anything happens.

Knows the rules of input; knows no model, no memory, no output type.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from tta.errors import InvalidSetting, InvalidText
from tta.types import EVERYONE, Meaning, Message, Request, Steps, UpTo

ROLES = ("system", "user", "assistant")
MAX_NAME = 256
VERIFY_SECONDS = 30.0
"""How long a verifier may take for one answer, unless a call says otherwise."""

Prompt = str | Sequence[Message | Mapping[str, str]]
"""A question, or a conversation that ends with a user turn."""


class Options(TypedDict, total=False):
    """What a call may be given besides prompt and user: `Adapted.__call__` says what each means."""

    task: str | None
    output: object
    verify: Callable[[Any], bool | float] | None
    verify_step: Callable[[Sequence[str]], bool | float] | Steps | None
    verify_seconds: float
    same: Callable[[Any], object] | Meaning | None
    n: int | UpTo | None
    think: bool | None
    max_new_tokens: int | None
    seed: int


def make_request(
    prompt: Prompt,
    *,
    user: str,
    reads: Sequence[str] = (),
    task: str | None = None,
    output: object = None,
    verify: Callable[[Any], bool | float] | None = None,
    verify_step: Callable[[Sequence[str]], bool | float] | Steps | None = None,
    verify_seconds: float = VERIFY_SECONDS,
    same: Callable[[Any], object] | Meaning | None = None,
    n: int | UpTo | None = None,
    think: bool | None = None,
    max_new_tokens: int | None = None,
    seed: int = 0,
) -> Request:
    """Validate every argument of a call. Raises InvalidText or InvalidSetting."""
    if task is not None:
        check_name("task", task)
    if max_new_tokens is not None:
        _check_count("max_new_tokens", max_new_tokens)
    _check_samples(n)
    if think is not None and not isinstance(think, bool):
        raise InvalidSetting(f"think must be a bool or None, was {think!r}", value=think)
    if isinstance(same, Meaning) and not 0 < same.least <= 1:
        raise InvalidSetting(
            f"least must be a cosine above 0, was {same.least!r}", value=same.least
        )
    meant = None if isinstance(same, Meaning) else same
    for name, given in (("verify", verify), ("same", meant)):
        if given is not None and not callable(given):
            raise InvalidSetting(f"{name} must be a function, was {given!r}", value=given)
    if not 0 < verify_seconds <= threading.TIMEOUT_MAX:
        raise InvalidSetting(
            f"verify_seconds must be above 0, was {verify_seconds!r}", value=verify_seconds
        )
    return Request(
        messages=_messages(prompt),
        user=check_user(user),
        reads=check_reads(reads, user),
        task=task,
        output=output,
        verify=verify,
        verify_step=_steps(verify_step),
        verify_seconds=verify_seconds,
        same=same,
        n=n,
        think=think,
        max_new_tokens=max_new_tokens,
        seed=_check_seed(seed),
    )


def check_text(what: str, text: object) -> str:
    """`text` itself if it is a non-blank string that can be written as UTF-8."""
    if not isinstance(text, str):
        raise InvalidText(f"{what} must be a str, not {type(text).__name__}", value=text)
    if not text.strip():
        raise InvalidText(f"{what} is empty: {text!r}", value=text)
    return check_utf8(what, text)


def check_utf8(what: str, text: str) -> str:
    """`text` itself unless it holds a lone surrogate, which no tokenizer or file accepts."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidText(
            f"{what} holds a lone surrogate, {text[error.start]!r} at position {error.start}",
            value=text[error.start],
            hint="Decode the bytes with errors='replace' first",
        ) from error
    return text


def check_name(what: str, name: object) -> str:
    """A user or task name: a printable, non-blank string of at most 256 characters."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise InvalidSetting(
            f"{what} must be a printable, non-blank string, was {name!r}", value=name
        )
    if len(name) > MAX_NAME:
        raise InvalidSetting(f"{what} has {len(name)} characters, at most {MAX_NAME}", value=name)
    return name


def check_user(name: object) -> str:
    """A name that can be written to: not the scope of all users together."""
    if name == EVERYONE:
        raise InvalidSetting(
            f"{EVERYONE!r} is the scope of all users together and can only be read",
            value=name,
            hint="Pass it in reads=, and a name as the user",
        )
    return check_name("user", name)


def check_reads(reads: Sequence[str], user: str) -> tuple[str, ...]:
    """The wider scopes, each once and without the user's own."""
    if isinstance(reads, str):
        raise InvalidSetting(
            f"reads must be a list of scopes, was {reads!r}", value=reads, hint=f"Use ({reads!r},)"
        )
    names = [check_name("scope", scope) for scope in reads]
    return tuple(scope for scope in dict.fromkeys(names) if scope != user)


def _check_count(what: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidSetting(f"{what} must be an integer of at least 1, was {value!r}", value=value)


def _steps(given: Callable[[Sequence[str]], bool | float] | Steps | None) -> Steps | None:
    if given is None:
        return None
    steps = given if isinstance(given, Steps) else Steps(given)
    if steps.check is not None and not callable(steps.check):
        raise InvalidSetting(f"verify_step must be a function, was {given!r}", value=given)
    _check_count("rows", steps.rows)
    if not isinstance(steps.end, str) or not steps.end:
        raise InvalidSetting(f"end must be some text, was {steps.end!r}", value=steps.end)
    if not 0 < steps.least <= 1:
        raise InvalidSetting(f"least must be above 0, up to 1, was {steps.least!r}", value=steps)
    return steps


def _check_samples(n: object) -> None:
    if n is None:
        return
    if not isinstance(n, UpTo):
        _check_count("n", n)
        return
    _check_count("the most samples", n.most)
    if not 0.5 <= n.sure <= 1:
        raise InvalidSetting(f"sure must be from 0.5 to 1, was {n.sure!r}", value=n.sure)


def _check_seed(seed: object) -> int:
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise InvalidSetting(
            f"seed must be an integer from 0 to 2**63 - 1, was {seed!r}", value=seed
        )
    return seed


def _messages(prompt: Prompt) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return (Message(role="user", content=check_text("prompt", prompt)),)
    if not isinstance(prompt, Sequence) or not prompt:
        raise InvalidText(
            f"prompt must be a str or a non-empty list of messages, was {prompt!r}", value=prompt
        )
    given: Sequence[object] = prompt
    messages = tuple(_message(i, m) for i, m in enumerate(given))
    if messages[-1].role != "user":
        raise InvalidText(
            f"the last message must be the user's, was {messages[-1].role!r}",
            value=messages[-1].role,
        )
    return messages


def _message(i: int, message: object) -> Message:
    if isinstance(message, Mapping):
        if set(message) != {"role", "content"}:
            raise InvalidText(
                f"message {i} needs exactly 'role' and 'content', has {sorted(message)}",
                value=dict(message),
            )
        message = Message(role=message["role"], content=message["content"])
    if not isinstance(message, Message):
        raise InvalidText(f"message {i} must be a mapping or tta.Message", value=message)
    if message.role not in ROLES:
        raise InvalidText(
            f"message {i} has role {message.role!r}, not one of {ROLES}", value=message.role
        )
    check_text(f"message {i}", message.content)
    return message
