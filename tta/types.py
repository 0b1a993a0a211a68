"""The values that flow through one step. This module imports no third party.

request -> task -> recalled -> context -> candidates -> response -> feedback -> event -> records

Values are pure: two with the same content are equal. Where they are kept, and how they are
embedded, is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import uuid4

from tta.outputs import Choices as Choices
from tta.outputs import Grammar as Grammar
from tta.outputs import Regex as Regex
from tta.outputs import Text as Text
from tta.sources import Reading as Reading
from tta.sources import Source as Source
from tta.standing import Bias as Bias
from tta.standing import Health as Health
from tta.standing import Powers as Powers
from tta.standing import Settings as Settings
from tta.standing import Standing as Standing
from tta.standing import Tally as Tally
from tta.standing import Thinking as Thinking
from tta.standing import Weights as Weights

Json = str | int | float | bool | None | Sequence["Json"] | Mapping[str, "Json"]
"""What `json.dumps` takes."""

DEFAULT_USER = "default"
"""The scope of a chat that was given no user."""

ANY_TASK = ""
"""The task of a rule or note that holds for every task of its scope."""

EVERYONE = "*"
"""The scope of all users together: it can be read (`reads=`), never written to."""


def new_id() -> str:
    """A random identifier: 16 hexadecimal digits."""
    return uuid4().hex[:16]


# --------------------------------------------------------------------------------- asking


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation. `role` is "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class UpTo:
    """`n=tta.UpTo(40)`: samples are drawn until the answer is as good as settled, `most` of them.

    `sure` (0.5 to 1): the probability from which it counts as settled that no other answer is
    given more often; at 1 drawing ends only when the samples left could not change it. `halving`:
    of a wave that runs, the less confident half is given up after an eighth, a quarter and a half
    of `max_new_tokens` (speculative rejection: Sun et al., 2024): for long answers, at the price
    of votes.
    """

    most: int
    sure: float = 0.95
    halving: bool = False


@dataclass(frozen=True, slots=True)
class Meaning:
    """`same=tta.Meaning()`: two answers are one if the vectors of their texts have a cosine of
    `least` or more."""

    least: float = 0.9


@dataclass(frozen=True, slots=True)
class Steps:
    """`verify_step=tta.Steps(check)`: an answer is a row of steps, each ended by `end`.

    `check` is given all steps so far and says how good the last one is (a bool, or 0 to 1). Without
    one memory says it: by the steps of answers that were accepted and refused for requests like
    this one. Below `least` the step is refused, and another is looked for. `rows` ways are followed
    at a time; together they draw at most `rows * max_new_tokens` tokens.
    """

    check: Callable[[Sequence[str]], bool | float] | None = None
    end: str = "\n"
    rows: int = 4
    least: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked, and in whose name.

    `user` is the scope: a part of every key, never a filter that could be left out. `reads` names
    the wider scopes that may be read besides it, nearest first.
    `output` is whatever the caller passed; only `decoding` knows what it means. `verify` says of an
    answer's value how good it is (True and False, or 0 to 1), `verify_step` of each of its steps,
    within `verify_seconds`. `same`: two answers are one if it gives the same for their values. `n`:
    so many samples; None: as many as pay, one as a rule. `think`: whether the model is to think
    step by step first; None: as was said of the task, else not.
    """

    messages: tuple[Message, ...]
    user: str = DEFAULT_USER
    reads: tuple[str, ...] = ()
    task: str | None = None
    output: object = None
    verify: Callable[[Any], bool | float] | None = None
    verify_step: Steps | None = None
    verify_seconds: float = 30.0
    same: Callable[[Any], object] | Meaning | None = None
    n: int | UpTo | None = None
    think: bool | None = None
    max_new_tokens: int | None = None
    seed: int = 0
    id: str = field(default_factory=new_id)

    @property
    def stands_alone(self) -> bool:
        """Whether the last user turn is all that is asked: "yes" means something else in another
        conversation."""
        return sum(message.role != "system" for message in self.messages) == 1

    @property
    def prompt(self) -> str:
        """The last user turn: what memory is keyed by."""
        return next(m.content for m in reversed(self.messages) if m.role == "user")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What kind of work the request is.

    `pattern`: the instruction, variable spans masked, or all of a request that is `bare` of one.
    `similarity` (cosine, -1 to 1): to the nearest task's. `posterior`: how probably it belongs to
    `name`; `evidence`: nats for the nearest task against a new one. `form` names the answers that
    are asked for, `width` counts those of a closed set, else 0.
    """

    name: str
    pattern: str = ""
    similarity: float = 1.0
    new: bool = False
    bare: bool = False
    posterior: float = 1.0
    evidence: Mapping[str, float] = field(default_factory=dict, hash=False)
    form: str = ""
    width: int = 0


# ------------------------------------------------------------------------------ remembering


class RecordKind(StrEnum):
    """What a record is, and so where it may be used."""

    CASE = "case"
    """A request and an answer that was accepted: demonstration and vote."""
    REJECTED = "rejected"
    """A request and an answer that was refused: a vote against it, or, where the right one was
    told, no more than that it is not repeated there; never shown to the model."""
    NOTE = "note"
    """What a kind of request means, keyed by its instruction pattern."""
    RULE = "rule"
    """A standing instruction."""
    PASSAGE = "passage"
    """A part of a document that was read: `answer` is the document's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One thing remembered. The text is the truth; vectors are derived from it.

    `request` is what the record is found by: the request's text for a case, the instruction
    pattern for a note, the text of a passage, empty for a rule. `answer` is the answer, the note,
    the rule, or the document that a passage is from. `source` is
    the id of the feedback that made it; `weight` is in (0, 1]; `created` in seconds since 1970.
    `instead`, of an answer of a closed set that was refused without saying what is right: how
    probable the likeliest others were, given that.
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
    instead: Mapping[str, float] = field(default_factory=dict, hash=False)


