"""The values that flow through one step. This module imports nothing of tta and no third party.

request -> task -> recalled -> context -> candidates -> response -> feedback -> event -> records

Values are pure: two with the same content are equal. Where they are kept, and how they are
embedded, is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import uuid4

Json = str | int | float | bool | None | Sequence["Json"] | Mapping[str, "Json"]
"""What `json.dumps` takes."""

DEFAULT_USER = "default"
"""The scope of a chat that was given no user."""

ANY_TASK = ""
"""The task of a rule or note that holds for every task of its scope."""


def new_id() -> str:
    """A random identifier: 16 hexadecimal digits."""
    return uuid4().hex[:16]


# --------------------------------------------------------------------------------- asking


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation. `role` is "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """`output=tta.Choices(answers=[...])`: one of a closed set, each with what it means if that
    helps: `descriptions` maps an answer to a few words that are read instead of its name."""

    answers: tuple[str, ...]
    descriptions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Regex:
    """`output=tta.Regex(r"[A-Z]{3}-\\d+")`: the answer matches the whole pattern."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Grammar:
    """`output=tta.Grammar(lark)`: the answer is a sentence of a Lark grammar."""

    lark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked, and in whose name.

    `user` is the scope: a part of every key, never a filter that could be left out.
    `output` is whatever the caller passed; only `decoding` knows what it means.
    """

    messages: tuple[Message, ...]
    user: str = DEFAULT_USER
    task: str | None = None
    output: object = None
    n: int = 1
    max_new_tokens: int | None = None
    seed: int = 0
    id: str = field(default_factory=new_id)

    @property
    def prompt(self) -> str:
        """The last user turn: what memory is keyed by."""
        return next(m.content for m in reversed(self.messages) if m.role == "user")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What kind of work the request is.

    `pattern` is the request with its variable spans masked; `similarity` (cosine, -1 to 1) says how
    near the pattern is to the task it was given to; `new` that the task was opened by this request.
    """

    name: str
    pattern: str = ""
    similarity: float = 1.0
    new: bool = False


# ------------------------------------------------------------------------------ remembering


class RecordKind(StrEnum):
    """What a record is, and so where it may be used."""

    CASE = "case"
    """A request and an answer that was accepted: demonstration and vote."""
    REJECTED = "rejected"
    """A request and an answer that was refused: a vote against; never shown to the model."""
    NOTE = "note"
    """What a kind of request means, keyed by its instruction pattern."""
    RULE = "rule"
    """A standing instruction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One thing remembered. The text is the truth; vectors are derived from it.

    `request` is what the record is found by: the request's text for a case, the instruction
    pattern for a note, empty for a rule. `answer` is the answer, the note or the rule. `source` is
    the id of the feedback that made it; `weight` is in (0, 1]; `created` in seconds since 1970.
    """

    id: str
    kind: RecordKind
    user: str
    task: str
    request: str
    answer: str
    source: str
    created: float
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """A record that bears on a request. `score` is a cosine similarity (1.0 for rules)."""

    record: Record
    score: float
    channel: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """Everything recalled for one request, each part best first (rules: oldest first)."""

    rules: tuple[Recalled, ...] = ()
    notes: tuple[Recalled, ...] = ()
    cases: tuple[Recalled, ...] = ()
    rejected: tuple[Recalled, ...] = ()

    @property
    def all(self) -> tuple[Recalled, ...]:
        return (*self.rules, *self.notes, *self.cases, *self.rejected)


# --------------------------------------------------------------------------------- decoding


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The text the model sees and its token ids (special tokens included, each once)."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the model is shown, and what was left out for lack of room."""

    messages: tuple[Message, ...]
    prompt: str
    tokens: int
    shown: tuple[Recalled, ...] = ()
    dropped: tuple[Recalled, ...] = ()


