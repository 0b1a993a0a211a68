"""What every method of the benchmark shares: one frozen model, one embedder, one token budget.

Knows how a closed set is chosen from and an open answer drawn, so that parsing is never the
contest: all methods ask the same model the same way. Refuses to know feedback and targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.oracle import Told
from benchmarks.streams import Item
from tta.decoding import load
from tta.protocols import Embedder
from tta.retrieval.pack import MAX_LISTED_ANSWERS, TURN_TOKENS
from tta.types import Choices, Cost, Message

if TYPE_CHECKING:
    from tta.decoding.hf import HFModel

Floats = NDArray[np.float64]

BUDGET = 512
"""Prompt tokens of recalled material that any method may use in the primary table."""
NEW_TOKENS = 48
TEMPERATURE = 20.0
"""Of the names' similarity, which stands for a frozen model where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a method answered.

    `shown`: how many remembered things stood in the prompt; `notes`: the clarifications among
    them; `experts`: what each expert alone would have said; `saved_ms`: time of model passes that
    were looked up, because another method had asked the very same; `receipt`: for the method.
    """

    text: str
    cost: Cost = field(default_factory=Cost)
    confidence: float | None = None
    shown: int = 0
    notes: tuple[str, ...] = ()
    experts: Mapping[str, str] = field(default_factory=dict)
    saved_ms: float = 0.0
    receipt: object = None


class Method(Protocol):
    """All that a method is. It never meets a target but in what it is told."""

    def predict(self, item: Item) -> Answer: ...

    def learn(self, item: Item, answer: Answer, told: Told) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """The frozen model's answer to one prompt; `logprobs` over a closed set, shape (answers,)."""

    text: str
    cost: Cost
    logprobs: Floats | None = None


class Bench:
    """The frozen model (None: the answers' names stand for it), the embedder and the budget."""

    def __init__(self, model: HFModel | None, embedder: Embedder, *, budget: int = BUDGET) -> None:
        self.model = model
        self.embedder = embedder
        self.budget = budget
        self._frozen: dict[tuple[str, tuple[str, ...]], Opinion] = {}
        self._names: dict[tuple[str, ...], Floats] = {}

    @classmethod
    def open(cls, model: str, embedder: Embedder, *, budget: int = BUDGET) -> Bench:
        """`model`: "none", "bundled", or an id or path; moved to an accelerator if there is one.

        Raises ModelError when it cannot be loaded.
        """
        return cls(_loaded(model), embedder, budget=budget)

    def fingerprint(self) -> str:
        return "" if self.model is None else self.model.fingerprint()

    def vector(self, text: str) -> Floats:
        """Unit vector, shape (dim,)."""
        return np.asarray(self.embedder.embed([text])[0], dtype=np.float64)

    def frozen(self, item: Item) -> tuple[Opinion, float]:
        """The opinion without any memory, and the milliseconds that looking it up saved."""
        key = (item.text, item.answers.answers if item.answers else ())
        saved = self._frozen[key].cost.ms if key in self._frozen else 0.0
        if key not in self._frozen:
            self._frozen[key] = self.ask(messages(item), item)
        return self._frozen[key], saved

    def ask(self, asked: Sequence[Message], item: Item) -> Opinion:
        """One question to the frozen model: the exact choice of a closed set, or a greedy draw."""
        if item.answers is not None:
            logprobs, cost = self._choose(asked, item, item.answers)
            return Opinion(
                text=item.answers.answers[int(np.argmax(logprobs))], cost=cost, logprobs=logprobs
            )
        assert self.model is not None, "open answers need a model: `methods.make` sees to that"
        drawn, cost = self.model.draw(
            self.model.render(asked), n=1, max_new_tokens=NEW_TOKENS, seed=0
        )
        return Opinion(text=drawn[0].text, cost=cost)

    def _choose(self, asked: Sequence[Message], item: Item, output: Choices) -> tuple[Floats, Cost]:
        if self.model is None:
            return self.names(item.text, output), Cost()
        logprobs, cost = self.model.choose(self.model.render(asked), output.answers)
        return np.asarray(logprobs, dtype=np.float64), cost

    def names(self, text: str, output: Choices) -> Floats:
        """Log-softmax of the similarity to the answers' names (or what describes them)."""
        read = tuple(output.descriptions.get(a) or a.replace("_", " ") for a in output.answers)
        if read not in self._names:
            self._names[read] = np.asarray(self.embedder.embed(read), dtype=np.float64)
        return log_softmax(TEMPERATURE * (self._names[read] @ self.vector(text)))

    def decision(self, item: Item) -> tuple[Floats, Cost]:
        """The next-token distribution where the answer begins (without a model: over the names)
        and what it cost. Shape (vocabulary,) or (answers,)."""
        if self.model is None:
            opinion, _ = self.frozen(item)
            assert opinion.logprobs is not None
            return np.exp(opinion.logprobs), Cost()
        return self._next_token(self.model, item)

    def _next_token(self, model: HFModel, item: Item) -> tuple[Floats, Cost]:
        import torch

        started = perf_counter()
        ids = model.render(messages(item)).ids
        with torch.no_grad():
            tokens = torch.tensor([ids], device=next(model.model.parameters()).device)
            logits = model.model(input_ids=tokens).logits[0, -1]
            found = torch.softmax(logits.double(), -1).cpu().numpy()
        cost = Cost(prefilled=len(ids), passes=1, ms=1000 * (perf_counter() - started))
        return found, cost

    def room(self, item: Item) -> int:
        """Tokens of recalled material for this request: the budget, or less in a small context."""
        if self.model is None:
            return self.budget
        longest = NEW_TOKENS
        if item.answers is not None:
            longest = max(self.model.count(answer) for answer in item.answers.answers)
        asked = len(self.model.render(messages(item)).ids)
        return min(self.budget, self.model.context_length - asked - longest - 2 * TURN_TOKENS)

    def count(self, *texts: str) -> int:
        """Tokens of texts that each open a turn."""
        return sum((self.model.count(t) if self.model else len(t)) + TURN_TOKENS for t in texts)


def messages(
    item: Item, *, own: str = "", shown: Sequence[tuple[str, str]] = ()
) -> tuple[Message, ...]:
    """The prompt of every method: what it says of its own, the closed set if it is short (as tta
    lists it), demonstrations as turns, the question."""
    answers = item.answers.answers if item.answers else ()
    listed = f"Answers: {', '.join(answers)}" if 0 < len(answers) <= MAX_LISTED_ANSWERS else ""
    system = "\n\n".join(part for part in (own, listed) if part)
    return (
        *([Message(role="system", content=system)] if system else []),
        *(
            Message(role=role, content=content)
            for asked, answer in shown
            for role, content in (("user", asked), ("assistant", answer))
        ),
        Message(role="user", content=item.text),
    )


def log_softmax(scores: Floats) -> Floats:
    shifted = scores - scores.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), dtype=np.float64)


def _loaded(model: str) -> HFModel | None:
    if model == "none":
        return None
    if model == "bundled":
        from tta.micro import bundled

        return load(*bundled())
    import torch

    found = load(model)
    if torch.cuda.is_available():
        found.model.to("cuda")  # type: ignore[arg-type]
    return found