class Recalled(NamedTuple):
    """A record that bears on a request. `score` is a cosine similarity (1.0 for rules); of a
    passage also its share of the best one's rank, and what feedback said of it, are in it."""

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
    passages: tuple[Recalled, ...] = ()

    @property
    def all(self) -> tuple[Recalled, ...]:
        return (*self.rules, *self.notes, *self.cases, *self.rejected, *self.passages)


# --------------------------------------------------------------------------------- decoding


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The text the model sees and its token ids (special tokens included, each once)."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the model is shown, and what was left out for lack of room.

    `costs` tells by record id what each takes, or would have taken, of the budget in tokens.
    """

    messages: tuple[Message, ...]
    prompt: str
    tokens: int
    shown: tuple[Recalled, ...] = ()
    dropped: tuple[Recalled, ...] = ()
    costs: Mapping[str, int] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The passages that were shown, best first."""
        found = (r for r in self.shown if r.record.kind is RecordKind.PASSAGE)
        return tuple(
            Source(document=r.record.answer, text=r.record.request, score=r.score, id=r.record.id)
            for r in found
        )


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

    `logprob` is the model's log-probability (nats) of the whole answer, end of turn included (0
    for one that was remembered, `Finish.RECALLED`: it was not drawn).
    `parts` holds each expert's probability of this answer among the candidates; `score` is their
    sum weighted by `Response.why.weights`: the mixture's probability of it. `stats` are what
    decoding saw of it (self-certainty, for one).
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprob: float = 0.0
    finish: Finish = Finish.STOP
    parts: Mapping[str, float] = field(default_factory=dict)
    score: float = 0.0
    stats: Mapping[str, float] = field(default_factory=dict)


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
    """What decided: for each expert its weight (they sum to 1), and the remembered cases for and
    against. `skipped` names the experts that were not asked, since they would have cost a pass of
    the model and count for little here; `muted` is the probability that the feedback of this task
    says nothing (that much of the weight is the frozen model's).

    `stopped` says why no more was drawn. `samples` has the answer that each sample gave, in the
    order in which they were drawn (None: cut off, which is no vote), `posterior` after each of
    them the probability that the answer ahead by then is the one that most samples would give;
    both are empty for what was not drawn. `thought` are the steps that the model wrote before it
    answered."""

    weights: Mapping[str, float] = field(default_factory=dict)
    spoke_for: tuple[Recalled, ...] = ()
    spoke_against: tuple[Recalled, ...] = ()
    stopped: str = ""
    skipped: tuple[str, ...] = ()
    muted: float = 0.0
    samples: tuple[str | None, ...] = ()
    posterior: tuple[float, ...] = ()
    thought: str = ""


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
    """What one piece of feedback changed, and why. `feedback` is the id to undo it by.

    `led_to` are the tasks that were merged or split because of it, each to be undone by itself.
    """

    feedback: str
    added: tuple[Record, ...] = ()
    removed: tuple[Record, ...] = ()
    reason: str = ""
    led_to: tuple[Learned, ...] = ()

    def __repr__(self) -> str:
        reasons = "; ".join([self.reason, *(other.reason for other in self.led_to)])
        return f"<Learned +{len(self.added)} -{len(self.removed)}: {reasons}>"


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
    READ = "read"
    PROMOTED = "promoted"
    SETTING = "freed"
    """Called in the journal what the first of them did."""
    MERGED = "merged"
    SPLIT = "split"
    UNDONE = "undone"
    FORGOTTEN = "forgotten"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the journal: appended once, never rewritten.

    `response` names the answer that feedback is about (for ANSWERED: itself; "" otherwise).
    `body` holds all that a fold needs, so that folding never looks anything up:

    ANSWERED    request, pattern, answer, candidates (texts), messages, model, opinions, margin,
                bare, form, width, sources (ids of the passages shown), named (whether the caller
                said which task it is)
    RATING      request, pattern, answer, value, comment
    CORRECTION  request, pattern, answer, text
    EDIT        request, pattern, answer, start, stop, text, result
    PREFERENCE  request, pattern, answer, chosen, rejected
    NOTE        request, pattern, answer, text
    RULE        text
    READ        document, digest, passages (texts; none and no digest: the document is gone)
    PROMOTED    request, text, users (who agree on it; the event is of the scope that learns it)
    SETTING     one or more of `Settings`: free, samples, steps, experts
    MERGED      into (the task that `task` is a part of from then on), because
    SPLIT       into (the task of its own that `patterns` of `task` are from then on), patterns,
                taught (the feedback on them so far), because
    UNDONE      feedback, tasks (of a merge or split: which the user says are what they were)
    FORGOTTEN   events (how many were erased)

    `opinions` are what each expert thought of the likeliest answers; feedback carries as `heard`
    what it says of each, as `instead` what else could have been right, and as `cited` how right
    (1 to -1) it proves each passage. `because` is the feedback that led to it, if any. What is
    inferred is recorded under the name that its pattern came with first, so that a merge or split
    taken back holds for it too; `Response.task` has the name by then.
    """

    kind: EventKind
    user: str
    task: str = ANY_TASK
    response: str = ""
    body: Mapping[str, Json] = field(default_factory=dict)
    id: str = field(default_factory=new_id)
    time: float = field(default_factory=time.time)
