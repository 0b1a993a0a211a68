"""Rows of several callers, each in a thread of its own, drawn in common passes.

Knows rows and who waits for which. Refuses to know text, prompts and what callers do with what
they get. No thread belongs to it: whoever waits for rows of its own advances everyone's, and hands
that on when it has them (flat combining: Hendler et al., 2010). A caller that leaves takes its rows
along; what goes wrong with one caller's rows is raised there and nowhere else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tta.decoding import engine
from tta.decoding.engine import Fork, Prefix, Row, Rules
from tta.errors import UnsupportedModel

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from tta.decoding.hf import HFModel
    from tta.decoding.ragged import Lanes
    from tta.protocols import FloatArray
    from tta.types import Candidate, Cost, Message, Prompt, Steps

T = TypeVar("T")
MOST_ROWS = 64
"""Rows in one pass; more callers wait until some are over."""


MOST_TOKENS = 4096
"""Tokens of prompts in one pass."""


class Withdrawn(Exception):
    """The caller no longer waits. Raised in its own thread, and not for anyone to see."""


class Ticket:
    """One caller. It may give up at any time, from any thread."""

    def __init__(self, batch: Batch | None = None) -> None:
        self._batch = batch
        self.given_up = False

    def give_up(self) -> None:
        self.given_up = True
        if self._batch is not None:
            self._batch.wake()

    def check(self) -> None:
        """Raises Withdrawn if the caller has given up."""
        if self.given_up:
            raise Withdrawn


@dataclass(slots=True, eq=False)
class _Group:
    """Rows that are drawn by the same rules for the same caller."""

    ticket: Ticket
    rows: list[Row]
    rules: Rules
    prefix: Prefix | None
    """Until its rows are run with the others."""
    passes: int = 0
    news: bool = False
    """Some are over, or something went wrong, since the caller last looked."""
    error: Exception | None = None
    left: bool = False

    @property
    def live(self) -> list[Row]:
        return [] if self.left else [row for row in self.rows if row.finish is None]


@dataclass(slots=True, eq=False)
class _Ask:
    """A prompt to be run, and what it came to."""

    ids: Sequence[int]
    found: Prefix | None = None


def _company(ask: _Ask, others: Sequence[_Ask]) -> list[_Ask]:
    """Those that are run along: while less than half of it is padding, and it is not too much."""
    found: list[_Ask] = []
    for other in list(others):
        lengths = [len(a.ids) for a in (ask, *found, other)]
        padded = max(lengths) * len(lengths)
        if padded <= min(MOST_TOKENS, 2 * sum(lengths)):
            found.append(other)
    return found


class Batch:
    """All rows of one model that are drawn at present."""

    def __init__(self, together: Callable[[], bool]) -> None:
        """`together`: whether rows of different lengths can be run in one pass (`Plan.ragged`)."""
        self._together = together
        self._turn = threading.Condition()
        self._led = False
        self._filling = threading.Lock()
        self._prompts: list[_Ask] = []
        self._waiting: list[_Group] = []
        self._running: list[_Group] = []
        # Only whoever leads touches these.
        self._lanes: Lanes | None = None
        self._live: list[tuple[Row, _Group]] = []

    def __len__(self) -> int:
        """How many callers have rows here."""
        return len(self._waiting) + len(self._running)

    def wake(self) -> None:
        with self._turn:
            self._turn.notify_all()

    def steps(self, ticket: Ticket) -> engine.Steps:
        """`engine.steps` for one caller, in company."""

        def steps(
            prefix: Prefix, rows: Sequence[Row], rules: Rules, how: Fork = Fork.FORKED
        ) -> Generator[int]:
            ticket.check()
            if how is Fork.SHARED:  # many rows of a long prompt: they are company enough
                return _alone(ticket, engine.steps(prefix, rows, rules, how))
            return self._drawn(ticket, prefix, list(rows), rules)

        return steps

    def run(self, ticket: Ticket, model: PreTrainedModel, ids: Sequence[int]) -> Prefix:
        """One caller's prompt. Whose turn it is runs those of all who wait by then."""
        ticket.check()
        ask = _Ask(ids)
        self._prompts.append(ask)
        with self._filling:
            if ask.found is None:
                self._fill(model, ask)
        ticket.check()
        assert ask.found is not None  # or it would have been raised
        return ask.found

    def _fill(self, model: PreTrainedModel, ask: _Ask) -> None:
        from tta.decoding import padded

        self._prompts.remove(ask)
        with_it = _company(ask, self._prompts)
        try:
            found = padded.prefixes(model, [a.ids for a in (ask, *with_it)])
        except Exception:  # of all together: each by itself, so that it is raised where it belongs
            found, with_it = [Prefix(model, ask.ids)], []
        for one, prefix in zip((ask, *with_it), found, strict=True):
            one.found = prefix
        for one in with_it:
            self._prompts.remove(one)

    def _drawn(
        self, ticket: Ticket, prefix: Prefix, rows: list[Row], rules: Rules
    ) -> Generator[int]:
        engine.begin(prefix, rows, rules)
        yield 0
        group = _Group(ticket, rows, rules, prefix)
        if not group.live:
            return
        with self._turn:
            self._waiting.append(group)
        try:
            while group.live:
                self._advance(group)
                ticket.check()
                if group.error is not None:
                    raise group.error
                yield group.passes
        finally:
            self._leave(group)

    def _advance(self, group: _Group) -> None:
        """Return when there is something to tell the caller of `group`."""

        def told() -> bool:
            return group.news or group.ticket.given_up

        with self._turn:
            self._turn.wait_for(lambda: told() or not self._led)
            leads = not told()
            self._led = self._led or leads
            group.news = False
        if not leads:
            return
        try:
            while not told():
                self._step()
        finally:
            with self._turn:
                self._led = False
                group.news = False
                self._prune()
                self._turn.notify_all()

    def _leave(self, group: _Group) -> None:
        with self._turn:
            group.left = True
            for groups in (self._waiting, self._running):
                if group in groups:
                    groups.remove(group)
            if not self._led:
                self._prune()

    # -------------------------------------------------------------------- what the leader does

    def _step(self) -> None:
        """One token for every row."""
        try:
            self._admit()
            self._prune()
            if self._lanes is None:
                return
            logits = self._lanes.forward([row.ids[-1] for row, _ in self._live])
            for group in list(self._running):
                group.passes += 1
            self._settle(logits)
        except Exception as error:  # of all rows together: nobody can be told from the others
            for group in list(self._running):
                group.error, group.news = error, True
            self._live, self._lanes = [], None
        self._prune()
        with self._turn:
            if any(group.news for group in list(self._running)):
                self._turn.notify_all()

    def _admit(self) -> None:
        from tta.decoding import ragged

        with self._turn:
            room = MOST_ROWS - len(self._live)
            come: list[_Group] = []
            for group in list(self._waiting):
                if (come or self._live) and len(group.live) > room:
                    break
                room -= len(group.live)
                self._waiting.remove(group)
                come.append(group)
            self._running += come
        for group in come:
            rows = group.live
            if not rows or group.prefix is None:
                continue
            more = ragged.lanes(group.prefix, together=self._together())
            more.keep([0] * len(rows))
            if self._lanes is None:
                self._lanes = more
            else:
                self._lanes.join(more)
            self._live += [(row, group) for row in rows]
            group.prefix = None

    def _prune(self) -> None:
        """Rows that are over, and those whose caller has left, leave."""
        going = [
            i
            for i, (row, group) in enumerate(self._live)
            if row.finish is None and not (group.left or group.error or group.ticket.given_up)
        ]
        if len(going) == len(self._live):
            return
        self._live = [self._live[i] for i in going]
        if not going or self._lanes is None:
            self._lanes = None
        else:
            self._lanes.keep(going)

    def _settle(self, logits: torch.Tensor) -> None:
        """Each row's next token; in one go, since the vocabulary is read for all at once."""
        for i, (row, group) in enumerate(self._live):
            if group.rules.heard is not None:
                group.rules.heard([row], logits[i : i + 1])
        allowed = [_charged(group, row.allowed, logits.shape[-1]) for row, group in self._live]
        rows, rules = [row for row, _ in self._live], self._live[0][1].rules
        try:
            taken: list[Any] = engine.sampled(rows, logits, allowed, rules)
        except UnsupportedModel:  # some are not numbers: whose?
            taken = [
                _charged(group, engine.sampled, [row], logits[i : i + 1], [allowed[i]], rules)
                for i, (row, group) in enumerate(self._live)
            ]
            taken = [found[0] if found else None for found in taken]
        for group in {id(group): group for _, group in self._live}.values():
            own = [i for i, (_, owner) in enumerate(self._live) if owner is group]
            mine, tokens = [rows[i] for i in own], [taken[i] for i in own]
            _charged(group, engine.settle, mine, tokens, group.rules)
            group.news |= any(row.finish is not None for row in mine)


