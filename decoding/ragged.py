"""Rows that have nothing in common, in one pass: other prompts, other lengths, coming and going.

Knows caches and token ids. Refuses to know text, whose rows they are and why they are run. Each
row's keys and values lie at the right end of one tensor; what is left free in front of the shorter
ones is masked, and positions are each row's own. So a row's numbers are those it has alone, up to
rounding; `Plan.ragged` is whether trying has shown that. `Apart` is the plain way: one pass a row.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer

from tta.decoding import engine
from tta.decoding.layers import GrowingLayer, Layer, PiecedLayer, keeps_all

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tta.decoding.engine import Prefix

_KEYED = (PiecedLayer, DynamicLayer, DynamicSlidingWindowLayer)


class Lanes(Protocol):
    """Rows that are run together; a row is known by its place."""

    def __len__(self) -> int: ...

    def forward(self, tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to each row; the logits that follow, shape (N, V)."""

    def keep(self, index: Sequence[int]) -> None:
        """Let row i be what row `index[i]` was; rows not named are dropped, others may double."""

    def taken(self, row: int) -> Self:
        """A copy of one row as it is now, which stays as it is."""

    def join(self, other: Self) -> None:
        """The other's rows come in behind these; the other must not be used again."""


def lanes(prefix: Prefix, *, together: bool) -> Lanes:
    """One row that continues a prefix, which stays as it was."""
    return Together.of(prefix) if together else Apart.of(prefix)


# ----------------------------------------------------------------------------------- together