class Finish(StrEnum):
    """Why a candidate ended."""

    STOP = "stop"
    """The model ended its turn, or the constraint was complete."""
    LENGTH = "length"
    """`max_new_tokens` was reached."""
    CHOSEN = "chosen"
    """It is one of a closed set; nothing was generated."""
    RECALLED = "recalled"
    """It was accepted before for this request; nothing was generated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One possible answer.

    `logprob` is the model's log-probability (nats) of the whole answer, end of turn included.
    `parts` holds each expert's log-probability of this answer among the candidates; `score` is
    their weighted sum (weights: `Response.why.weights`).
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprob: float = 0.0
    finish: Finish = Finish.STOP
    parts: Mapping[str, float] = field(default_factory=dict)
    score: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a step took: tokens run through the model, tokens taken from a cache instead, tokens
    drawn, forward passes, and milliseconds."""

    prefilled: int = 0
    reused: int = 0
    drawn: int = 0
    passes: int = 0
    ms: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            prefilled=self.prefilled + other.prefilled,
            reused=self.reused + other.reused,
            drawn=self.drawn + other.drawn,
            passes=self.passes + other.passes,
            ms=self.ms + other.ms,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """What decided: for each expert its weight, and the remembered cases for and against."""

    weights: Mapping[str, float] = field(default_factory=dict)
    spoke_for: tuple[Recalled, ...] = ()
    spoke_against: tuple[Recalled, ...] = ()
    stopped: str = ""


# --------------------------------------------------------------------------------- feedback


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """Good (+1), bad (-1), or a reward in between."""

    response: str
    value: float
    comment: str = ""
    id: str = field(default_factory=new_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What the response should have said."""

    response: str
    text: str
    id: str = field(default_factory=new_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """The response with characters `start` to `stop` replaced by `text`."""

    response: str
    start: int
    stop: int
    text: str
    id: str = field(default_factory=new_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """`chosen` is better than `rejected` as an answer to the response's request."""

    response: str
    chosen: str
    rejected: str
    id: str = field(default_factory=new_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What the user means by this kind of request; the newest note on a pattern wins."""

    response: str
    text: str
    id: str = field(default_factory=new_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A standing instruction for a task, or for all (`ANY_TASK`); it names no response."""

    text: str
    task: str = ANY_TASK
    id: str = field(default_factory=new_id)


Feedback = Rating | Correction | Edit | Preference | Note | Rule


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Learned:
    """What one piece of feedback changed, and why. `feedback` is the id to undo it by."""

    feedback: str
    added: tuple[Record, ...] = ()
    removed: tuple[Record, ...] = ()
    reason: str = ""

    def __repr__(self) -> str:
        return f"<Learned +{len(self.added)} -{len(self.removed)}: {self.reason}>"


# ---------------------------------------------------------------------------------- journal


class EventKind(StrEnum):
    """What happened."""

    ANSWERED = "answered"
    RATING = "rating"
    CORRECTION = "correction"
    EDIT = "edit"
    PREFERENCE = "preference"
    NOTE = "note"
    RULE = "rule"
    UNDONE = "undone"
    FORGOTTEN = "forgotten"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the journal: appended once, never rewritten.

    `response` names the answer that feedback is about (for ANSWERED: itself; "" otherwise).
    `body` holds all that a fold needs, so that folding never looks anything up:

    ANSWERED    request, pattern, answer, candidates (texts), messages, model
    RATING      request, pattern, answer, value, comment
    CORRECTION  request, pattern, answer, text
    EDIT        request, pattern, answer, start, stop, text, result
    PREFERENCE  request, pattern, answer, chosen, rejected
    NOTE        request, pattern, answer, text
    RULE        text
    UNDONE      feedback
    FORGOTTEN   events (how many were erased)
    """

    kind: EventKind
    user: str
    task: str = ANY_TASK
    response: str = ""
    body: Mapping[str, Json] = field(default_factory=dict)
    id: str = field(default_factory=new_id)
    time: float = field(default_factory=time.time)
