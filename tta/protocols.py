"""What the step asks of each part. Anything with these methods will do; nothing is registered.

Arrays: `FloatArray` is a numpy float array; vectors have unit length.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from tta.types import (
    Candidate,
    Cost,
    Event,
    Feedback,
    Json,
    Learned,
    Message,
    Prompt,
    Recall,
    Record,
    RecordKind,
    Request,
    Settings,
    Steps,
    Thinking,
    Weights,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]


class Embedder(Protocol):
    """Text to vectors."""

    @property
    def id(self) -> str:
        """Names the vectors: equal ids mean comparable vectors."""

    @property
    def dim(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Unit vectors, float32, shape (len(texts), dim); the same text gives the same vector."""


class Tokenizer(Protocol):
    """What packing needs to know of a tokenizer."""

    def count(self, text: str) -> int:
        """How many tokens `text` takes, special tokens not counted."""


class Watch(Protocol):
    """Looks on while samples are drawn, and says when there are enough."""

    def over(self, candidate: Candidate) -> bool:
        """The next sample, in their order, is over. Whether it was the last that is wanted."""

    def more(self, cost: Cost) -> int:
        """All that were begun are over; how many to begin next (0: enough). `cost` is of what was
        drawn last, without the prompt."""


class Model(Protocol):
    """A frozen causal language model behind its chat template."""

    @property
    def id(self) -> str: ...

    @property
    def context_length(self) -> int:
        """How many tokens prompt and answer may have together."""

    def count(self, text: str) -> int: ...

    def render(self, messages: Sequence[Message]) -> Prompt:
        """The prompt that asks for the next assistant turn."""

    def continued(self, prompt: Prompt, text: str) -> Prompt:
        """The prompt with `text` behind it, as if the model had said that."""

    def draw(
        self,
        prompt: Prompt,
        *,
        n: int,
        max_new_tokens: int,
        seed: int,
        output: object = None,
        scope: str | None = None,
        watch: Watch | None = None,
        halving: bool = False,
    ) -> tuple[tuple[Candidate, ...], Cost]:
        """`n` candidates: the first is greedy, the others sampled by (seed, sample, step).

        With `watch`, `n` is how many are begun at first; it says how it goes on, and what it does
        not want is given up and left out. `halving`: so is, at an eighth, a quarter and a half of
        `max_new_tokens`, the less confident half of the samples still running.

        With a `scope`, what was run for it before may be continued, and is never seen by others.
        """

    def stream(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int,
        seed: int,
        output: object = None,
        scope: str | None = None,
    ) -> Generator[str, None, tuple[Candidate, Cost]]:
        """The text of the first candidate in pieces, as it is drawn; returns the candidate."""

    def search(
        self,
        prompt: Prompt,
        steps: Steps,
        judge: Callable[[tuple[str, ...]], float],
        *,
        n: int,
        max_new_tokens: int,
        seed: int,
        output: object = None,
        scope: str | None = None,
    ) -> tuple[tuple[Candidate, ...], Cost, str]:
        """`n` candidates whose every step `judge` (0 to 1) accepts, and why the search ended."""

    def choose(
        self, prompt: Prompt, answers: Sequence[str], *, scope: str | None = None
    ) -> tuple[FloatArray, Cost]:
        """Log-probability (nats) of each answer after the prompt, shape (len(answers),)."""

    def forget(self, scope: str | None = None) -> None:
        """Drop what is kept of a scope's prompts; of all when None."""


class Records(Protocol):
    """The remembered records of one memory."""

    def records(
        self, *, user: str, task: str | None = None, kind: RecordKind | None = None
    ) -> Sequence[Record]:
        """Live records of one user, oldest first; of `task` and of `ANY_TASK` when one is named."""

    def nearest(
        self, vector: FloatArray, k: int, *, user: str, task: str | None, kind: RecordKind
    ) -> Sequence[tuple[Record, float]]:
        """The `k` records whose `request` is most similar, best first, with the cosine; of `task`
        and of `ANY_TASK` when one is named, else of all tasks."""

    def users(self) -> Sequence[str]:
        """Everyone of whom anything is known."""


