"""What the step asks of each part. Anything with these methods will do; nothing is registered.

Arrays: `FloatArray` is a numpy float array; vectors have unit length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from tta.types import (
    Candidate,
    Cost,
    Feedback,
    Learned,
    Message,
    Prompt,
    Recalled,
    Record,
    RecordKind,
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

    def patterns(self, *, user: str) -> dict[str, str]:
        """The newest task of each pattern, oldest pattern first; only to be read.

        One object as long as patterns only come; another one after a forgetting.
        """


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
