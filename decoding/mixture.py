"""Experts' opinions to one probability per candidate, and feedback to the experts' weights.

Knows probabilities and names of experts. Refuses to know what an expert is, where weights are kept,
and what kind of feedback it was: that is `testimony`'s.

A hypothesis says: listen to this expert, read it this sharply, and expect this share of feedback to
be wrong. One more says: feedback here means nothing, keep to the frozen model. All of them are
weighed by how well they predicted the feedback so far (Bayes with a fixed share: Herbster and
Warmuth, 1998; experts that were not asked keep their weight: Freund et al., 1997). Hence, for every
expert alone, log_loss <= expert_log_loss + allowance, whatever the feedback was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import TYPE_CHECKING, cast

import numpy as np

from tta.decoding.pool import NEEDED, POOL, moved, passed_on
from tta.errors import InvalidSetting
from tta.types import Json, Powers, Weights

if TYPE_CHECKING:
    from tta.protocols import FloatArray

SHARPNESS = (0.25, 0.5, 1.0, 1.5)
"""An opinion p is read as p ** sharpness, normalised: experts are over- or under-sure."""
NOISE = (0.0, 0.1, 0.2, 0.4)
"""Shares of feedback that may be wrong; "all of it" is `Weights.mute`."""
SHARE = 0.005
"""How much of the weight is shared out anew at each piece of feedback: what makes it possible to
follow a change. Chosen on BANKING77 and TREC, as were the lists above."""
MUTE = 32.0
"""What "feedback means nothing" enters with in a closed set, where each share of wrong feedback
that an expert is read with has 1. A reader that is next to undecided predicts noise as well as that
hypothesis does: between the two, the frozen model is to answer."""
ALONE = 0.03
"""How much of that is left in a task where all the user's other tasks say that she means something
by it."""
HABIT = 0.1
"""Of both habits, to correct and only to refuse, so much is taken to have been seen: which of them
somebody has shows at the first wrong answer."""
FLOOR = 1e-4
"""No expert may rule an answer out: it gives this much of its opinion to all answers alike."""
FROZEN = "frozen"
AHEAD = {
    "recalled": 16.0,
    "recalled*votes": 16.0,
    POOL: 16.0,
    "all": 8.0,
    "centroid": 4.0,
    "kernel.05": 0.3,
    "kernel.02": 0.1,
    "recent": 0.1,
    "verifier": 64.0,
    "agreement": 4.0,
    "certainty": 0.25,
    "agreement/certain": 0.25,
    "agreement/group": 0.25,
    "agreement/mask": 0.25,
}
"""How much more than the others an expert is trusted before there is any feedback: a verifier most
of all, then the model as it was told to be shown things (what it reads there, or reads and cases
vote for), what the readers say together, and what its samples agree on. The narrow kernels are sure
before they are right."""
AHEAD_EACH = {"centroid": 1.0, POOL: 0.5, "kernel*lda": 0.2}
"""The same for each candidate, if that is more: with few cases of each answer a centroid is the
best reader (where names mislead, nearest cases and a discriminant together), and the more answers
there are, the longer they are few, and the less a piece of feedback says of who is to be heard."""

_SHARPNESS = np.array(SHARPNESS)[:, None]
_CELLS = len(SHARPNESS) * len(NOISE)
_PLAIN = SHARPNESS.index(1.0)
_KEPT = log(1 - SHARE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """`scores` (K,) = sum over experts of `weights[e] * parts[e]` (K,); each sums to 1.

    `rows`: the `table` of the opinions that were mixed, where one was made."""

    scores: FloatArray
    weights: Mapping[str, float]
    parts: Mapping[str, FloatArray]
    mute: float = 0.0
    rows: FloatArray | None = None


def normalise(scores: FloatArray) -> FloatArray:
    """Log-softmax over the candidates: float64, shape (K,); the exponentials sum to one.

    A candidate at -inf stays there. `InvalidSetting`: not one-dimensional, empty, NaN, +inf, or
    no finite score at all.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise InvalidSetting(
            f"Scores have shape {values.shape}, not (candidates,)",
            value=values.shape,
            hint="Give one log-probability per candidate",
        )
    top = values.max()
    if not np.isfinite(top):  # NaN and +inf propagate to the maximum; so does "all -inf"
        raise InvalidSetting(
            f"Scores that cannot be normalised: {values!r}",
            value=scores,
            hint="At least one must be finite, none NaN or +inf",
        )
    shifted = values - top
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), dtype=np.float64)


