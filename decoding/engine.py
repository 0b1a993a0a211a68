"""One prefill, many rows: forward passes over a frozen model and the loop that draws from them.

Knows token ids, logits and caches. Refuses to know text, prompts and what a constraint means:
those come in as callables. Nothing here changes the model: the cache is ours, random numbers are
ours, and no gradient is recorded.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tta.errors import UnsupportedModel
from tta.types import Finish

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from transformers import Cache, PreTrainedModel

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

TEMPERATURE = 1.0
TOP_P = 0.95
"""Sampled rows draw from the smallest set of tokens that holds this much probability
(Holtzman et al., 2020), at `TEMPERATURE`."""


class Matcher(Protocol):
    """Which tokens may come next in one row."""

    @property
    def complete(self) -> bool:
        """Nothing but the end of the turn can follow."""

    def allowed(self) -> Bools:
        """Shape (V,)."""

    def take(self, token: int) -> None: ...


class Prefix:
    """A prompt that was run through the model once. Forking copies; the prefix stays as it was."""

    def __init__(self, model: PreTrainedModel, ids: Sequence[int]) -> None:
        import torch

        check_evaluating(model)
        self.model = model
        self.ids = torch.tensor([list(ids)], dtype=torch.long, device=device_of(model))
        out = _forward(model, self.ids, cache=None, last=True)
        self.logits: torch.Tensor = out.logits[:, -1]
        """Shape (1, V)."""
        cache = getattr(out, "past_key_values", None)
        self._cache: Cache | None = cache if _forkable(cache) else None

    def fork(self, n: int) -> Rows:
        """`n` rows that continue this prefix."""
        rows = Rows(self.model, self.ids, copy.deepcopy(self._cache))
        rows.keep([0] * n)
        return rows


class Rows:
    """Sequences that continue a prefix, in one batch; a row is known by its place in it.

    Models whose cache cannot be forked (or that have none) are run over the whole sequence again
    at each step: slower, the same numbers.
    """

    def __init__(self, model: PreTrainedModel, ids: torch.Tensor, cache: Cache | None) -> None:
        self._model = model
        self._ids = ids
        self._cache = cache

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append tokens (N, T); the logits that follow each of them, shape (N, T, V)."""
        import torch

        tokens = tokens.to(self._ids.device)
        self._ids = torch.cat([self._ids, tokens], dim=1)
        if self._cache is None:
            logits = _forward(self._model, self._ids, cache=None, use_cache=False).logits
        else:
            logits = _forward(self._model, tokens, cache=self._cache).logits
        kept: torch.Tensor = logits[:, -tokens.shape[1] :]
        return kept

    def keep(self, index: Sequence[int]) -> None:
        """Let row i be what row `index[i]` was; rows not named are dropped."""
        import torch

        rows = torch.tensor(list(index), dtype=torch.long, device=self._ids.device)
        self._ids = self._ids.index_select(0, rows)
        if self._cache is not None:
            # The one operation that every layer type has, short convolutions included.
            self._cache.reorder_cache(rows)  # type: ignore[arg-type]


def _forward(
    model: PreTrainedModel,
    ids: torch.Tensor,
    *,
    cache: Cache | None,
    use_cache: bool = True,
    last: bool = False,
) -> Any:  # noqa: ANN401 - each architecture has its own output class
    """No gradients, and not inference mode: a tensor that a model keeps of it (a rotary table,
    say) would break the user's own training later."""
    import torch

    more: dict[str, Any] = {"past_key_values": cache} if cache is not None else {}
    if last and "logits_to_keep" in inspect.signature(model.forward).parameters:
        more["logits_to_keep"] = 1
    with torch.no_grad():
        return model(input_ids=ids, use_cache=use_cache, return_dict=True, **more)


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


