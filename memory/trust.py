"""What answers and feedback have said of the experts of one user: a fold, like all else here.

Knows which events carry what, and how to take one piece of feedback back. Refuses to know how
weights move: that is the `Weigher`'s, given by whoever opens the memory; without one they are not
kept.
"""

from __future__ import annotations

import json
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log
from typing import Any, cast

from tta.memory.moves import Moves
from tta.protocols import Weigher
from tta.types import ANY_TASK, Bias, Json, Standing, Tally, Weights

MARGINS = 100
"""How many answers back it is remembered how close they were."""
_UNTRIED = ((0.0, 0.0),) * 5
"""(feedback, right) for each fifth of the confidence."""
FEW = 10
"""Answers before "close" means anything."""
_ALIKE = 1e-6
_GOLDEN = 0.6180339887498949
"""Its multiples are spread evenly between whole numbers (Weyl, 1916)."""


@dataclass(slots=True)
class Seen:
    """What the answers of one task say, without any feedback; all but their number is of the
    `model` that gave the last of them."""

    answers: int = 0
    model: str = ""
    margins: deque[float] = field(default_factory=lambda: deque(maxlen=MARGINS))
    biases: dict[str, Bias] = field(default_factory=dict)


@dataclass(slots=True)
class Trust:
    """Of one user, by task; `weights` of ANY_TASK are those of all tasks together, and what a new
    task starts from. `heard` keeps what each feedback said (JSON, deflated), for an undo; `cited`,
    of each passage that was shown, how right (1 to -1) each feedback proved it.

    `seen`, `heard` and `cited` go by the names that tasks came with, all else by what they are by
    now, which the `moves` tell."""

    seen: dict[str, Seen] = field(default_factory=dict)
    weights: dict[str, Weights] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)
    heard: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    reliability: dict[tuple[str, bool], tuple[tuple[float, float], ...]] = field(
        default_factory=dict
    )
    cited: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    sampled: dict[str, Tally] = field(default_factory=dict)
    first: dict[str, tuple[float, float]] = field(default_factory=dict)
    steps: dict[str, dict[bool, tuple[float, float]]] = field(default_factory=dict)
    moves: Moves = field(default_factory=Moves)

    def answered(self, task: str, body: Mapping[str, Json]) -> None:
        """Count an answer, how close it was, and what each model's opinion is on average."""
        seen = self.seen.setdefault(task, Seen())
        seen.answers += 1
        model = str(body.get("model", ""))
        if model != seen.model:
            # Means of another model's opinions would be subtracted from this one's.
            seen.model, seen.biases = model, {}
            seen.margins.clear()
        margin = body.get("margin")
        if isinstance(margin, float | int):
            seen.margins.append(float(margin))
        opinions = cast(Mapping[str, Any], body.get("opinions") or {})
        if opinions.get("closed"):
            for name in opinions["passes"]:
                old = seen.biases.get(name, Bias())
                seen.biases[name] = _moved(old, opinions, opinions["experts"][name])

    def learn(self, feedback: str, task: str, heard: Json, weigher: Weigher | None) -> None:
        """Move the weights of the task, and of all tasks."""
        if weigher is None or not isinstance(heard, Mapping):
            return
        self.heard[feedback] = (task, zlib.compress(json.dumps(heard).encode()))
        self._weigh(self.moves.home(task, feedback=feedback), heard, weigher)

    def cite(self, feedback: str, task: str, cited: Json) -> None:
        """What feedback said of the passages that were shown."""
        if not isinstance(cited, Mapping) or not cited:
            return
        known = self.cited.setdefault(task, {})
        for passage, right in cited.items():
            known.setdefault(passage, {})[feedback] = float(cast(float, right))

    def worth(self, task: str) -> dict[str, float]:
        """By how much feedback multiplies what a passage counts in a task: 0 to 2, and 1 for those
        not listed. Twice the mean of a Beta(1, 1) prior after what was said."""
        found = {}
        for passage, said in self._cited(task).items():
            right = sum(max(0.0, s) for s in said.values())
            wrong = sum(max(0.0, -s) for s in said.values())
            found[passage] = 2 * (1 + right) / (2 + right + wrong)
        return found

    def _cited(self, task: str) -> Mapping[str, Mapping[str, float]]:
        if not self.moves:
            return self.cited.get(task, {})
        found: dict[str, dict[str, float]] = {}
        for name in self.moves.sources(task):
            for passage, said in self.cited.get(name, {}).items():
                for feedback, right in said.items():
                    if self.moves.home(name, feedback=feedback) == task:
                        found.setdefault(passage, {})[feedback] = right
        return found

    def undo(self, feedback: str, weigher: Weigher | None) -> None:
        """As if it had never been given: all the rest again, in order."""
        for task, known in list(self.cited.items()):
            for passage in [p for p, said in known.items() if said.pop(feedback, None) is not None]:
                if not known[passage]:
                    del known[passage]
            if not known:
                del self.cited[task]
        if self.heard.pop(feedback, None) is not None:
            self.again(weigher)

    def again(self, weigher: Weigher | None) -> None:
        """Weigh all that was heard, in order, each in the task that it is of by now."""
        if weigher is None:
            return
        self.weights.clear()
        self.tallies.clear()
        self.reliability.clear()
        self.sampled.clear()
        self.first.clear()
        self.steps.clear()
        for feedback, (task, text) in self.heard.items():
            home = self.moves.home(task, feedback=feedback)
            self._weigh(home, json.loads(zlib.decompress(text)), weigher)

    def standing(self, task: str, weigher: Weigher | None) -> Standing:
        """What is known before a request of `task` is answered."""
        seen = self._seen(task)
        return Standing(
            weights=self._believed(task, weigher),
            experienced=bool(self.heard),
            answers=seen.answers,
            biases=seen.biases,
            reliability=self.reliability.get((task, True), ()),
            unaided=self.reliability.get((task, False), ()),
            sampled=self.sampled.get(task, Tally()),
            first=self.first.get(task, (0.0, 0.0)),
            steps=self.steps.get(task, {}),
        )

    def _believed(self, task: str, weigher: Weigher | None) -> Weights:
        if weigher is None:
            return self.weights.get(task, Weights())
        whole = self.weights.get(ANY_TASK)
        own = self.weights.get(task)
        weights = weigher.begin(whole) if own is None else own
        return weights if whole is None else weigher.believed(weights, whole)

    def is_close(self, task: str, margin: float, share: float) -> bool:
        """Whether `margin` is among the smallest `share` of the last ones; True while few are
        known. Of equals (all answers without a rival are) an even share is."""
        seen = self._seen(task)
        if len(seen.margins) < FEW:
            return share > 0
        closer = sum(other < margin - _ALIKE for other in seen.margins)
        alike = sum(abs(other - margin) <= _ALIKE for other in seen.margins)
        chance = (share * len(seen.margins) - closer) / max(1, alike)
        return seen.answers * _GOLDEN % 1 < chance

    def _seen(self, task: str) -> Seen:
        """Of all names that the task has had; a task that was split off shares what was seen."""
        if not self.moves:
            return self.seen.get(task, Seen())
        names = self.moves.sources(task)
        found = [self.seen[name] for name in reversed(names) if name in self.seen]
        return _joined(found) if found else Seen()

    def _weigh(self, task: str, heard: Mapping[str, Json], weigher: Weigher) -> None:
        self.tallies[task] = _counted(self.tallies.get(task, Tally()), heard, "right", "frozen")
        self.sampled[task] = _counted(self.sampled.get(task, Tally()), heard, "picked", "greedy")
        arm = (task, heard.get("aided") is not False)
        self.reliability[arm] = _relied(self.reliability.get(arm, _UNTRIED), heard)
        self.first[task] = _right(self.first.get(task, (0.0, 0.0)), heard.get("greedy"))
        if isinstance(thought := heard.get("thought"), bool):
            arms = self.steps.setdefault(task, {})
            arms[thought] = _right(arms.get(thought, (0.0, 0.0)), heard["right"])
        if not heard["likelihood"]:
            return
        parent = self.weights.get(ANY_TASK)
        own = self.weights.get(task)
        if task != ANY_TASK:
            self.weights[task] = weigher.observe(
                own if own is not None else weigher.begin(parent), heard
            )
        self.weights[ANY_TASK] = weigher.observe(
            parent if parent is not None else weigher.begin(None), heard
        )


