"""Many rows that attend to one prompt, whose keys and values are kept once.

Knows cache layers and the attention operator. Refuses to know tokens, rows' owners and why rows
are run together. The model is not told: its cache hands it keys that recognise themselves when
they arrive at `scaled_dot_product_attention`, so no configuration, registry or module is changed
and every thread has its own. A model that does anything else with them gets `UnsupportedModel`,
and the caller falls back to a copied cache.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import Cache
from transformers.cache_utils import (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
)

from tta.errors import UnsupportedModel

Layer = Any
"""A cache layer of transformers: they have no common base class."""


# --------------------------------------------------------------------------- copying layers


def light_copy(layer: Layer) -> Layer:
    """A layer that can be continued without touching the original.

    Key-value layers replace their tensors, so sharing them is safe; all others write in place.
    """
    if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer):
        return copy.copy(layer)
    return copy.deepcopy(layer)


def forked(cache: Cache, n: int) -> Cache:
    """`n` rows that continue the one row of `cache`, each with its own copy of everything."""
    twin = Cache(layers=[light_copy(layer) for layer in cache.layers])
    # The one operation that every layer type has, short convolutions included.
    twin.reorder_cache(torch.zeros(n, dtype=torch.long))  # type: ignore[arg-type]
    return twin


def shared(cache: Cache, n: int) -> Cache:
    """`n` rows that continue the one row of `cache`: keys and values of full attention are kept
    once, windows and convolution or recurrent states are copied."""
    index = torch.zeros(n, dtype=torch.long)
    layers: list[Layer] = []
    for layer in cache.layers:
        if type(layer) is DynamicLayer:
            layers.append(SharedLayer(layer.keys, layer.values))
            continue
        twin = light_copy(layer)
        twin.reorder_cache(index)
        layers.append(twin)
    return Cache(layers=layers)


def size(cache: Cache) -> int:
    """Bytes of all keys, values and states, those kept once counted once."""
    return sum(layer_bytes(layer) for layer in cache.layers)


def layer_bytes(layer: Layer) -> int:
    """What one layer holds."""
    held = [getattr(layer, name, None) for name in ("keys", "values", "_keys", "_values")]
    for name in ("conv_states", "recurrent_states"):
        held += getattr(layer, name, {}).values()
    return sum(t.numel() * t.element_size() for t in held if t is not None)


# ------------------------------------------------------------------------------- operator


class _Keys(torch.Tensor):
    """Keys or values of the rows themselves, which know the layer that holds the rest."""

    layer: _Prefixed
    _allowed: ClassVar[frozenset[Any]] = frozenset(
        (
            torch.Tensor.shape.__get__,  # type: ignore[attr-defined]
            torch.Tensor.dtype.__get__,  # type: ignore[attr-defined]
            torch.Tensor.device.__get__,  # type: ignore[attr-defined]
            torch.Tensor.ndim.__get__,  # type: ignore[attr-defined]
            torch.Tensor.size,
            torch.Tensor.dim,
        )
    )

    @classmethod
    def of(cls, tensor: torch.Tensor, layer: _Prefixed) -> _Keys:
        keys: _Keys = tensor.as_subclass(cls)
        keys.layer = layer
        return keys

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - as torch has it
        with torch._C.DisableTorchFunctionSubclass():
            if func is sdpa:
                return _attend(*args, **(kwargs or {}))
            if func in cls._allowed:
                return func(*args, **(kwargs or {}))
        raise _not_shared(getattr(func, "__name__", repr(func)))


def _attend(
    query: torch.Tensor,
    key: _Keys,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    if is_causal or dropout_p or (attn_mask is not None and attn_mask.shape[1] != 1):
        raise _not_shared("scaled_dot_product_attention with a causal flag, dropout or head masks")
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    return key.layer.attend(query, attn_mask, factor)


def _not_shared(what: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"The prompt cannot be shared: the model's attention uses {what}",
        value=what,
        hint="Use plain rows: model.using(rows='forked')",
    )


class _Prefixed(DynamicLayer):
    """Keys and values of a prompt, shapes (1, H, P, D), and of one more token in each of N rows."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self._keys, self._values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return int(self._keys.shape[-2])

    def attend(
        self, query: torch.Tensor, mask: torch.Tensor | None, scale: float
    ) -> torch.Tensor:
        raise NotImplementedError


