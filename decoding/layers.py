"""Cache layers of transformers: how one is copied, continued by several rows, and measured.

Knows keys, values and states. Refuses to know tokens, rows' owners and attention. Sliding windows,
convolution and recurrent states are handled by the layers' own methods, whatever they are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

Layer = Any
"""A cache layer of transformers: they have no common base class."""


def light_copy(layer: Layer) -> Layer:
    """A layer that can be continued without touching the original.

    Key-value layers replace their tensors, so sharing them is safe; all others write in place.
    """
    if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer):
        return copy.copy(layer)
    return copy.deepcopy(layer)


def keeps_all(layer: Layer) -> TypeGuard[PiecedLayer]:
    """Keys and values of every token of a prompt."""
    return isinstance(layer, PiecedLayer)


def kept(cache: Cache, start: Cache | None = None) -> Cache:
    """What a pass left in `cache`, to be kept; `start` is what it continued."""
    before = [None] * len(cache.layers) if start is None else start.layers
    return Cache(layers=[_kept(*pair) for pair in zip(cache.layers, before, strict=True)])


def _kept(layer: Layer, before: Layer) -> Layer:
    if keeps_all(layer):
        return PiecedLayer(layer.pieces)
    if type(layer) is not DynamicLayer or layer.keys is None or layer.values is None:
        return layer
    if before is None:
        return PiecedLayer([(layer.keys, layer.values)])
    # Cloned, since a view would hold what is there already once more.
    since = before.get_seq_length()
    own = layer.keys[:, :, since:].clone(), layer.values[:, :, since:].clone()
    return PiecedLayer([*before.pieces, own])


def continued(cache: Cache) -> Cache:
    """The same rows once more: what is done to them leaves these as they are."""
    return Cache(layers=[x.plain() if keeps_all(x) else light_copy(x) for x in cache.layers])


def forked(cache: Cache, n: int) -> Cache:
    """`n` rows that continue the one row of `cache`, each with its own copy of everything."""
    every = torch.zeros(n, dtype=torch.long)
    return Cache(layers=[_forked(layer, every) for layer in cache.layers])


def _forked(layer: Layer, every: torch.Tensor) -> Layer:
    if keeps_all(layer):
        return GrowingLayer(layer.pieces, rows=len(every))
    twin = light_copy(layer)
    twin.reorder_cache(every)  # every layer type has it, short convolutions included
    return twin


Piece = tuple[torch.Tensor, torch.Tensor]
"""Keys and values, shape (N, H, T, D) each."""


class PiecedLayer(DynamicLayer):
    """Keys and values of a prompt in the pieces in which it was run. Prompts that begin alike hold
    the same ones; none is ever written to."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pieces = tuple(pieces)
        self.dtype, self.device = pieces[0][0].dtype, pieces[0][0].device
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return sum(keys.shape[-2] for keys, _ in self.pieces)

    def whole(self) -> Piece:
        """All of them as one; a copy, unless there is but one."""
        if len(self.pieces) == 1:
            return self.pieces[0]
        keys, values = zip(*self.pieces, strict=True)
        return torch.cat(keys, dim=-2), torch.cat(values, dim=-2)

    def plain(self) -> DynamicLayer:
        """As transformers continues it."""
        layer = DynamicLayer()
        keys, values = self.whole()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        return layer


class GrowingLayer(DynamicLayer):
    """Keys and values (N, H, T, D) with room for more behind them: a step writes its own tokens,
    where a plain layer copies all that came before."""

    def __init__(self, pieces: Sequence[Piece], *, rows: int | None = None) -> None:
        """`rows`: so many that all continue the one row of `pieces`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(*pieces[0])
        keys, values = zip(*pieces, strict=True)
        self._room = _roomy(keys, SPARE, rows), _roomy(values, SPARE, rows)
        self._show(sum(states.shape[-2] for states in keys))

    def _show(self, tokens: int) -> None:
        self.keys, self.values = (room[:, :, :tokens] for room in self._room)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.keys is not None and self.values is not None
        have, more = self.keys.shape[-2], key_states.shape[-2]
        if have + more > self._room[0].shape[-2]:
            spare = more + SPARE + have // 4
            self._room = _roomy([self.keys], spare), _roomy([self.values], spare)
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, have : have + more] = states
        self._show(have + more)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Where rows at the end take the places of those that leave, only they are copied."""
        tokens, index = self.get_seq_length(), beam_idx.tolist()
        moved = [i for i, source in enumerate(index) if source != i]
        if all(index[i] >= len(index) for i in moved):
            for room in self._room:
                for i in moved:
                    room[i, :, :tokens] = room[index[i], :, :tokens]
            self._room = (self._room[0][: len(index)], self._room[1][: len(index)])
        else:
            rows = beam_idx.to(self._room[0].device)
            self._room = (self._room[0].index_select(0, rows), self._room[1].index_select(0, rows))
        self._show(tokens)


SPARE = 64
"""Tokens of room, and a quarter of what there is when that is used up."""


def _roomy(pieces: Sequence[torch.Tensor], spare: int, rows: int | None = None) -> torch.Tensor:
    n, heads, _, width = pieces[0].shape
    tokens = sum(piece.shape[-2] for piece in pieces)
    room = pieces[0].new_empty((rows or n, heads, tokens + spare, width))
    start = 0
    for piece in pieces:
        stop = start + piece.shape[-2]
        room[:, :, start:stop], start = piece, stop
    return room


def size(cache: Cache) -> int:
    """Bytes of all keys, values and states, those kept once counted once."""
    return sum(layer_bytes(layer) for layer in cache.layers)


def layer_bytes(layer: Layer) -> int:
    """What one layer holds."""
    return sum(t.numel() * t.element_size() for t in tensors(layer))


def tensors(layer: Layer) -> Iterator[torch.Tensor]:
    """What one layer holds, each once."""
    held = [getattr(layer, name, None) for name in ("keys", "values", "_keys", "_values")]
    held += [states for piece in getattr(layer, "pieces", ()) for states in piece]
    for name in ("conv_states", "recurrent_states"):
        held += getattr(layer, name, {}).values()
    yield from (t for t in held if t is not None)
