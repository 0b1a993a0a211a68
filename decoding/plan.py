"""Which of the engine's ways hold for a model, found out by trying them on a few tokens.

Knows one model's layers and attention implementation. Refuses to trust either: a way is used only
when its numbers are those of the plain way. The outcome is a value that can be looked at, and
overruled.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tta.decoding import choices, engine
from tta.decoding.choices import Way
from tta.decoding.engine import Fork
from tta.errors import InvalidSetting, UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from transformers import Cache, PreTrainedModel

COPIES = 0.2
"""Bytes of the rows' copies of a prompt, for a byte of weights, from which sharing pays."""
_EASIEST = (Fork.RECOMPUTED, Fork.FORKED, Fork.SHARED)
_TRIAL = (1, 2, 3, 4, 5)
_ANSWERS = ((6, 7, 8), (6, 7, 9), (6, 10), (11,))
_TOLERANCE = {"torch.float32": 2e-3, "torch.float64": 1e-6}
_COARSE = 0.3
"""Nats by which two right ways may differ: in the types above, and in half precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What holds for one model as it is now.

    `rows`: how drawn rows continue a prompt. `choices`: how closed sets are run. `resumes`: a
    prompt may be run in pieces, which is what lets one be continued from the prefix cache.
    `grouped`: that is done without copying the earlier keys for every head.
    `ragged`: rows of different lengths may be run in one pass.
    `padded`: and so may prompts.
    `window`: tokens, the shortest sliding window. `why`: what spoke against the ways not used.
    """

    rows: Fork
    choices: Way
    resumes: bool
    grouped: bool = False
    ragged: bool = False
    padded: bool = False
    window: int | None = None
    why: tuple[str, ...] = field(default=(), compare=False)

    def choices_for(self, tokens: int) -> Way:
        """`tokens`: of the prompt and the longest answer together."""
        if self.choices is Way.PACKED and self.window is not None and tokens >= self.window:
            return Way.ROWS
        return self.choices


def plan(model: PreTrainedModel) -> Plan:
    """Try what the model's layers promise. A handful of passes over a few tokens."""
    from tta.decoding.ragged import Together

    prefix = engine.Prefix(model, _TRIAL)
    if prefix.cache is None:
        why = ("the model has no cache that can be forked",)
        return Plan(rows=Fork.RECOMPUTED, choices=Way.ROWS, resumes=False, why=why)
    against: list[str] = []
    share = _sharable(prefix.cache) and _holds("sharing", against, lambda: _shares(prefix))
    groups = share and _holds("grouping", against, lambda: _resumes(prefix, grouped=True))
    resumes = groups or _holds("resuming", against, lambda: _resumes(prefix))
    return Plan(
        rows=Fork.SHARED if share else Fork.FORKED,
        choices=_choices(prefix, against),
        resumes=resumes,
        grouped=groups,
        ragged=Together.fits(prefix) and _holds("padding", against, lambda: _ragged(prefix)),
        padded=_short_convolutions(prefix.cache) and _holds("filling", against, _padded(prefix)),
        window=_window(prefix.cache),
        why=tuple(against),
    )


def pays(prefix: engine.Prefix, n: int) -> bool:
    """Whether `n` rows draw faster when they share the prompt's keys: when copies would be large
    beside the weights, which each step reads anyway (measured)."""
    from tta.decoding.layers import size

    if n < 2 or prefix.cache is None:
        return False
    weights = sum(p.numel() * p.element_size() for p in prefix.model.parameters())
    return n * size(prefix.cache) > COPIES * weights


def forced(found: Plan, rows: str | None, way: str | None) -> Plan:
    """`found` with what the caller wants instead.

    `InvalidSetting`: no such way. `UnsupportedModel`: it does not hold for this model.
    """
    wanted = found.rows if rows is None else _named(Fork, "rows", rows)
    if _EASIEST.index(wanted) > _EASIEST.index(found.rows):
        raise _unable(wanted, found)
    chosen = found.choices if way is None else _named(Way, "choices", way)
    if chosen is not Way.ROWS and chosen is not found.choices:
        raise _unable(chosen, found)
    return replace(found, rows=wanted, choices=chosen)


Kind = TypeVar("Kind", Fork, Way)


def _named(kinds: type[Kind], name: str, value: str) -> Kind:
    if value in (names := [kind.value for kind in kinds]):
        return kinds(value)
    raise InvalidSetting(f"{name} is {value!r}", value=value, hint=f"Use one of {names}")


def _unable(wanted: str, found: Plan) -> UnsupportedModel:
    said = "; ".join(found.why) or f"its layers are run as {found.choices} and {found.rows}"
    return UnsupportedModel(
        f"{wanted!r} does not hold for this model: {said}",
        value=wanted,
        hint="Leave the choice to tta",
    )


# ------------------------------------------------------------------------------------- trying


