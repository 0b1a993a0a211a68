"""All nodes of a tree in one pass, one a row: each sees the prompt and its own ancestors.

Knows where the nodes stand, keys and values, and short convolutions. Refuses to know tokens and
what the tree is for. It serves models that mix attention with short convolutions, whose inputs
cannot be masked: here each node is a row, and the cache layers hand it what its ancestors left in
the same pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import Cache
from transformers.cache_utils import LinearAttentionLayer

from tta.decoding.attention import Keys, PrefixedLayer, not_shared
from tta.decoding.layers import Layer, keeps_all


class Tree:
    """Where the nodes of a tree stand: `parents[i]` is the node before node i, -1 where that is
    the prompt. Parents come before their children. Best is a node's descendants right after it,
    as sorted sequences have them: then far branches are never multiplied with each other.

    `blocks`: (start, stop) of runs of nodes that no other run's nodes descend from.
    """

    def __init__(self, parents: Sequence[int]) -> None:
        self.parents = tuple(parents)
        self.blocks = _blocks(self.parents)
        self._biases: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
        self._windows: dict[tuple[int, torch.device], torch.Tensor] = {}

    def biases(self, kind: torch.dtype, device: torch.device) -> list[torch.Tensor]:
        """For each block (n, n): 0 where a node may look (ancestors, itself), else the lowest."""
        if (kind, device) not in self._biases:
            seen = ancestry(self.parents)
            masks = [~seen[a:b, a:b].to(device) for a, b in self.blocks]
            low = torch.finfo(kind).min
            self._biases[kind, device] = [
                torch.zeros(m.shape, dtype=kind, device=device).masked_fill_(m, low) for m in masks
            ]
        return self._biases[kind, device]

    def windows(self, width: int, device: torch.device) -> torch.Tensor:
        """Shape (N, width): for each node, where its last `width` inputs are among [the prompt's
        last `width`, the N nodes]."""
        if (width, device) not in self._windows:
            rows: list[list[int]] = []
            for node, parent in enumerate(self.parents):
                before = rows[parent] if parent >= 0 else list(range(width))
                rows.append([*before[1:], width + node])
            self._windows[width, device] = torch.tensor(rows, device=device)
        return self._windows[width, device]


def ancestry(parents: Sequence[int]) -> torch.Tensor:
    """Shape (N, N): True where column is row's ancestor or row itself."""
    own = np.eye(len(parents), dtype=np.bool_)
    for node, parent in enumerate(parents):
        if parent >= 0:
            own[node] |= own[parent]
    return torch.from_numpy(own)


BLOCK = 96
"""Nodes from which a block is closed: more means fewer products, over more masked pairs."""


def _blocks(parents: Sequence[int]) -> tuple[tuple[int, int], ...]:
    roots: list[int] = []
    for node, parent in enumerate(parents):
        roots.append(node if parent < 0 else roots[parent])
    if roots != sorted(roots):  # descendants are not together: everything is one run
        return ((0, len(parents)),)
    starts = [0]
    for root in sorted(set(roots)):
        if root - starts[-1] >= BLOCK:
            starts.append(root)
    return tuple(zip(starts, [*starts[1:], len(parents)], strict=True))


class ForestLayer(PrefixedLayer):
    """Nodes of a tree, one a row, that all come in one pass: each sees the prompt and its own
    ancestors."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, tree: Tree) -> None:
        super().__init__(keys, values)
        self._tree = tree

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys, self.values = key_states, value_states
        return Keys.of(key_states, self), Keys.of(value_states, self)

    def attend(self, query: torch.Tensor, mask: torch.Tensor | None, scale: float) -> torch.Tensor:
        """`mask` is that of single rows, which see all that they are given; it says nothing."""
        assert self.keys is not None and self.values is not None
        n, heads, steps, width = query.shape
        groups = self._keys.shape[1]
        q = query.reshape(n, groups, -1, width).permute(1, 2, 0, 3)  # (G, R, N, D)
        keys = self.keys.squeeze(2).transpose(0, 1)
        values = self.values.squeeze(2).transpose(0, 1)
        biases = self._tree.biases(query.dtype, query.device)
        parts = [
            self._block(q[:, :, a:b], keys[:, a:b], values[:, a:b], bias, scale)
            for (a, b), bias in zip(self._tree.blocks, biases, strict=True)
        ]
        rows = torch.cat(parts, dim=2).permute(2, 0, 1, 3)
        return rows.reshape(n, heads, steps, -1)

    def _block(
        self,
        q: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        bias: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """`q` (G, R, n, D), `keys` and `values` (G, n, D): the prompt and this block's own."""
        groups, repeats, n, width = q.shape
        mask = torch.nn.functional.pad(bias, (self._keys.shape[2], 0))
        out = sdpa(
            q.reshape(1, groups, repeats * n, width),
            torch.cat([self._keys[0], keys], dim=1)[None],
            torch.cat([self._values[0], values], dim=1)[None],
            attn_mask=mask.repeat(repeats, 1),
            scale=scale,
        )
        return out.reshape(groups, repeats, n, -1)


class _Windows(torch.Tensor):
    """Inputs (N, D, K) of which a depthwise convolution of width K is wanted at the last place
    only. The product says so; the operator, which pads, computes 2 K - 1 places, far slower."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - as torch has it
        with torch._C.DisableTorchFunctionSubclass():
            convolves = func is torch.nn.functional.conv1d
            out = (_last_place if convolves else func)(*args, **(kwargs or {}))
            return out.as_subclass(cls) if func is torch.Tensor.to else out


def _last_place(
    windows: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *more: Any,  # noqa: ANN401 - as torch has it
    **named: Any,  # noqa: ANN401
) -> torch.Tensor:
    """Shape (N, D, 1), of `windows` (N, D, K) and a depthwise `weight` (D, 1, K)."""
    if weight.shape != (windows.shape[1], 1, windows.shape[2]):
        return torch.nn.functional.conv1d(windows, weight, bias, *more, **named)
    out = windows[..., 0] * weight[:, 0, 0]
    for place in range(1, windows.shape[2]):
        out = torch.addcmul(out, windows[..., place], weight[:, 0, place])
    return (out if bias is None else out + bias)[..., None]


class ForestConvolution(LinearAttentionLayer):
    """A short convolution over the same tree: each node sees its last ancestors, then the prompt.

    `state` has shape (1, D, K): the prompt's last K inputs.
    """

    def __init__(self, state: torch.Tensor, tree: Tree) -> None:
        super().__init__()
        self.conv_states[0] = state
        self.has_previous_state[0] = self.is_conv_states_initialized[0] = True
        self.record_past = True  # or a single token would be written into the state instead
        self._tree = tree

    def update_conv_state(
        self,
        conv_states: torch.Tensor,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
        **kwargs: object,
    ) -> torch.Tensor:
        state = self.conv_states[0]
        if conv_states.shape[-1] != 1 or state is None:
            raise not_shared("several tokens at once")
        pool = torch.cat([state[0].T, conv_states.squeeze(-1)])  # (K + N, D)
        found = pool[self._tree.windows(state.shape[-1], state.device)]  # (N, K, D)
        return found.transpose(1, 2).as_subclass(_Windows)


def forest(cache: Cache, tree: Tree) -> Cache:
    """A cache for one pass over the nodes of a tree that follows the prompt in `cache`."""
    layers: list[Layer] = []
    layer: Layer
    for layer in cache.layers:
        if keeps_all(layer):
            layers.append(ForestLayer(*layer.whole(), tree))
        else:
            layers.append(ForestConvolution(layer.conv_states[0], tree))
    return Cache(layers=layers)