class PaddedLayer(GrowingLayer):
    """Keys and values (N, H, T, D) of rows that end together. A sliding window is left to the
    mask: what has left it is kept, since rows leave it at different times."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, *, sliding: bool) -> None:
        super().__init__([(keys, values)])
        self.is_sliding = sliding

    def cut(self, row: int, tokens: int) -> PaddedLayer:
        """One row without the room in front of its `tokens`."""
        assert self.keys is not None and self.values is not None
        own = (states[row : row + 1, :, -tokens:] for states in (self.keys, self.values))
        return PaddedLayer(*own, sliding=self.is_sliding)

    def joined(self, other: PaddedLayer, tokens: int) -> PaddedLayer:
        """Both, of whose places at most the last `tokens` are in use."""
        pairs = (self.keys, other.keys), (self.values, other.values)
        both = (torch.cat([_ending(x, tokens) for x in pair]) for pair in pairs)
        return PaddedLayer(*both, sliding=self.is_sliding)


def _ending(states: torch.Tensor | None, tokens: int) -> torch.Tensor:
    """(N, H, T, D) with T = `tokens`: cut or filled up in front."""
    assert states is not None
    return torch.nn.functional.pad(states, (0, 0, tokens - states.shape[-2], 0))


class Together:
    """All rows in one pass; `fits` says of which caches that can be tried."""

    def __init__(self, model: PreTrainedModel, layers: Sequence[Layer], lengths: list[int]) -> None:
        self._model = model
        self._cache = Cache(layers=list(layers))
        self._lengths = lengths
        self._width = max(lengths)

    @classmethod
    def of(cls, prefix: Prefix) -> Together:
        """One row that continues a prefix."""
        assert prefix.cache is not None
        found = [_own(layer, len(prefix)) for layer in prefix.cache.layers]
        return cls(prefix.model, found, [len(prefix)])

    @staticmethod
    def fits(prefix: Prefix) -> bool:
        """Nothing but keys and values, windows of them, and convolution or recurrent states."""
        layers = prefix.cache.layers if prefix.cache is not None else []
        known = all(type(layer) in (*_KEYED, LinearAttentionLayer) for layer in layers)
        keyed = any(type(layer) in _KEYED for layer in layers)
        return known and keyed and "position_ids" in engine.accepted(prefix.model)

    def __len__(self) -> int:
        return len(self._lengths)

    def forward(self, tokens: Sequence[int]) -> torch.Tensor:
        device = engine.device_of(self._model)
        lengths = torch.tensor(self._lengths, device=device)
        more: dict[str, Any] = {"position_ids": lengths[:, None]}
        if min(self._lengths) < self._width:
            places = torch.arange(self._width + 1, device=device)
            more["attention_mask"] = (places >= self._width - lengths[:, None]).long()
        ids = torch.tensor(tokens, device=device)[:, None]
        logits = engine.forward(self._model, ids, cache=self._cache, **more).logits[:, -1]
        self._lengths = [length + 1 for length in self._lengths]
        self._width += 1
        return logits  # type: ignore[no-any-return]

    def keep(self, index: Sequence[int]) -> None:
        self._lengths = [self._lengths[i] for i in index]
        self._cache.reorder_cache(torch.tensor(list(index)))  # type: ignore[arg-type]

    def taken(self, row: int) -> Together:
        tokens = self._lengths[row]
        found = [_row(layer, row, tokens) for layer in self._cache.layers]
        return Together(self._model, found, [tokens])

    def join(self, other: Together) -> None:
        self._lengths = self._lengths + other._lengths
        self._width = max(self._lengths)
        pairs = zip(self._cache.layers, other._cache.layers, strict=True)
        self._cache = Cache(layers=[_joined(*pair, self._width) for pair in pairs])


def _own(layer: Layer, tokens: int) -> Layer:
    """A layer of one row, to be continued and changed."""
    if keeps_all(layer):
        return PaddedLayer(*layer.whole(), sliding=False)
    if type(layer) not in _KEYED:
        return copy.deepcopy(layer)
    keys, values = (_ending(states, tokens) for states in (layer.keys, layer.values))
    return PaddedLayer(keys, values, sliding=layer.is_sliding)


def _row(layer: Layer, row: int, tokens: int) -> Layer:
    if isinstance(layer, PaddedLayer):
        return layer.cut(row, tokens)
    twin = _with_states(layer, layer.conv_states, layer.recurrent_states)
    twin.reorder_cache(torch.tensor([row]))
    return twin


def _joined(layer: Layer, other: Layer, tokens: int) -> Layer:
    if isinstance(layer, PaddedLayer):
        return layer.joined(other, tokens)
    states = (
        (layer.conv_states, other.conv_states),
        (layer.recurrent_states, other.recurrent_states),
    )
    return _with_states(layer, *(_both(*pair) for pair in states))


def _both(states: dict[int, Any], more: dict[int, Any]) -> dict[int, Any]:
    return {i: x if x is None else torch.cat([x, more[i]]) for i, x in states.items()}


def _with_states(layer: Layer, convolution: dict[int, Any], recurrent: dict[int, Any]) -> Layer:
    twin = copy.copy(layer)
    twin.conv_states, twin.recurrent_states = dict(convolution), dict(recurrent)
    return twin


# -------------------------------------------------------------------------------------- apart


class Apart:
    """One pass a row: for every model, also for those that keep nothing and are run anew."""

    def __init__(self, rows: list[engine.Rows]) -> None:
        self._rows = rows

    @classmethod
    def of(cls, prefix: Prefix) -> Apart:
        """One row that continues a prefix."""
        return cls([prefix.fork(1)])

    def __len__(self) -> int:
        return len(self._rows)

    def forward(self, tokens: Sequence[int]) -> torch.Tensor:
        pairs = zip(self._rows, tokens, strict=True)
        return torch.cat([row.forward(torch.tensor([[token]]))[:, -1] for row, token in pairs])

    def keep(self, index: Sequence[int]) -> None:
        first = {i: place for place, i in reversed(list(enumerate(index)))}
        self._rows = [
            self._rows[i] if first[i] == place else self._rows[i].copied()
            for place, i in enumerate(index)
        ]

    def taken(self, row: int) -> Apart:
        return Apart([self._rows[row].copied()])

    def join(self, other: Apart) -> None:
        self._rows = self._rows + other._rows
