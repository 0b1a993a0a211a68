"""Many rows that attend to one prompt, whose keys and values are kept once.

Knows cache layers and the attention operator. Refuses to know tokens, rows' owners and why rows
are run together. The model is not told: its cache hands it keys that recognise themselves when
they arrive at `scaled_dot_product_attention`, so no configuration, registry or module is changed
and every thread has its own. A model that does anything else with them gets `UnsupportedModel`,
and the caller falls back to a copied cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from tta.decoding.layers import Layer, Piece, PiecedLayer, keeps_all, light_copy
from tta.errors import UnsupportedModel

# No public operator says the log-sum-exp too; where this one is missing, pieces are put together.
_flash: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_GET = torch.Tensor.__getitem__
_ALL = slice(None)
_NEW_AXIS = (_ALL, _ALL, None, _ALL, _ALL)


class Attending(Protocol):
    """A layer that answers the attention operator itself."""

    def attend(
        self, query: torch.Tensor, mask: torch.Tensor | None, scale: float
    ) -> torch.Tensor: ...


class Keys(torch.Tensor):
    """Keys or values of the rows themselves, which know the layer that holds the rest."""

    layer: Attending
    _allowed: ClassVar[frozenset[Any]] = frozenset(
        (
            *(getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim")),
            torch.Tensor.size,
            torch.Tensor.dim,
        )
    )

    # What `repeat_kv` is made of: heads need no copies for the queries that they serve.
    _repeats: ClassVar[frozenset[Any]] = frozenset(
        (torch.Tensor.__getitem__, torch.Tensor.expand, torch.Tensor.reshape)
    )

    @classmethod
    def of(cls, tensor: torch.Tensor, layer: Attending) -> Keys:
        keys: Keys = tensor.as_subclass(cls)
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
            if func in cls._repeats and (func is not _GET or args[1] == _NEW_AXIS):
                return args[0]
        raise not_shared(getattr(func, "__name__", repr(func)))


def _attend(
    query: torch.Tensor,
    key: Keys,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    if is_causal or dropout_p or (attn_mask is not None and attn_mask.shape[1] != 1):
        raise not_shared("scaled_dot_product_attention with a causal flag, dropout or head masks")
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    return key.layer.attend(query, attn_mask, factor)


def not_shared(what: str) -> UnsupportedModel:
    """A model asked something of shared keys that they cannot answer."""
    return UnsupportedModel(
        f"The prompt cannot be shared: the model's attention uses {what}",
        value=what,
        hint="Use plain rows: model.using(rows='forked')",
    )


class PrefixedLayer(DynamicLayer):
    """Keys and values of a prompt, shapes (1, H, P, D), and of one more token in each of N rows."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._keys, self._values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return int(self._keys.shape[-2])

    def attend(self, query: torch.Tensor, mask: torch.Tensor | None, scale: float) -> torch.Tensor:
        raise NotImplementedError