def sharpened(logprobs: FloatArray) -> FloatArray:
    """Opinions at each sharpness, as probabilities bounded by `FLOOR`: (..., K) to (..., S, K)."""
    powers = np.asarray(logprobs, dtype=np.float64)[..., None, :] * _SHARPNESS
    powers -= powers.max(-1, keepdims=True)
    np.exp(powers, out=powers)
    powers *= (1 - FLOOR) / powers.sum(-1, keepdims=True)
    powers += FLOOR / powers.shape[-1]
    return np.asarray(powers)


def blend(opinions: Mapping[str, FloatArray], weights: Weights) -> Blend:
    """The mixture of opinions, log-probabilities of shape (K,) each.

    Experts without a weight yet enter with their share; those without an opinion are left out. What
    `mute` holds is the frozen expert's. `InvalidSetting`: no opinion, different numbers of
    candidates, opinions that cannot be normalised.
    """
    names = _checked(opinions)
    known = entered(weights, names, len(next(iter(opinions.values()))))
    cells = np.array([known.cells[name] for name in names])
    cells = cells.reshape(len(names), len(SHARPNESS), len(NOISE)).sum(2)
    mute = known.mute if FROZEN in opinions else 0.0
    if mute:
        cells[names.index(FROZEN), _PLAIN] += mute
    cells /= cells.sum()
    rows = table(opinions)
    read = sharpened(rows)
    totals = cells.sum(1)
    parts = np.einsum("es,esk->ek", cells, read) / totals[:, None]
    return Blend(
        scores=totals @ parts,
        weights=dict(zip(names, totals.tolist(), strict=True)),
        parts=dict(zip(names, parts, strict=True)),
        mute=mute,
        rows=rows,
    )


def table(opinions: Mapping[str, FloatArray]) -> FloatArray:
    """The opinions as rows of log-probabilities, each normalised: shape (experts, K).

    To nine decimals: what is beyond hangs on the order in which a reader has learned, and what was
    undone should leave nothing behind."""
    rows = np.array(list(opinions.values()), dtype=np.float64)
    top = rows.max(1, keepdims=True) if rows.ndim == 2 and rows.size else np.array(np.nan)
    if not np.isfinite(top).all():
        for opinion in opinions.values():  # says which, and why
            normalise(opinion)
    rows -= top
    rows -= np.log(np.exp(rows).sum(1, keepdims=True))
    return np.round(rows, 9, out=rows)


def alone(name: str, opinion: FloatArray) -> Blend:
    """One opinion as it is."""
    scores = np.exp(normalise(opinion))
    return Blend(scores=scores, weights={name: 1.0}, parts={name: scores})


def joined(mixed: Blend, name: str, opinion: FloatArray, weight: float) -> Blend:
    """`mixed` and one more expert of a given weight; `opinion`: probabilities, shape (K,)."""
    weights = {other: (1 - weight) * w for other, w in mixed.weights.items()}
    return replace(
        mixed,
        scores=(1 - weight) * mixed.scores + weight * opinion,
        weights={**weights, name: weight},
        parts={**mixed.parts, name: opinion},
    )


def without(mixed: Blend, allowed: Sequence[bool], name: str, weight: float) -> Blend:
    """`mixed` and one more expert that rules out what is not allowed, while anything is."""
    kept = np.array(allowed)
    if kept.all() or not kept.any():
        return mixed
    left = np.where(kept, mixed.scores, 0.0)
    return joined(mixed, name, left / left.sum(), weight)