class SharedLayer(_Prefixed):
    """Rows that are drawn: each has its own tokens after the prompt, all of the same number."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if key_states.shape[-2] != 1:
            raise _not_shared("several tokens at once")
        if self.keys is None or self.values is None:
            self.keys, self.values = key_states, value_states
        else:
            self.keys = torch.cat([self.keys, key_states], dim=-2)
            self.values = torch.cat([self.values, value_states], dim=-2)
        return _Keys.of(self.keys, self), _Keys.of(self.values, self)

    def get_seq_length(self) -> int:
        own = 0 if self.keys is None else self.keys.shape[-2]
        return int(self._keys.shape[-2]) + int(own)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        if self.keys is not None and self.values is not None:
            index = beam_idx.to(self.keys.device)
            self.keys = self.keys.index_select(0, index)
            self.values = self.values.index_select(0, index)

    def attend(
        self, query: torch.Tensor, mask: torch.Tensor | None, scale: float
    ) -> torch.Tensor:
        """Softmax over prompt and own tokens together, from two partial sums that share one
        maximum (log-sum-exp merge; Hydragen: Juravsky et al., 2024).

        All rows' queries meet the prompt's keys in one product, which reads them once.
        """
        assert self.keys is not None and self.values is not None
        n, heads, steps, width = query.shape
        groups, prompt = self._keys.shape[1], self._keys.shape[2]
        q = (query * scale).reshape(n, groups, -1, width)
        of_prompt = _product(q, self._keys[0].mT).float()  # (G, N, R, P)
        of_own = (q @ self.keys.mT).float().transpose(0, 1)  # (G, N, R, T)
        if mask is not None:
            bias = _bias(mask).transpose(0, 1)
            of_prompt, of_own = of_prompt + bias[..., :prompt], of_own + bias[..., prompt:]
        top = torch.maximum(of_prompt.amax(-1, keepdim=True), of_own.amax(-1, keepdim=True))
        of_prompt, of_own = (of_prompt - top).exp_(), (of_own - top).exp_()
        total = of_prompt.sum(-1, keepdim=True) + of_own.sum(-1, keepdim=True)
        flat = of_prompt.to(self._values.dtype).reshape(groups, -1, prompt) @ self._values[0]
        own = of_own.to(self.values.dtype).transpose(0, 1) @ self.values  # (N, G, R, D)
        mixed = flat.reshape(groups, n, -1, flat.shape[-1]).transpose(0, 1).float() + own
        out: torch.Tensor = mixed / total.transpose(0, 1)
        return out.to(query.dtype).reshape(n, heads, steps, -1)


def _product(q: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """(N, G, R, D) by (G, D, P) to (G, N, R, P), one matrix product for each of the G heads."""
    n, groups, rows, width = q.shape
    flat = q.transpose(0, 1).reshape(groups, n * rows, width)
    return (flat @ keys).reshape(groups, n, rows, -1)


def _bias(mask: torch.Tensor) -> torch.Tensor:
    if mask.dtype != torch.bool:
        return mask.float()
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, float("-inf"))


# --------------------------------------------------------------------------------- forest


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


class ForestLayer(_Prefixed):
    """Nodes of a tree, one a row, that all come in one pass: each sees the prompt and its own
    ancestors."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, tree: Tree) -> None:
        super().__init__(keys, values)
        self._tree = tree

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys, self.values = key_states, value_states
        return _Keys.of(key_states, self), _Keys.of(value_states, self)

    def attend(
        self, query: torch.Tensor, mask: torch.Tensor | None, scale: float
    ) -> torch.Tensor:
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
    *more: Any,
    **named: Any,
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
        self, conv_states: torch.Tensor, state_idx: int = 0, **kwargs: Any
    ) -> torch.Tensor:
        state = self.conv_states[0]
        if conv_states.shape[-1] != 1 or state is None:
            raise _not_shared("several tokens at once")
        pool = torch.cat([state[0].T, conv_states.squeeze(-1)])  # (K + N, D)
        found = pool[self._tree.windows(state.shape[-1], state.device)]  # (N, K, D)
        return found.transpose(1, 2).as_subclass(_Windows)


def forest(cache: Cache, tree: Tree) -> Cache:
    """A cache for one pass over the nodes of a tree that follows the prompt in `cache`."""
    layers: list[Layer] = []
    for layer in cache.layers:
        if type(layer) is DynamicLayer:
            layers.append(ForestLayer(layer.keys, layer.values, tree))
        else:
            layers.append(ForestConvolution(layer.conv_states[0], tree))
    return Cache(layers=layers)
