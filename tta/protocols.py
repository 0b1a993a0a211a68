"""What the step asks of each part. Anything with these methods will do; nothing is registered.

Arrays: `FloatArray` is a numpy float array; vectors have unit length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from tta.types import (
    Candidate,
    Cost,
    Event,
    Feedback,
    Learned,
    Message,
    Prompt,
    Recall,
    Recalled,
    Record,
    RecordKind,
    Request,
    Task,
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

    def draw(
        self, prompt: Prompt, *, n: int, max_new_tokens: int, seed: int, output: object = None
    ) -> tuple[tuple[Candidate, ...], Cost]:
        """`n` candidates: the first is greedy, the others sampled by (seed, sample, step)."""

    def choose(self, prompt: Prompt, answers: Sequence[str]) -> tuple[FloatArray, Cost]:
        """Log-probability (nats) of each answer after the prompt, shape (len(answers),)."""


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


class Patterns(Protocol):
    """The instruction patterns seen so far, each with its task."""

    def patterns(self, *, user: str) -> Sequence[tuple[str, str]]:
        """(pattern, task), oldest first."""


class TaskInferer(Protocol):
    def infer(self, request: Request) -> Task: ...


class Recaller(Protocol):
    def recall(self, request: Request, task: Task) -> Recall: ...


class Votes(Protocol):
    """An expert over remembered cases."""

    def opinion(
        self,
        answers: Sequence[str],
        *,
        cases: Sequence[Recalled],
        rejected: Sequence[Recalled],
        prior: FloatArray | None,
    ) -> FloatArray:
        """Log-probability (nats) of each answer, shape (len(answers),); sums to 1 in exp.

        `prior`: log-probabilities to start from, uniform when None.
        """


class Names(Protocol):
    """An expert that knows only what the answers are called."""

    def opinion(
        self, answers: Sequence[str], *, request: str, descriptions: Mapping[str, str] | None
    ) -> FloatArray:
        """Log-probability (nats) of each answer, shape (len(answers),)."""


class Learner(Protocol):
    """What feedback goes to."""

    def learn(self, feedback: Feedback, *, user: str | None = None) -> Learned: ...


class Journal(Protocol):
    """Append-only events."""

    def append(self, event: Event) -> bool:
        """Write, feedback durably; False if this very event was there already."""

    def since(self, seq: int, *, user: str | None = None) -> Iterator[tuple[int, Event]]:
        """(sequence number, event) after `seq`, in order."""

    def get(self, event_id: str) -> Event | None: ...


class Index(Protocol):
    """Vectors by id within one user's collection; all of it can be rebuilt from the journal."""

    def put(self, user: str, ids: Sequence[str], vectors: FloatArray) -> None: ...

    def known(self, user: str) -> Sequence[str]:
        """The ids held for a user."""

    def search(
        self, user: str, vector: FloatArray, k: int, *, among: Sequence[str] | None = None
    ) -> Sequence[tuple[str, float]]:
        """(id, cosine), best first; only `among` when given."""

    def remove(self, user: str, ids: Sequence[str]) -> None: ...

    def drop(self, user: str) -> None:
        """Erase the user's collection, vectors included."""

    def close(self) -> None: ...