def _forkable(cache: object) -> bool:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When a row is over: an id of `ends`, `limit` tokens, or `stops(ids)`."""

    ends: tuple[int, ...]
    limit: int
    stops: Callable[[Sequence[int]], bool] | None = None


def uniforms(seed: int, sample: int, steps: int) -> Floats:
    """The random numbers of one sample, shape (steps,): they depend on nothing else.

    Counter-based (Philox; Salmon et al., 2011), so sample i is the same whatever n is.
    """
    mask = 2**64 - 1
    key = np.array([seed & mask, sample & mask], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(steps)


def draw(prefix: Prefix, rows: Sequence[Row], rules: Rules) -> int:
    """Draw every row to its end, in place; returns how many forward passes were run."""
    import torch

    live = list(rows)
    state: Rows | None = None
    logits = prefix.logits.expand(len(live), -1)
    passes = 0
    while True:
        for row, logp in zip(live, log_probabilities(logits), strict=True):
            advance(row, logp, rules)
        going = [i for i, row in enumerate(live) if row.finish is None]
        if not going:
            return passes
        if state is None:
            state = prefix.fork(len(live))
        if len(going) < len(live):
            state.keep(going)
            live = [live[i] for i in going]
        logits = state.forward(torch.tensor([[row.ids[-1]] for row in live]))[:, -1]
        passes += 1


def advance(row: Row, logp: Floats, rules: Rules) -> None:
    """Give `row` its next token, or its end. `logp` has shape (V,)."""
    token = _pick(row, logp)
    if token in rules.ends:
        row.logprob += end_logprob(logp, rules.ends)
        row.finish = Finish.STOP
        return
    row.ids.append(token)
    row.logprob += float(logp[token])
    if row.matcher is not None:
        row.matcher.take(token)
    full = len(row.ids) >= rules.limit
    if row.matcher is not None:
        # A complete answer still pays for its end of turn, unless it has none or no room for it.
        over = row.matcher.complete and (full or not rules.ends)
    else:
        over = rules.stops is not None and rules.stops(row.ids)
    if over or full:
        row.finish = Finish.STOP if over else Finish.LENGTH


def _pick(row: Row, logp: Floats) -> int:
    if row.matcher is not None:
        logp = np.where(row.matcher.allowed(), logp, -np.inf)
    if row.uniforms is None:
        return int(logp.argmax())
    return nucleus(logp, float(row.uniforms[len(row.ids)]))


def nucleus(logp: Floats, u: float) -> int:
    """The token at `u` in [0, 1) of the distribution cut to `TOP_P`; `logp` has shape (V,).

    Inverse of the cumulative distribution in the order of the ids: one random number a token.
    """
    p = np.exp((logp - logp.max()) / TEMPERATURE)
    cdf = np.cumsum(np.where(p >= _floor(p), p, 0.0))
    return int(np.searchsorted(cdf, u * cdf[-1], side="right"))


def _floor(p: Floats) -> float:
    """The least probability in the nucleus of the (unnormalised) `p`."""
    wanted = TOP_P * p.sum()
    for size in (256, p.size):  # nearly always within the first, and sorting all of V is slow
        top = np.sort(np.partition(p, -size)[-size:] if size < p.size else p)[::-1]
        held = np.cumsum(top)
        if held[-1] >= wanted:
            break
    return float(top[min(int(np.searchsorted(held, wanted)), top.size - 1)])


def end_logprob(logp: Floats, ends: Sequence[int]) -> float:
    """Log-probability that the turn ends here: of all of `ends` together."""
    return float(np.logaddexp.reduce(logp[list(ends)]))


def log_probabilities(logits: torch.Tensor) -> Floats:
    """Raw logits (N, V) of any dtype and device to log-probabilities in nats, float64.

    `UnsupportedModel`: the logits are not numbers (a half-precision overflow, mostly).
    """
    z = logits.float().cpu().numpy().astype(np.float64)
    top = z.max(axis=-1, keepdims=True)
    if not np.isfinite(top).all():
        raise UnsupportedModel(
            "The model computes logits that are not numbers",
            value=float(top.min()),
            hint="Load it in float32 or bfloat16, or check its weights",
        )
    z -= top
    normalised: Floats = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    return normalised