def _holds(name: str, against: list[str], difference: Callable[[], str]) -> bool:
    """Whether the way runs and differs by little; why not is noted.

    Whatever a strange architecture raises means "not this way", and the plain way remains.
    """
    try:
        found = difference()
    except Exception as error:  # any: it is the model's own code, fed what it did not expect
        against.append(f"{name}: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
        return False
    if found:
        against.append(f"{name}: {found}")
    return not found


def _differ(one: Any, other: Any, kind: torch.dtype) -> str:  # noqa: ANN401 - arrays or tensors
    gap = float(abs(one - other).max())
    bound = _TOLERANCE.get(str(kind), _COARSE)
    # Not a number is a difference, too.
    return "" if gap <= bound else f"the results differ by {gap:.2g} nats"


def _resumes(prefix: engine.Prefix, *, grouped: bool = False) -> str:
    start = engine.Prefix(prefix.model, _TRIAL[:2])
    again = engine.Prefix(prefix.model, _TRIAL, start=start, grouped=grouped)
    logits = again.logits.float().log_softmax(-1), prefix.logits.float().log_softmax(-1)
    return _differ(*logits, prefix.logits.dtype)


def _shares(prefix: engine.Prefix) -> str:
    import torch

    plain, share = prefix.fork(2), prefix.fork(2, Fork.SHARED)
    for tokens in ([[6], [7]], [[8], [9]]):
        one, other = (rows.forward(torch.tensor(tokens)) for rows in (plain, share))
    logits = one.float().log_softmax(-1), other.float().log_softmax(-1)
    return _differ(*logits, prefix.logits.dtype)


def _ragged(prefix: engine.Prefix) -> str:
    """Rows that are 1 and 2 tokens longer than the prefix, against each alone."""
    import torch

    from tta.decoding.ragged import Apart, Together

    logits = []
    for kind in (Apart, Together):
        longer, rows = kind.of(prefix), kind.of(prefix)
        longer.forward([6])
        rows.join(longer)  # type: ignore[arg-type]
        found = [rows.forward(tokens) for tokens in ([7, 8], [9, 10])]
        logits.append(torch.cat(found).float().log_softmax(-1))
    return _differ(logits[0], logits[1], prefix.logits.dtype)


def _padded(prefix: engine.Prefix) -> Callable[[], str]:
    """A prompt and a shorter one in one pass, and one token behind each, against each alone."""
    import torch

    from tta.decoding import padded

    def difference() -> str:
        prompts = (_TRIAL, _TRIAL[:2])
        both = padded.prefixes(prefix.model, prompts)
        logits = []
        for run in (both, [engine.Prefix(prefix.model, ids) for ids in prompts]):
            found = [p.logits for p in run]
            found += [p.fork(1).forward(torch.tensor([[6]]))[:, -1] for p in run]
            logits.append(torch.cat(found).float().log_softmax(-1))
        return _differ(logits[0], logits[1], prefix.logits.dtype)

    return difference


def _scores(prefix: engine.Prefix, way: Way) -> str:
    ends: Sequence[int] = (12,)
    plain, _, _ = choices.score(prefix, _ANSWERS, ends, Way.ROWS)
    other, _, _ = choices.score(prefix, _ANSWERS, ends, way)
    return _differ(np.asarray(plain), np.asarray(other), prefix.logits.dtype)


# --------------------------------------------------------------------------------- what is there


def _sharable(cache: Cache) -> bool:
    from tta.decoding.layers import keeps_all

    return any(keeps_all(layer) for layer in cache.layers)


def _choices(prefix: engine.Prefix, against: list[str]) -> Way:
    assert prefix.cache is not None
    for way, fits in ((Way.PACKED, _attention_only), (Way.FOREST, _short_convolutions)):
        if not fits(prefix.cache):
            continue
        if "position_ids" not in engine.accepted(prefix.model):
            against.append(f"{way}: the model takes no positions")
        elif _holds(way, against, lambda way=way: _scores(prefix, way)):  # type: ignore[misc]
            return way
    return Way.ROWS


def _attention_only(cache: Cache) -> bool:
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    from tta.decoding.layers import keeps_all

    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    return all(keeps_all(x) or type(x) in plain for x in cache.layers)


def _short_convolutions(cache: Cache) -> bool:
    """Nothing but full attention and convolutions without a recurrent state, one a layer."""
    from transformers.cache_utils import LinearAttentionLayer

    from tta.decoding.layers import keeps_all

    def convolution(layer: Any) -> bool:  # noqa: ANN401 - layers have no common base
        return (
            type(layer) is LinearAttentionLayer
            and layer.number_of_states == 1
            and layer.is_conv_states_initialized[0]
            and not layer.is_recurrent_states_initialized[0]
        )

    return all(keeps_all(x) or convolution(x) for x in cache.layers)


def _window(cache: Cache) -> int | None:
    found = [getattr(layer, "sliding_window", None) for layer in cache.layers]
    return min((w for w in found if w is not None), default=None)