def pinned(mixed: Blend, said: Mapping[str, float]) -> Blend:
    """`mixed` with the weights that were said, as far as these experts spoke: the others share the
    rest in proportion. Nothing changes where nobody would be left to listen to."""
    here = {name: weight for name, weight in said.items() if name in mixed.weights}
    others = {name: weight for name, weight in mixed.weights.items() if name not in here}
    told, free = sum(here.values()), sum(others.values())
    if not here or told + free <= 0:
        return mixed
    share = max(0.0, 1 - told) / free if free > 0 else 0.0
    raw = {name: here.get(name, share * weight) for name, weight in mixed.weights.items()}
    weights = {name: weight / sum(raw.values()) for name, weight in raw.items()}
    scores = np.array(list(weights.values())) @ np.array([mixed.parts[name] for name in weights])
    mute = min(mixed.mute, weights[FROZEN]) if FROZEN in weights else mixed.mute
    return replace(mixed, scores=scores, weights=weights, mute=mute)


def totals(weights: Weights) -> dict[str, float]:
    """Each expert's weight; what `mute` holds counts for the frozen one."""
    found = {name: sum(cells) for name, cells in weights.cells.items()}
    found[FROZEN] = found.get(FROZEN, 0.0) + weights.mute
    return found


def noise(weights: Weights) -> float:
    """The expected share of feedback that is wrong (0 to 1); `mute` counts as all of it."""
    if not weights.cells:
        return 0.0
    cells = np.array(list(weights.cells.values())).reshape(-1, len(SHARPNESS), len(NOISE))
    return float(cells.sum((0, 1)) @ NOISE) + weights.mute


class Mixture:
    """The `Weigher`: how feedback moves the weights. Holds no state."""

    def begin(self, parent: Weights | None) -> Weights:
        """Half of the parent's opinion of its experts, half even: a new task is like the others,
        or it is not."""
        fresh = Weights()
        if parent is None or not parent.cells:
            return fresh
        fresh = replace(
            fresh,
            powers=passed_on(parent.powers),
            corrected=parent.corrected,
            refused=parent.refused,
        )
        even = entered(fresh, list(parent.cells))
        cells = {
            name: tuple((a + b) / 2 for a, b in zip(cells, even.cells[name], strict=True))
            for name, cells in parent.cells.items()
        }
        allowance = {name: -float(np.log(c[_PLAIN * len(NOISE)])) for name, c in cells.items()}
        return replace(even, cells=cells, mute=(parent.mute + even.mute) / 2, allowance=allowance)

    def believed(self, weights: Weights, whole: Weights) -> Weights:
        """Whether somebody means anything by feedback shows in all that it is given to: `mute`
        counts for less the less it holds of the `whole`, as far as that is other tasks'."""
        others = whole.feedback - weights.feedback
        if others <= 0 or not weights.cells:
            return weights
        factor = (ALONE + (1 - ALONE) * whole.mute) ** (others / whole.feedback)
        left = 1 - (1 - factor) * weights.mute
        cells = {name: tuple(c / left for c in cells) for name, cells in weights.cells.items()}
        return replace(weights, cells=cells, mute=factor * weights.mute / left)

    def observe(self, weights: Weights, heard: Mapping[str, Json]) -> Weights:
        """After feedback: `heard` as `testimony` made it. One step of Bayes and a fixed share."""
        likelihood = cast(Mapping[str, Sequence[float]], heard["likelihood"])
        chance = _chance(weights, heard)
        # A journal from when experts were read at other sharpnesses says nothing of these.
        names = [name for name, row in likelihood.items() if len(row) == len(SHARPNESS)]
        if not names:
            return weights
        among = int(cast(int, heard.get("among", 0)))
        known = entered(weights, names, among)
        old = np.array([known.cells[name] for name in names])
        each = np.array([likelihood[name] for name in names])[:, :, None]
        share_wrong = np.array(NOISE)
        told = ((1 - share_wrong) * each + share_wrong * chance).reshape(len(names), _CELLS)
        awake = float(old.sum()) + known.mute
        mixed = (float((old * told).sum()) + known.mute * chance) / awake
        enters = np.array([_units(name, among) for name in names])[:, None]
        mutes = _mute_units(names)
        shared = SHARE * awake / (float(enters.sum()) + mutes)
        new = (1 - SHARE) * old * told / mixed + shared * enters / _CELLS
        mute = (1 - SHARE) * known.mute * chance / mixed + mutes * shared
        plain = dict(zip(names, each[:, _PLAIN, 0].tolist(), strict=True))
        return Weights(
            cells={**known.cells, **dict(zip(names, map(tuple, new.tolist()), strict=True))},
            mute=mute,
            powers=_climbed(known, heard, _right(known, plain, chance)),
            corrected=known.corrected + (heard.get("corrects") is True),
            refused=known.refused + (heard.get("corrects") is False),
            feedback=known.feedback + 1,
            log_loss=known.log_loss - log(mixed),
            expert_log_loss={
                name: loss - log(plain.get(name, mixed))
                for name, loss in known.expert_log_loss.items()
            },
            allowance={
                name: allowed - (_KEPT if name in plain else 0.0)
                for name, allowed in known.allowance.items()
            },
        )


