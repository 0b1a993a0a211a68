"""One prefill, many rows: forward passes over a frozen model and the loop that draws from them.

Knows token ids, logits and caches. Refuses to know text, prompts and what a constraint means:
those come in as callables. Nothing here changes the model: the cache is ours, random numbers are
ours, and no gradient is recorded.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import numpy as np

from tta.decoding import sample
from tta.decoding.sample import Sampling
from tta.decoding.score import Stats
from tta.errors import UnsupportedModel
from tta.types import Finish

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from transformers import Cache, PreTrainedModel

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]


class Matcher(Protocol):
    """Which tokens may come next in one row."""

    @property
    def complete(self) -> bool:
        """Nothing but the end of the turn can follow."""

    def allowed(self) -> Bools:
        """Shape (V,)."""

    def take(self, token: int) -> None: ...

    def copied(self) -> Matcher:
        """One for a row that goes on from here in another way."""

    def forced(self) -> Sequence[int]:
        """The tokens that must come next, as the tokenizer would write them; often none."""


class Fork(StrEnum):
    """How rows continue a prompt. The numbers are the same, time and memory are not."""

    SHARED = "shared"
    """Keys and values of the prompt are kept once; windows and other states are copied."""
    FORKED = "forked"
    """Each row has a copy of all."""
    RECOMPUTED = "recomputed"
    """Nothing is kept: the whole sequence is run at each step."""


class Prefix:
    """A prompt that was run through the model once. Forking copies; the prefix stays as it was.

    `start` is a prefix of this prompt that was run before: only what follows it is run now;
    `grouped`: without copying its keys for every head (see `Plan.grouped`).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        ids: Sequence[int],
        *,
        start: Prefix | None = None,
        grouped: bool = False,
    ) -> None:
        import torch

        check_evaluating(model)
        self.model = model
        self.ids = torch.tensor([list(ids)], dtype=torch.long, device=device_of(model))
        if start is None or start.cache is None:
            out = forward(model, self.ids, last=True)
            held = getattr(out, "past_key_values", None)
        else:
            held = start.continued(grouped=grouped)
            out = forward(model, self.ids[:, len(start) :], cache=held, last=True)
        self.logits: torch.Tensor = out.logits[:, -1]
        """Shape (1, V)."""
        self.cache: Cache | None = _kept(held, start) if _forkable(held) else None

    @classmethod
    def of(
        cls, model: PreTrainedModel, ids: Sequence[int], logits: torch.Tensor, cache: Cache
    ) -> Prefix:
        """One that was run with others (`padded`)."""
        import torch

        prefix = cls.__new__(cls)
        prefix.model, prefix.logits, prefix.cache = model, logits, cache
        prefix.ids = torch.tensor([list(ids)], dtype=torch.long, device=logits.device)
        return prefix

    def __len__(self) -> int:
        return self.ids.shape[1]

    def continued(self, *, grouped: bool = False) -> Cache:
        """A cache of one row that may be continued while this one stays as it is; if `grouped`,
        by one pass."""
        from tta.decoding import attention, layers

        assert self.cache is not None
        return (attention.grouped if grouped else layers.continued)(self.cache)

    def fork(self, n: int, how: Fork = Fork.FORKED) -> Rows:
        """`n` rows that continue this prefix."""
        cache = None
        if self.cache is not None and how is not Fork.RECOMPUTED:
            from tta.decoding import attention, layers

            make = attention.shared if how is Fork.SHARED else layers.forked
            cache = make(self.cache, n)
        return Rows(self.model, self.ids.expand(n, -1), cache)