class SharedLayer(PrefixedLayer):
    """Rows that are drawn: each has its own tokens after the prompt, all of the same number."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if key_states.shape[-2] != 1:
            raise not_shared("several tokens at once")
        if self.keys is None or self.values is None:
            self.keys, self.values = key_states, value_states
        else:
            self.keys = torch.cat([self.keys, key_states], dim=-2)
            self.values = torch.cat([self.values, value_states], dim=-2)
        return Keys.of(self.keys, self), Keys.of(self.values, self)

    def get_seq_length(self) -> int:
        own = 0 if self.keys is None else self.keys.shape[-2]
        return int(self._keys.shape[-2]) + int(own)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        if self.keys is not None and self.values is not None:
            index = beam_idx.to(self.keys.device)
            self.keys = self.keys.index_select(0, index)
            self.values = self.values.index_select(0, index)

    def attend(self, query: torch.Tensor, mask: torch.Tensor | None, scale: float) -> torch.Tensor:
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


def shared(cache: Cache, n: int) -> Cache:
    """`n` rows that continue the one row of `cache`: keys and values of full attention are kept
    once, windows and convolution or recurrent states are copied."""
    index = torch.zeros(n, dtype=torch.long)
    layers: list[Layer] = []
    layer: Layer
    for layer in cache.layers:
        if keeps_all(layer):
            layers.append(SharedLayer(*layer.whole()))
            continue
        twin = light_copy(layer)
        twin.reorder_cache(index)
        layers.append(twin)
    return Cache(layers=layers)


class _Masks:
    """What the layers of one pass have read of its mask; mostly all are given the same one."""

    def __init__(self) -> None:
        self._last: tuple[torch.Tensor, object, Sequence[torch.Tensor | None]] | None = None

    def parts(
        self, mask: torch.Tensor, repeats: int, dtype: torch.dtype, lengths: Sequence[int]
    ) -> Sequence[torch.Tensor | None]:
        """What is added to the scores of each piece, for so many heads side by side; None where all
        of it is visible."""
        asked = (repeats, dtype, *lengths)
        if self._last is None or self._last[0] is not mask or self._last[1] != asked:
            bias = _bias(mask).to(dtype).repeat(1, 1, repeats, 1)
            parts = [x if bool(x.any()) else None for x in torch.split(bias, list(lengths), dim=-1)]
            self._last = mask, asked, parts
        return self._last[2]


class GroupedLayer(PiecedLayer):
    """One row that goes on by several tokens at once. Queries of heads that share their keys are
    laid side by side, where the model would copy the keys for each; and pieces stay where they
    are, where putting them together would copy all that came before."""

    def __init__(self, pieces: Sequence[Piece], masks: _Masks) -> None:
        super().__init__(pieces)
        self._masks = masks

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.pieces = (*self.pieces, (key_states, value_states))
        return Keys.of(key_states, self), Keys.of(value_states, self)

    def attend(self, query: torch.Tensor, mask: torch.Tensor | None, scale: float) -> torch.Tensor:
        n, heads, steps, width = query.shape
        if mask is None and steps > 1:
            raise not_shared("no mask for several tokens")
        q = query.reshape(n, self.pieces[0][0].shape[1], -1, width)
        apart = query.device.type == "cpu" and _flash is not None
        pieces = self.pieces if apart else [self.whole()]
        lengths = [keys.shape[-2] for keys, _ in pieces]
        parts: Sequence[torch.Tensor | None] = [None] * len(pieces)
        if mask is not None:
            parts = self._masks.parts(mask, q.shape[2] // steps, query.dtype, lengths)
        run = _by_pieces if apart else _at_once
        return run(pieces, q, parts, scale).reshape(n, heads, steps, -1)


def _at_once(
    pieces: Sequence[Piece], q: torch.Tensor, parts: Sequence[torch.Tensor | None], scale: float
) -> torch.Tensor:
    return sdpa(q, *pieces[0], attn_mask=parts[0], scale=scale)


def _by_pieces(
    pieces: Sequence[Piece], q: torch.Tensor, parts: Sequence[torch.Tensor | None], scale: float
) -> torch.Tensor:
    """Each piece by itself, merged by the log-sum-exp of its scores, which the operator behind
    `sdpa` says as well; where a piece is visible as a whole, without a mask."""
    found = [
        _flash(q, keys, values, attn_mask=part, scale=scale)
        for (keys, values), part in zip(pieces, parts, strict=True)
    ]
    shares = torch.stack([total for _, total in found]).softmax(0)[..., None].to(q.dtype)
    mixed: torch.Tensor = found[0][0] * shares[0]
    for (out, _), share in zip(found[1:], shares[1:], strict=True):
        mixed.addcmul_(out, share)
    return mixed


def grouped(cache: Cache) -> Cache:
    """One row that continues `cache` by one pass."""
    masks = _Masks()
    layers = [
        GroupedLayer(x.pieces, masks) if keeps_all(x) else light_copy(x) for x in cache.layers
    ]
    return Cache(layers=layers)


def _product(q: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """(N, G, R, D) by (G, D, P) to (G, N, R, P), one matrix product for each of the G heads."""
    n, groups, rows, width = q.shape
    flat = q.transpose(0, 1).reshape(groups, n * rows, width)
    return (flat @ keys).reshape(groups, n, rows, -1)


def _bias(mask: torch.Tensor) -> torch.Tensor:
    if mask.dtype != torch.bool:
        return mask.float()
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, float("-inf"))
