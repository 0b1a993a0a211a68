"""What a piece of feedback says of each expert, from the opinions that were kept of the answer.

Knows kinds of feedback and probabilities. Refuses to know weights (`mixture`) and the journal. No
model is asked: late feedback is judged by what the experts thought when they answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tta.decoding.mixture import FLOOR, FROZEN, Blend, sharpened, table
from tta.decoding.pool import NAMES, POOL, features, reached, slope
from tta.types import EventKind, Json

if TYPE_CHECKING:
    from tta.protocols import FloatArray

KEPT = 12
"""How many of the likeliest answers the opinions are kept of, besides each expert's favourite."""
INSTEAD = 8
"""How many other answers are kept of which one may have been right when one was wrong."""
_CENTINATS = 100
_OF_SAMPLES = ("greedy", "picked")


def opinions_json(
    texts: Sequence[str],
    opinions: Mapping[str, FloatArray],
    mixed: Blend,
    *,
    closed: bool,
    frozen: str | None,
    passes: Sequence[str],
    confidence: float | None = None,
) -> dict[str, Json]:
    """What the journal keeps: log-probabilities in hundredths of nats, as texts.

    answers, of (how many candidates), closed, frozen (its answer, None if it was not asked),
    passes (which experts took a model pass), confidence (in an open answer, before it was
    calibrated), mixture and experts (of the answers listed; what is left of 1 is spread evenly
    over the others). `decide` adds greedy and picked: the first sample, and the best of several;
    aided: whether the model was shown anything that was recalled; thought, where thinking step by
    step is tried: whether it was; and powers, where experts were pooled: those that it was done
    with (`pool.held`).
    """
    rows = table(opinions) if mixed.rows is None else mixed.rows
    listed = _likeliest(mixed.scores, rows)
    with np.errstate(divide="ignore"):
        mixture = np.log(mixed.scores[listed])
    said = _centinats(np.vstack([mixture, rows[:, listed]]))
    return {
        "answers": [texts[i] for i in listed],
        "of": len(texts),
        "closed": closed,
        "frozen": frozen,
        "passes": list(passes),
        "confidence": None if confidence is None else round(confidence, 4),
        "mixture": said[0],
        "experts": dict(zip(opinions, said[1:], strict=True)),
    }


def testify(kept: Mapping[str, Any], kind: EventKind, body: Mapping[str, Json]) -> dict[str, Json]:
    """What feedback says: fields to add to its event's body; empty if it says nothing.

    `heard`: likelihood (of the feedback, by expert, one number for each sharpness; empty if it says
    nothing of them), outcomes (how many there could have been), of_corrections (how many if whoever
    gave it corrects what is wrong, where that makes a difference), corrects (in a closed set,
    whether he did; None where nothing was wrong), among (how many candidates there were), right
    (how right the answer was, 0 to 1), frozen, greedy, picked (how right those were; None if it is
    not known), confidence (in an open answer), aided (whether anything was recalled for it),
    thought, slopes and reached (see `pool`; where others were pooled). `instead`: see
    `Record.instead`.
    """
    if not kept or not kept["experts"]:
        return {}
    told = _Told(kept, str(body["answer"]))
    found = _judge(told, kind, body)
    if found is None:
        return {}
    said: dict[str, Json] = {"heard": cast(Json, found)}
    if kept["closed"] and kind is EventKind.RATING and cast(float, body["value"]) < 0:
        said["instead"] = told.instead()
    return said


@dataclass
class _Told:
    """The opinions kept of one answer, over the answers listed and one place for each other."""

    kept: Mapping[str, Any]
    answer: str

    def likelihood(self, text: str) -> FloatArray:
        """Each expert's probability of `text` at each sharpness, shape (experts, sharpness)."""
        place = self.place(text)
        return np.asarray(self._read[:, :, place])

    def place(self, text: str) -> int:
        """The first place of the others when it is not listed."""
        listed = self.kept["answers"]
        return listed.index(text) if text in listed else len(listed)

    def knows(self, text: str) -> bool:
        """Whether `text` was a candidate: an answer new to a closed set was not."""
        listed = self.kept["answers"]
        return text in listed or (bool(self.kept["closed"]) and len(listed) < self.kept["of"])

    def names(self) -> list[str]:
        return list(self.kept["experts"])

    def probability(self, text: str | None) -> float:
        """The mixture's, of a text that is listed; 0 for others."""
        if text is None or text not in self.kept["answers"]:
            return 0.0
        listed = self.kept["mixture"].split()
        return float(np.exp(int(listed[self.place(text)]) / _CENTINATS))

    def if_wrong(self, text: str) -> float:
        """The mixture's probability of another answer, given that the one given was wrong."""
        others = [t for t in self.kept["answers"] if t != self.answer]
        # Never less than what is listed: 1 - p is no number to divide by where p was rounded to 1.
        left = max(1 - self.probability(self.answer), sum(map(self.probability, others)))
        return self.probability(text) / left if left > 0 else 0.0

    def instead(self) -> dict[str, Json]:
        others = [text for text in self.kept["answers"] if text != self.answer]
        return {text: round(self.if_wrong(text), 4) for text in others[:INSTEAD]}

    def slopes(self, said: Mapping[str, float], others: float | None) -> dict[str, float]:
        """What the feedback says of the pooled experts' powers. `said`: how likely it was, were
        that answer the right one; `others`: were it another; None where it speaks of no other."""
        if POOL not in self.kept["experts"]:
            return {}
        rows = dict(zip(self.names(), self._table, strict=True))
        if FROZEN in rows:
            rows.setdefault(NAMES, rows[FROZEN])  # without a model they are one
        before = np.exp(rows[POOL])
        places = [self.place(text) for text in said]
        if others is None:
            before[np.delete(np.arange(len(before)), places)] = 0.0
        after = before * (others or 0.0)
        after[places] = before[places] * list(said.values())
        if not after.sum():  # it was sure of what turned out wrong
            return {}
        return slope(features(rows), before / before.sum(), after / after.sum())

    def reached(self, slopes: Mapping[str, float]) -> float | None:
        powers = self.kept.get("powers")
        return reached(slopes, powers) if powers and slopes else None

    @cached_property
    def _read(self) -> FloatArray:
        return sharpened(self._table)

    @cached_property
    def _table(self) -> FloatArray:
        rows = self.kept["experts"].values()
        whole = np.fromstring(" ".join(rows), dtype=np.float64, sep=" ")
        listed = whole.reshape(len(rows), len(self.kept["answers"])) / _CENTINATS
        others = self.kept["of"] - listed.shape[1]
        if others > 0:
            rest = np.maximum(1 - np.exp(listed).sum(1, keepdims=True), FLOOR) / others
            listed = np.hstack([listed, np.repeat(np.log(rest), others, axis=1)])
        return listed


