"""Cache layers of transformers: how one is copied, continued by several rows, and measured.

Knows keys, values and states. Refuses to know tokens, rows' owners and attention. Sliding windows,
convolution and recurrent states are handled by the layers' own methods, whatever they are.
"""

from __future__ import annotations

import copy
from typing import Any

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


def keeps_all(layer: Layer) -> bool:
    """Keys and values of every token, in two plain tensors."""
    return type(layer) is DynamicLayer and layer.keys is not None


def continued(cache: Cache) -> Cache:
    """One row that continues the one row of `cache`."""
    return Cache(layers=[light_copy(layer) for layer in cache.layers])


def forked(cache: Cache, n: int) -> Cache:
    """`n` rows that continue the one row of `cache`, each with its own copy of everything."""
    layers: list[Layer] = []
    layer: Layer
    for layer in cache.layers:
        grows = keeps_all(layer)
        layers.append(GrowingLayer(layer.keys, layer.values) if grows else light_copy(layer))
    twin = Cache(layers=layers)
    # The one operation that every layer type has, short convolutions included.
    twin.reorder_cache(torch.zeros(n, dtype=torch.long))  # type: ignore[arg-type]
    return twin


class GrowingLayer(DynamicLayer):
    """Keys and values (N, H, T, D) with room for more behind them: a step writes its own tokens,
    where a plain layer copies all that came before."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self._room = _roomy(keys, SPARE), _roomy(values, SPARE)
        self._show(keys.shape[-2])

    def _show(self, tokens: int) -> None:
        self.keys, self.values = (room[:, :, :tokens] for room in self._room)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.keys is not None and self.values is not None
        have, more = self.keys.shape[-2], key_states.shape[-2]
        if have + more > self._room[0].shape[-2]:
            spare = more + SPARE + have // 4
            self._room = _roomy(self.keys, spare), _roomy(self.values, spare)
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


def _roomy(states: torch.Tensor, spare: int) -> torch.Tensor:
    n, heads, tokens, width = states.shape
    room = states.new_empty((n, heads, tokens + spare, width))
    room[:, :, :tokens] = states
    return room


def size(cache: Cache) -> int:
    """Bytes of all keys, values and states, those kept once counted once."""
    return sum(layer_bytes(layer) for layer in cache.layers)


def layer_bytes(layer: Layer) -> int:
    """What one layer holds."""
    held = [getattr(layer, name, None) for name in ("keys", "values", "_keys", "_values")]
    for name in ("conv_states", "recurrent_states"):
        held += getattr(layer, name, {}).values()
    return sum(t.numel() * t.element_size() for t in held if t is not None)