class Library(Records, Protocol):
    """The documents that were read, as passages among the records."""

    def documents(self, user: str) -> Mapping[str, tuple[str, str]]:
        """By name (event, digest) of the last reading, the newest last; only to be read."""

    def learn(self, event: Event) -> object:
        """Keep a reading durably."""

    def passages(self, user: str, ids: Sequence[str]) -> Mapping[str, str]:
        """The texts of passages by id; "" for those that are not there."""

    def worth(self, user: str, task: str) -> Mapping[str, float]:
        """By how much feedback multiplies what a passage counts in a task, 0 to 2, by id; 1 for
        those that are not there."""

    def vectors(self, records: Sequence[Record]) -> FloatArray:
        """Unit vectors of the records' requests, shape (len(records), dim)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """That a pattern was answered in a task; what else is said of it is as in `Task`. `form` is
    None where it was not recorded."""

    pattern: str
    task: str
    bare: bool = False
    form: str | None = None
    width: int = 0


@dataclass(slots=True, kw_only=True)
class Sightings:
    """All of one user, only to be read: the newest task of each pattern, oldest pattern first; the
    distinct ones in their order; how many others there were, by whether they were bare; the names
    of tasks that are a part of others by now.

    One object as long as there are only more of them; another one after a forgetting, and where
    tasks were merged or split.
    """

    patterns: dict[str, str] = field(default_factory=dict)
    distinct: list[Sighting] = field(default_factory=list)
    repeats: dict[bool, int] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """All of `task` is of `into` since then; or, of a split, what came by one of `patterns`.

    `taught` are the feedback of those patterns; `because` is the feedback that led to it, if it was
    not said by hand.
    """

    task: str
    into: str
    patterns: frozenset[str] | None = None
    because: str = ""
    taught: set[str] = field(default_factory=set)

    def takes(self, pattern: str, feedback: str) -> bool:
        """Whether what is of `task` goes, by its pattern or by the feedback that it comes from."""
        return self.patterns is None or pattern in self.patterns or feedback in self.taught


class Seen(Protocol):
    """The kinds of requests seen so far, each with its task."""

    def sightings(self, *, user: str) -> Sightings:
        """Of one user; see there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What is known of a task from the answers that were accepted in it.

    `answers` counts them, the most frequent first; `elsewhere` is the probability (0 to 1) that the
    next right one is none of these. `form` says what the newest ones have in common ("answers": all
    are of a closed set; "words as ...": they are made of their requests' words), and `proposed` is
    the `output` that an open request of the task is answered with for that reason, or the rule that
    makes it of the request; unless `free`: then the user wants none.

    `prior`: (a, b) of the Beta distribution of how often the first sample is right, and `samples`
    how many of a typed answer are drawn at most where a call does not say. `steps`: whether the
    model thinks step by step here, with what that was worth. `experts`: whom feedback has made
    trusted, by weight, or the user's word. `settings` are all that the user said.
    """

    task: str
    cases: int = 0
    answers: Mapping[str, int] = field(default_factory=dict, hash=False)
    elsewhere: float = 1.0
    form: str = ""
    proposed: object = None
    prior: tuple[float, float] = (1.0, 1.0)
    samples: int = 1
    steps: Thinking = field(default_factory=Thinking)
    experts: Mapping[str, float] = field(default_factory=dict, hash=False)
    settings: Settings = field(default_factory=Settings, hash=False)

    @property
    def free(self) -> bool:
        """Whether the user wants open answers to be held to no form."""
        return self.settings.free


class Accepted(Protocol):
    """Records as they came and went."""

    def ledger(self, *, user: str, task: str) -> Sequence[tuple[int, Record]]:
        """(+1, record) for each case or rejection that came, (-1, record) for each that went; only
        ever appended to, and a new list after what cannot be told by appending."""


class Ledgers(Accepted, Protocol):
    """What closed-form readers learn from."""

    def vectors(self, records: Sequence[Record]) -> FloatArray:
        """Unit vectors of the records' requests, shape (len(records), dim)."""

    def users(self) -> Sequence[str]: ...


class Readers(Protocol):
    """Experts that need no language model."""

    def opinions(
        self,
        request: Request,
        task: str,
        answers: Sequence[str],
        descriptions: Mapping[str, str],
        recall: Recall,
    ) -> Mapping[str, FloatArray]:
        """Log-probabilities (nats) of a closed set of answers by expert, each of shape
        (len(answers),); "names" is among them and has no memory."""

    def vectors(self, texts: Sequence[str]) -> FloatArray:
        """Unit vectors of texts, shape (len(texts), dim): those of one meaning are near."""

    def known(self, request: Request, task: str, recall: Recall) -> Sequence[str]:
        """Open answers that were accepted for other requests and may be the answer to this one."""

    def judged(
        self, request: Request, task: str, texts: Sequence[str], recall: Recall
    ) -> Mapping[str, FloatArray]:
        """Log-probabilities (nats) of open answers by expert, each of shape (len(texts),):
        "votes" of those given word for word; "similar", how near they are to what was accepted,
        less what was refused, for similar requests; and, where the task's answers recur, the
        experts of closed sets."""


class Names(Protocol):
    """An expert that knows only what the answers are called."""

    def opinion(
        self, request: str, answers: Sequence[str], descriptions: Mapping[str, str]
    ) -> FloatArray:
        """Log-probability (nats) of each answer, shape (len(answers),)."""


class Profiled(Protocol):
    """What is known of tasks."""

    def of(self, user: str, task: str) -> Profile:
        """The profile of one user's task as it is now."""


class Weigher(Protocol):
    """What feedback does to the experts' weights."""

    def begin(self, parent: Weights | None) -> Weights:
        """The weights of a task without feedback, from those of what it is a part of."""

    def believed(self, weights: Weights, whole: Weights) -> Weights:
        """The weights to answer by, from those of a task and those of all tasks together."""

    def observe(self, weights: Weights, heard: Mapping[str, Json]) -> Weights:
        """The weights after feedback that said `heard` (an event's body holds it)."""


class Learner(Protocol):
    """What feedback goes to."""

    def learn(self, feedback: Feedback, *, user: str | None = None) -> Learned: ...