def _joined(parts: Sequence[Seen]) -> Seen:
    """What the answers of several tasks say together; of the last one's model."""
    model = parts[-1].model
    same = [part for part in parts if part.model == model]
    biases: dict[str, Bias] = {}
    for part in same:
        for name, bias in part.biases.items():
            known = biases.get(name, Bias())
            both = known.sums.keys() | bias.sums.keys()
            sums = {text: known.sums.get(text, 0.0) + bias.sums.get(text, 0.0) for text in both}
            biases[name] = Bias(
                count=known.count + bias.count, rest=known.rest + bias.rest, sums=sums
            )
    margins = deque((m for part in same for m in part.margins), maxlen=MARGINS)
    answers = sum(part.answers for part in parts)
    return Seen(answers=answers, model=model, margins=margins, biases=biases)


def _relied(
    known: tuple[tuple[float, float], ...], heard: Mapping[str, Json]
) -> tuple[tuple[float, float], ...]:
    """One more open answer in the bin of its confidence."""
    confidence = heard.get("confidence")
    if confidence is None:
        return known
    place = min(len(known) - 1, int(float(cast(float, confidence)) * len(known)))
    count, right = known[place]
    moved = (count + 1, right + float(cast(float, heard["right"])))
    return (*known[:place], moved, *known[place + 1 :])


def _right(known: tuple[float, float], right: Json) -> tuple[float, float]:
    """(feedback, right) and one more, where it is known how right it was."""
    if right is None:
        return known
    return known[0] + 1, known[1] + float(cast(float, right))


def _counted(tally: Tally, heard: Mapping[str, Json], one: str, other: str) -> Tally:
    """One more answer that was right or not, where it is known how right the `other` was."""
    if heard.get(one) is None or heard.get(other) is None:
        return tally
    right, was = float(cast(float, heard[one])), float(cast(float, heard[other]))
    return Tally(
        steps=tally.steps + 1,
        adapted=tally.adapted + right,
        frozen=tally.frozen + was,
        gained=tally.gained + right - was,
        gained_squared=tally.gained_squared + (right - was) ** 2,
    )


def _moved(old: Bias, opinions: Mapping[str, Any], listed: str) -> Bias:
    """One more answer's opinion in the running mean; those not listed share what is left."""
    logs = [int(centinats) / 100 for centinats in listed.split()]
    others = opinions["of"] - len(logs)
    rest = log(max(1e-4, 1 - sum(map(exp, logs))) / others) if others > 0 else 0.0
    sums = dict(old.sums)
    for answer, value in zip(opinions["answers"], logs, strict=True):
        sums[answer] = sums.get(answer, 0.0) + value - rest
    return Bias(count=old.count + 1, rest=old.rest + rest, sums=sums)