def entered(weights: Weights, names: Sequence[str], among: int = 0) -> Weights:
    """`weights` with those of `names` that had none: each expert enters with its share, at the
    cost of the others. `among`: how many candidates there are, as far as it is known."""
    new = [name for name in names if name not in weights.cells]
    if not new:
        return weights
    units = {name: _units(name, among) for name in (*weights.cells, *new)}
    after = _mute_units(units) + sum(units.values())
    before = after - sum(units[name] for name in new)
    scale = before / after
    cell = {name: units[name] / after / _CELLS for name in new}
    cost = -float(np.log(scale)) if weights.cells else 0.0
    return replace(
        weights,
        cells={
            **{name: tuple(scale * c for c in cells) for name, cells in weights.cells.items()},
            **{name: (cell[name],) * _CELLS for name in new},
        },
        mute=scale * weights.mute,
        expert_log_loss={**weights.expert_log_loss, **dict.fromkeys(new, weights.log_loss)},
        allowance={
            **{name: allowed + cost for name, allowed in weights.allowance.items()},
            **{name: -float(np.log(cell[name])) for name in new},
        },
    )


def _climbed(known: Weights, heard: Mapping[str, Json], right: float) -> Powers:
    slopes = cast(Mapping[str, float], heard.get("slopes") or {})
    return moved(known.powers, slopes, right, cast(float | None, heard.get("reached")))


def _chance(weights: Weights, heard: Mapping[str, Json]) -> float:
    """How probable feedback is that means nothing. Who tells the right answer of what is wrong
    approves, if he means nothing by it, of one in as many as there are; who does not, of every
    other."""
    chance = 1 / float(cast(float, heard["outcomes"]))
    of_corrections = heard.get("of_corrections")
    if of_corrections is None:
        return chance
    wrong = weights.corrected + weights.refused
    corrects = (weights.corrected + HABIT) / (wrong + 2 * HABIT)
    return corrects / float(cast(float, of_corrections)) + (1 - corrects) * chance


def _right(weights: Weights, plain: Mapping[str, float], chance: float) -> float:
    """The probability that feedback is right, for who believes the pool."""
    wrong = noise(weights)
    told = (1 - wrong) * plain.get(POOL, 0.0)
    return told / (told + wrong * chance) if told else 0.0


def _mute_units(names: Collection[str]) -> float:
    return MUTE if NEEDED in names else 1.0


def _units(name: str, among: int) -> float:
    """What an expert enters with."""
    return len(NOISE) * max(AHEAD.get(name, 1.0), among * AHEAD_EACH.get(name, 0.0))


def _checked(opinions: Mapping[str, FloatArray]) -> list[str]:
    if not opinions:
        raise InvalidSetting("No opinion to combine", value=opinions, hint="Give at least one")
    sizes = {name: np.shape(opinion) for name, opinion in opinions.items()}
    if len(set(sizes.values())) > 1:
        raise InvalidSetting(
            f"Opinions over different candidates: {sizes!r}",
            value=sizes,
            hint="Every expert must speak of the same candidates",
        )
    return list(opinions)
