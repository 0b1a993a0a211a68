"""Logits to tokens: one measured pass over the vocabulary, the draw inside its top.

Knows logits and random numbers. Refuses to know caches, text and what a constraint means. A
random number belongs to (seed, sample, step), and each row's draw uses its own alone, so sample i
does not depend on how many rows there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tta.decoding.score import TOP
from tta.errors import InvalidSetting, UnsupportedModel

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

TEMPERATURE = 1.0
TOP_P = 0.95
_FIRST = 128
"""The nucleus is looked for among this many tokens first; sorting all of V is slow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Which distribution the sampled rows draw from: logits / `temperature`, of which the `top_k`
    most probable tokens are kept (0: all), of which the smallest set that holds `top_p` of what
    is left is kept (nucleus; Holtzman et al., 2020). In the order of transformers' own processors.

    `InvalidSetting`: a temperature that is not positive, a top_k below 0, a top_p outside (0, 1].
    """

    temperature: float = TEMPERATURE
    top_k: int = 0
    top_p: float = TOP_P

    def __post_init__(self) -> None:
        if not (self.temperature > 0.0 and np.isfinite(self.temperature)):
            raise _outside("temperature", self.temperature, "a positive number; for greedy, n=1")
        if self.top_k < 0:
            raise _outside("top_k", self.top_k, "0 (all tokens) or more")
        if not 0.0 < self.top_p <= 1.0:
            raise _outside("top_p", self.top_p, "more than 0 and at most 1")


def _outside(name: str, value: float, hint: str) -> InvalidSetting:
    return InvalidSetting(f"{name} is {value!r}", value=value, hint=f"Use {hint}")


def uniforms(seed: int, sample: int, steps: int) -> Floats:
    """The random numbers of one sample, shape (steps,): they depend on nothing else.

    Counter-based (Philox; Salmon et al., 2011), so sample i is the same whatever n is.
    """
    mask = 2**64 - 1
    key = np.array([seed & mask, sample & mask], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(steps)


@dataclass(frozen=True, slots=True)
class Step:
    """What one step gave a row: its token, and the raw log-probability (nats) of that token and
    of any end; then what `score.Stats.add` takes."""

    token: int
    logprob: float
    end_logprob: float
    certainty: float
    confidence: float
    mask_mass: float


def step(
    logits: torch.Tensor,
    randoms: Sequence[float | None],
    *,
    sampling: Sampling,
    ends: Sequence[int] = (),
    allowed: Sequence[Bools | None] = (),
    vocabulary: int | None = None,
) -> list[Step]:
    """The next token of each row; `logits` are raw, shape (N, V), any dtype and device.

    `randoms[i]` in [0, 1) is row i's random number, None where it is greedy. `allowed[i]` is its
    mask, shape (V,). `vocabulary`: how many of the V the tokenizer knows, for the statistics.
    `UnsupportedModel`: the logits are not numbers.
    """
    import torch

    z = logits.float()
    norm = z.logsumexp(-1)
    _check(norm)
    left, mask_norm = masked(z, norm, allowed)
    top = z.topk(min(TOP, z.shape[-1])).values
    known = z[:, :vocabulary]
    tokens = _pick(left, mask_norm, randoms, sampling)
    picked = z.gather(1, tokens[:, None])[:, 0]
    last = z[:, list(ends)].logsumexp(-1) if ends else torch.full_like(norm, -torch.inf)
    columns = (
        picked - norm,
        last - norm,
        norm - known.mean(-1) - float(np.log(known.shape[-1])),
        norm - top.mean(-1),
        mask_norm - norm,
    )
    rows = torch.stack(columns, dim=1).tolist()
    return [Step(token, *row) for token, row in zip(tokens.tolist(), rows, strict=True)]


def masked(
    z: torch.Tensor, norm: torch.Tensor, allowed: Sequence[Bools | None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits with what is not allowed at -inf, and their log-sum-exp."""
    import torch

    if all(mask is None for mask in allowed):
        return z, norm
    free = np.ones(z.shape[-1], dtype=np.bool_)
    mask = torch.from_numpy(np.stack([free if m is None else m for m in allowed])).to(z.device)
    left = z.masked_fill(~mask, -torch.inf)
    return left, left.logsumexp(-1)