def _charged(group: _Group, work: Callable[..., T], *given: Any) -> T | None:  # noqa: ANN401
    """What goes wrong here is for one caller, who hears of it: not for the one who leads."""
    if group.error is not None:
        return None
    try:
        return work(*given)
    except Exception as error:
        group.error, group.news = error, True
        return None


def _alone(ticket: Ticket, steps: Generator[int]) -> Generator[int]:
    for passes in steps:
        ticket.check()
        yield passes


class Lock(Protocol):
    """What a step holds while it reads and writes the memory."""

    def acquire(self) -> bool: ...
    def release(self) -> None: ...
    def __enter__(self) -> bool: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...


class Joined:
    """A model for one caller: rows are drawn with others', who meanwhile get the `lock` that the
    caller's step holds, once."""

    def __init__(self, model: HFModel, batch: Batch, ticket: Ticket, lock: Lock) -> None:
        self._model = model.stepping(batch.steps(ticket), partial(batch.run, ticket), ticket.check)
        self._ticket, self._lock = ticket, lock

    @property
    def id(self) -> str:
        return self._model.id

    @property
    def context_length(self) -> int:
        return self._model.context_length

    def count(self, text: str) -> int:
        return self._model.count(text)

    def render(self, messages: Sequence[Message]) -> Prompt:
        return self._model.render(messages)

    def continued(self, prompt: Prompt, text: str) -> Prompt:
        return self._model.continued(prompt, text)

    def draw(self, prompt: Prompt, **given: Any) -> tuple[tuple[Candidate, ...], Cost]:  # noqa: ANN401
        with self._unlocked():
            return self._model.draw(prompt, **given)

    def stream(self, prompt: Prompt, **given: Any) -> Generator[str, None, tuple[Candidate, Cost]]:  # noqa: ANN401
        return self._model.stream(prompt, **given)

    def search(
        self,
        prompt: Prompt,
        steps: Steps,
        judge: Callable[[tuple[str, ...]], float],
        **given: Any,  # noqa: ANN401 - as the model has them
    ) -> tuple[tuple[Candidate, ...], Cost, str]:
        with self._unlocked():
            return self._model.search(prompt, steps, judge, **given)

    def choose(
        self, prompt: Prompt, answers: Sequence[str], *, scope: str | None = None
    ) -> tuple[FloatArray, Cost]:
        with self._unlocked():
            return self._model.choose(prompt, answers, scope=scope)

    def forget(self, scope: str | None = None) -> None:
        self._model.forget(scope)

    @contextmanager
    def _unlocked(self) -> Iterator[None]:
        self._ticket.check()
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()
        self._ticket.check()