class Rows:
    """Sequences that continue a prefix, in one batch; a row is known by its place in it.

    Models whose cache cannot be forked (or that have none) are run over the whole sequence again
    at each step: slower, the same numbers.
    """

    def __init__(self, model: PreTrainedModel, ids: torch.Tensor, cache: Cache | None) -> None:
        self._model = model
        self._ids: torch.Tensor | None = ids if cache is None else None
        self._device = ids.device
        self.cache = cache

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append tokens (N, T); the logits that follow each of them, shape (N, T, V)."""
        import torch

        tokens = tokens.to(self._device)
        if self._ids is None:
            logits: torch.Tensor = forward(self._model, tokens, cache=self.cache).logits
            return logits
        self._ids = torch.cat([self._ids, tokens], dim=1)
        logits = forward(self._model, self._ids, use_cache=False).logits
        return logits[:, -tokens.shape[1] :]

    def keep(self, index: Sequence[int]) -> None:
        """Let row i be what row `index[i]` was; rows not named are dropped."""
        import torch

        rows = torch.tensor(list(index), dtype=torch.long, device=self._device)
        if self._ids is not None:
            self._ids = self._ids.index_select(0, rows)
        if self.cache is not None:
            self.cache.reorder_cache(rows)  # type: ignore[arg-type]

    def copied(self) -> Rows:
        """The same rows once more: what is done to them leaves these as they are."""
        from tta.decoding import layers

        twin = copy.copy(self)  # ids are only ever replaced
        if self.cache is not None:
            twin.cache = layers.continued(self.cache)
        return twin


def forward(
    model: PreTrainedModel,
    ids: torch.Tensor,
    *,
    cache: Cache | None = None,
    use_cache: bool = True,
    last: bool = False,
    **more: object,
) -> Any:  # noqa: ANN401 - each architecture has its own output class
    """No gradients, and not inference mode: a tensor that a model keeps of it (a rotary table,
    say) would break the user's own training later. `last`: the logits of the last token only."""
    import torch

    if cache is not None:
        more["past_key_values"] = cache
    if last and "logits_to_keep" in accepted(model):
        more["logits_to_keep"] = 1
    with torch.no_grad():
        return model(input_ids=ids, use_cache=use_cache, return_dict=True, **more)


def accepted(model: PreTrainedModel) -> frozenset[str]:
    """The names of what its forward takes."""
    return _parameters(type(model).forward)


