"""Several prompts in one pass, padded on the right.

Knows token ids and cache layers. Refuses to know who asked. In a causal model nothing looks ahead,
so what fills a shorter prompt up changes no number of its own; what the pass leaves behind is cut
to each prompt: keys and values by their length, and of a short convolution's inputs the last ones.
Recurrent states and windows hold what came last of all, so those models run each prompt alone
(`Plan.padded` is whether trying has shown that this holds).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import LinearAttentionLayer

from tta.decoding import engine
from tta.decoding.engine import Prefix
from tta.decoding.layers import Layer, PiecedLayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def prefixes(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> list[Prefix]:
    """Each prompt as if it had been run by itself, up to rounding."""
    if len(prompts) == 1:
        return [Prefix(model, prompts[0])]
    engine.check_evaluating(model)
    width = max(map(len, prompts))
    device = engine.device_of(model)
    rows = [[*ids, *[ids[-1]] * (width - len(ids))] for ids in prompts]
    cache = DynamicCache(config=model.config)
    for layer in cache.layers:
        if isinstance(layer, LinearAttentionLayer):
            layer.record_past = True  # all inputs, of which each prompt ends elsewhere
    ends = sorted({len(ids) - 1 for ids in prompts})
    few = "logits_to_keep" in engine.accepted(model)
    more: dict[str, Any] = {"logits_to_keep": torch.tensor(ends, device=device)} if few else {}
    logits = engine.forward(model, torch.tensor(rows, device=device), cache=cache, **more).logits
    places = {end: at if few else end for at, end in enumerate(ends)}
    return [
        Prefix.of(
            model,
            ids,
            logits[row : row + 1, places[len(ids) - 1]].clone(),
            Cache(layers=[_own(layer, row, len(ids)) for layer in cache.layers]),
        )
        for row, ids in enumerate(prompts)
    ]


def _own(layer: Layer, row: int, tokens: int) -> Layer:
    """What one row of `tokens` leaves in a layer; a copy, since the rest is let go of."""
    if not isinstance(layer, LinearAttentionLayer):
        own = (states[row : row + 1, :, :tokens].clone() for states in (layer.keys, layer.values))
        return PiecedLayer([(next(own), next(own))])
    twin = copy.copy(layer)
    twin.record_past = False
    twin.conv_states = {}
    for i, inputs in layer.conv_states.items():
        size = layer.conv_kernel_size[i]
        assert inputs is not None and size is not None  # it was just run
        last = inputs[row : row + 1, :, max(0, tokens - size) : tokens]
        twin.conv_states[i] = torch.nn.functional.pad(last, (size - last.shape[-1], 0))
    return twin