def _pick(
    z: torch.Tensor, norm: torch.Tensor, randoms: Sequence[float | None], sampling: Sampling
) -> torch.Tensor:
    import torch

    chosen = [i for i, u in enumerate(randoms) if u is not None]
    if len(chosen) == len(randoms):
        return drawn(z, norm, _column(randoms, z.device), sampling)
    tokens = z.argmax(-1)
    if chosen:
        rows = torch.tensor(chosen, device=z.device)
        u = _column([randoms[i] for i in chosen], z.device)
        tokens[rows] = drawn(z[rows], norm[rows], u, sampling)
    return tokens


def _column(randoms: Sequence[float | None], device: torch.device) -> torch.Tensor:
    import torch

    # Single precision: some devices have no other.
    return torch.tensor(randoms, dtype=torch.float32, device=device)[:, None]


def drawn(z: torch.Tensor, norm: torch.Tensor, u: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Tokens, shape (N,), for random numbers `u` (N, 1), of logits `z` (N, V) and their
    log-sum-exp `norm` (N,). Drawn inside the top-k where that is known to hold the nucleus."""
    width = z.shape[-1]
    if not sampling.top_k and sampling.top_p >= 1.0:
        p = (z / sampling.temperature).softmax(-1)
        return _inverse(p, u)
    first = min(width, sampling.top_k or _FIRST)
    tokens, enough = _within(z, norm, u, sampling, first)
    if first < width and not bool(enough.all()):
        rows = (~enough).nonzero()[:, 0]
        tokens[rows] = _within(z[rows], norm[rows], u[rows], sampling, width)[0]
    return tokens


def _within(
    z: torch.Tensor, norm: torch.Tensor, u: torch.Tensor, sampling: Sampling, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens drawn among the `size` most probable, and whether those hold the nucleus; (N,) each.

    transformers cuts to the nucleus after it has renormalised the top-k, which makes both the same.
    """
    import torch

    values, ids = z.topk(size)
    values = values / sampling.temperature
    if sampling.top_k:
        p = values.softmax(-1)
    else:
        hot = sampling.temperature != 1.0
        total = (z / sampling.temperature).logsumexp(-1) if hot else norm
        p = (values - total[:, None]).exp()
    held = p.cumsum(-1)
    p = p.masked_fill(held - p >= sampling.top_p, 0.0)
    # In the order of the ids: two tokens of nearly the same probability may change places
    # in the sort, and then the same random number would mean another token.
    order = ids.argsort(-1)
    ids = ids.gather(1, order)
    at = _inverse(p.gather(1, order), u)
    full = torch.full_like(at, bool(sampling.top_k), dtype=torch.bool)
    return ids.gather(1, at[:, None])[:, 0], full | (held[:, -1] >= sampling.top_p)


def _inverse(p: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Index, shape (N,), at `u` (N, 1) of the cumulative distribution of the (N, K) weights `p`."""
    import torch

    cdf = p.cumsum(-1)
    at = torch.searchsorted(cdf, u * cdf[:, -1:], right=True).clamp_(max=p.shape[-1] - 1)
    # Rounding of the sums may reach a token that has no weight, which must never be drawn.
    return torch.where(p.gather(1, at) > 0, at, p.argmax(-1, keepdim=True))[:, 0]


def _check(norm: torch.Tensor) -> None:
    if not bool(norm.isfinite().all()):
        raise UnsupportedModel(
            "The model computes logits that are not numbers",
            value=float(norm.min()),
            hint="Load it in float32 or bfloat16, or check its weights",
        )