@lru_cache(maxsize=64)
def _parameters(function: Callable[..., object]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def device_of(model: PreTrainedModel) -> torch.device:
    """Where token ids have to be."""
    weight: torch.Tensor = model.get_input_embeddings().weight  # type: ignore[assignment]
    return model.device if weight.is_meta else weight.device


def check_evaluating(model: PreTrainedModel) -> None:
    """`UnsupportedModel`: dropout could be active, and switching it off would change the model."""
    if any(module.training for module in model.modules()):
        raise UnsupportedModel(
            "The model is in training mode, so its answers are random",
            value=type(model).__name__,
            hint="Call model.eval() first; tta never changes a model by itself",
        )


def _kept(cache: Cache, start: Prefix | None) -> Cache:
    from tta.decoding.layers import kept

    return kept(cache, None if start is None else start.cache)


def _forkable(cache: object) -> TypeGuard[Cache]:
    from transformers import Cache

    return isinstance(cache, Cache) and bool(cache.layers)


# ------------------------------------------------------------------------------------ drawing


@dataclass(slots=True, kw_only=True)
class Row:
    """One sequence being drawn. `logprob` (nats) is of the raw logits, end of turn included."""

    uniforms: Floats | None
    """Shape (limit,): the random number of each step; None in the greedy row."""
    matcher: Matcher | None = None
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    finish: Finish | None = None
    stats: Stats = field(default_factory=Stats)
    rejected: bool = False
    """It was stopped from outside: no answer, and no vote."""
    forced: list[int] = field(default_factory=list)
    """What comes next whatever the model says, so that it can be run in one pass."""

    @property
    def random(self) -> float | None:
        """The random number of the next token."""
        return None if self.uniforms is None else float(self.uniforms[len(self.ids)])

    def allowed(self, width: int) -> Bools | None:
        """Shape (width,); None when anything is."""
        if not self.forced:
            return None if self.matcher is None else self.matcher.allowed()
        only = np.zeros(width, dtype=np.bool_)
        only[self.forced[0]] = True
        return only

    def copied(self, uniforms: Floats | None = None) -> Row:
        """A row that goes on from here with other random numbers."""
        return replace(
            self,
            uniforms=uniforms,
            matcher=None if self.matcher is None else self.matcher.copied(),
            ids=list(self.ids),
            stats=replace(self.stats, confidences=list(self.stats.confidences)),
            forced=list(self.forced),
        )

    def take(self, token: int) -> None:
        self.ids.append(token)
        if self.matcher is None:
            return
        self.matcher.take(token)
        # A row always follows what is forced, whatever others do: it must not depend on them.
        self.forced = self.forced[1:] or list(self.matcher.forced())


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When a row is over: an id of `ends`, `limit` tokens, `stops(ids)`, or `reject(rows)`: the
    indices of those among the live rows that are not worth going on with."""

    ends: tuple[int, ...]
    limit: int
    stops: Callable[[Sequence[int]], bool] | None = None
    reject: Callable[[Sequence[Row]], Sequence[int]] | None = None
    heard: Callable[[Sequence[Row], torch.Tensor], None] | None = None
    """Is told of each row's logits (N, V) before it takes the next token."""
    sampling: Sampling = field(default_factory=Sampling)
    vocabulary: int | None = None
    """How many of the logits' columns the tokenizer knows; all of them when None."""


def draw(prefix: Prefix, rows: Sequence[Row], rules: Rules, how: Fork = Fork.FORKED) -> int:
    """Draw every row to its end, in place; returns how many forward passes were run."""
    passes = 0
    for passes in steps(prefix, rows, rules, how):  # noqa: B007 - the last is the answer
        pass
    return passes


def steps(
    prefix: Prefix, rows: Sequence[Row], rules: Rules, how: Fork = Fork.FORKED
) -> Generator[int]:
    """`draw` step by step: the passes so far, whenever rows have got their next tokens. All that
    it holds is let go of when it is closed.

    A row that is over leaves at once: its cache, matcher, random numbers and statistics go with
    it by one index.
    """
    import torch

    live = list(rows)
    begin(prefix, live, rules)
    state: Rows | None = None
    passes = 0
    while True:
        yield passes
        going = _places([row.finish is None for row in live])
        if not going:
            return
        if state is None:
            state = prefix.fork(len(going), how)
        elif len(going) < len(live):
            state.keep(going)
        live = [live[i] for i in going]
        ahead = 0 if how is Fork.SHARED else _ahead(live, rules)
        logits = state.forward(torch.tensor([[row.ids[-1], *row.forced[:ahead]] for row in live]))
        for place in range(logits.shape[1]):
            advance_all(live, logits[:, place], rules)
        passes += 1


def begin(prefix: Prefix, rows: Sequence[Row], rules: Rules) -> None:
    """Give rows their first tokens."""
    prepare(rows)
    advance_all(rows, prefix.logits.expand(len(rows), -1), rules)


def prepare(rows: Sequence[Row]) -> None:
    """Before the first token: what a constraint forces from the start."""
    for row in rows:
        row.forced = list(row.matcher.forced()) if row.matcher is not None else []


Steps = Callable[[Prefix, Sequence[Row], Rules, Fork], Generator[int]]
"""What `steps` is, or another that does the same."""


def _places(going: Sequence[bool]) -> list[int]:
    """Which rows stand where once the others have left: the last fill the gaps, so few move."""
    left = sum(going)
    last = iter([i for i in range(left, len(going)) if going[i]])
    return [i if going[i] else next(last) for i in range(left)]


def _ahead(live: Sequence[Row], rules: Rules) -> int:
    """How many tokens every row is known to take next, none of which can end it."""
    if rules.reject is not None or not rules.ends:
        return 0
    return min(min(len(row.forced), rules.limit - len(row.ids) - 1) for row in live)


def advance_all(live: Sequence[Row], logits: torch.Tensor, rules: Rules) -> None:
    """The next token of each row; `logits` (N, V)."""
    if rules.heard is not None:
        rules.heard(live, logits)
    allowed = [row.allowed(logits.shape[-1]) for row in live]
    settle(live, sampled(live, logits, allowed, rules), rules)


def sampled(
    rows: Sequence[Row], logits: torch.Tensor, allowed: Sequence[Bools | None], rules: Rules
) -> list[sample.Step]:
    """The next token of each row; `logits` (N, V)."""
    return sample.step(
        logits,
        [row.random for row in rows],
        sampling=rules.sampling,
        ends=rules.ends,
        allowed=allowed,
        vocabulary=rules.vocabulary,
    )


def settle(live: Sequence[Row], taken: Sequence[sample.Step], rules: Rules) -> None:
    """Give rows that are drawn together their next tokens, and let go of those rejected."""
    for row, step in zip(live, taken, strict=True):
        advance(row, step, rules)
    if rules.reject is not None:
        going = [row for row in live if row.finish is None]
        for i in rules.reject(going):
            going[i].rejected, going[i].finish = True, Finish.LENGTH


def advance(row: Row, taken: sample.Step, rules: Rules) -> None:
    """Give `row` its next token, or its end."""
    row.stats.add(taken.certainty, taken.confidence, taken.mask_mass)
    if taken.token in rules.ends:
        row.logprob += taken.end_logprob
        row.finish = Finish.STOP
        return
    row.take(taken.token)
    row.logprob += taken.logprob
    full = len(row.ids) >= rules.limit
    if row.matcher is not None:
        # A complete answer still pays for its end of turn, unless it has none or no room for it.
        over = row.matcher.complete and (full or not rules.ends)
    else:
        over = rules.stops is not None and rules.stops(row.ids)
    if over or full:
        row.finish = Finish.STOP if over else Finish.LENGTH