def _judge(told: _Told, kind: EventKind, body: Mapping[str, Json]) -> dict[str, object] | None:
    if kind is EventKind.RATING:
        return _rated(told, float(cast(float, body["value"])))
    if kind is EventKind.CORRECTION:
        return _corrected(told, str(body["text"]))
    if kind is EventKind.EDIT:
        return _corrected(told, str(body["result"]))
    if kind is EventKind.PREFERENCE:
        return _preferred(told, str(body["chosen"]), str(body["rejected"]))
    return None


def _rated(told: _Told, value: float) -> dict[str, object] | None:
    """A reward between says "right" with probability (1 + value) / 2."""
    right = (1 + value) / 2
    p = told.likelihood(told.answer)

    def was(other: str) -> float:
        return right if other == told.answer else (1 - right) * told.if_wrong(other)

    slopes = told.slopes({told.answer: right}, 1 - right)
    found = _heard(told, right * p + (1 - right) * (1 - p), 2, right, was, slopes)
    if told.kept["closed"]:
        found["of_corrections"] = told.kept["of"] if right == 1 else None
        found["corrects"] = False if value < 0 else None
    return found


def _corrected(told: _Told, text: str) -> dict[str, object] | None:
    right = float(text == told.answer)

    def was(other: str) -> float:
        return float(other == text)

    if not told.knows(text):
        # New to a closed set: the one given was wrong. Open: all were, and nobody more so.
        wrong = 1 - told.likelihood(told.answer) if told.kept["closed"] else None
        found = _heard(told, wrong, 2, right, was, told.slopes({told.answer: 0.0}, 1.0))
    else:
        slopes = told.slopes({text: 1.0}, 0.0)
        found = _heard(told, told.likelihood(text), told.kept["of"], right, was, slopes)
    return {**found, "corrects": True} if told.kept["closed"] else found


def _preferred(told: _Told, chosen: str, rejected: str) -> dict[str, object] | None:
    """Bradley and Terry (1952) over two of the candidates; it tells how right an answer was only of
    those two."""
    if not (told.knows(chosen) and told.knows(rejected)):
        return None
    won, lost = told.likelihood(chosen), told.likelihood(rejected)
    both = (chosen, rejected)

    def was(other: str) -> float | None:
        return float(other == chosen) if other in both and told.answer in both else None

    slopes = told.slopes({chosen: 1.0, rejected: 0.0}, None)
    return _heard(told, won / (won + lost), 2, float(chosen == told.answer), was, slopes)


def _heard(
    told: _Told,
    likelihood: FloatArray | None,
    outcomes: int,
    right: float,
    was: Callable[[str], float | None],
    slopes: Mapping[str, float],
) -> dict[str, object]:
    """`was`: how right another answer was. Where there was one candidate only, nobody has shown
    more than another."""
    rows: list[list[float]] = []
    if likelihood is not None and told.kept["of"] > 1:
        bounded = np.clip(likelihood, FLOOR, 1.0)
        rows = [[float(f"{p:.5g}") for p in row] for row in bounded.tolist()]
    return {
        "likelihood": dict(zip(told.names(), rows, strict=False)),
        "outcomes": max(2, outcomes),
        "among": told.kept["of"],
        "right": right,
        "confidence": told.kept.get("confidence"),
        "aided": told.kept.get("aided"),
        "thought": told.kept.get("thought"),
        "slopes": slopes,
        "reached": told.reached(slopes),
        **{name: _rounded(told.kept.get(name), was) for name in ("frozen", *_OF_SAMPLES)},
    }


def _rounded(other: str | None, was: Callable[[str], float | None]) -> float | None:
    found = None if other is None else was(other)
    return None if found is None else round(found, 4)


def _likeliest(scores: FloatArray, rows: FloatArray) -> list[int]:
    order = np.argsort(-scores, kind="stable")[:KEPT].tolist()
    favourites = rows.argmax(1).tolist()
    return list(dict.fromkeys([*order, *favourites]))


def _centinats(logprobs: FloatArray) -> list[str]:
    """Of each row whole hundredths, separated by spaces: one text is cheaper to keep than many
    numbers."""
    whole = np.rint(_CENTINATS * np.maximum(-20.0, logprobs)).astype(int)
    return [" ".join(map(str, row)) for row in whole.tolist()]
