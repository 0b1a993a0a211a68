"""Streams of requests with closed answers: files, users in conflict, drift, recurrence, BBH.

A stream is what a method may see (`Stream`); the targets lie beside it, in `Drawn`, and go to the
oracle alone. Knows data and orders; refuses to know methods and feedback. The order of a stream is
`numpy.random.default_rng(seed).permutation`, its first N.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tta.errors import InvalidSetting
from tta.evaluate import choices
from tta.labelled import Example, answers_of, check_targets, read_answers, read_examples
from tta.types import DEFAULT_USER, Choices

SHOTS = 16
DRIFTING = 0.25
"""Share of the labels that are permuted at half of a stream that drifts."""
BBH_CHARACTERS = 1_600
"""Longer BBH requests are left out: a small model's context holds no more."""
BBH_CLOSED = 20
"""A BBH task with more distinct targets than this has open answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One request as a method sees it. `answers` is None for an open answer; `task` is None where
    it is to be inferred; `edited` says that feedback comes as an edit of the answer."""

    text: str
    user: str = DEFAULT_USER
    task: str | None = None
    answers: Choices | None = None
    edited: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What a method may see. `shots` are right answers to requests that are not in the stream;
    `scoped`: every user is a stranger to the others, so baselines get one memory each as well;
    `blocks`: at which steps a new part begins, for the report."""

    name: str
    items: tuple[Item, ...]
    shots: tuple[tuple[Item, str], ...] = ()
    scoped: bool = False
    blocks: tuple[int, ...] = (0,)
    drifts: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A stream and, for the oracle alone, what is right. On streams of clarifications `targets`
    are intents, `clarifications` what the user would say, `meanings` the intent of each saying."""

    stream: Stream
    targets: tuple[str, ...]
    clarifications: tuple[str, ...] = ()
    meanings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A labelled set: examples, and name -> description of its answers."""

    name: str
    examples: tuple[Example, ...]
    answers: Mapping[str, str]

    @classmethod
    def read(cls, path: Path, *, text: str, target: str, labels: Path | None) -> Labelled:
        """Raises InvalidSetting or InvalidText for a file that cannot be used."""
        examples = read_examples(path, text=text, target=target)
        answers = read_answers(labels) if labels else answers_of(examples)
        check_targets(examples, answers)
        return cls(name=path.stem, examples=examples, answers=answers)


def data_folder() -> Path:
    """The folder that TTA_DATA names. Raises InvalidSetting when it names none."""
    path = os.environ.get("TTA_DATA", "")
    if not path or not Path(path).is_dir():
        raise InvalidSetting(
            f"TTA_DATA is {path!r}", value=path, hint="Let it name the folder with the data sets"
        )
    return Path(path)


def banking() -> Labelled:
    folder = data_folder() / "banking77"
    found = Labelled.read(
        folder / "train.csv", text="text", target="category", labels=folder / "categories.json"
    )
    return replace(found, name="banking77")


def trec() -> Labelled:
    folder = data_folder() / "trec"
    found = Labelled.read(
        folder / "train.jsonl", text="text", target="label", labels=folder / "labels.json"
    )
    return replace(found, name="trec")


def labelled(found: Labelled, *, seed: int, steps: int, drift: bool = False) -> Drawn:
    """The first `steps` of the order; the shots are the 16 after them, as far as there are any.
    With `drift`, a quarter of the labels (two at least) change places at half of the stream."""
    order = np.random.default_rng(seed).permutation(len(found.examples))
    output = choices(found.answers)
    items, targets = _taken(found, order[:steps], output)
    shots = tuple(zip(*_taken(found, order[steps : steps + SHOTS], output), strict=True))
    half = len(items) // 2
    if drift:
        moved = permuted(output.answers, DRIFTING, np.random.default_rng([seed, 7]))
        targets = (*targets[:half], *(moved.get(t, t) for t in targets[half:]))
    blocks = (0, half) if drift else (0,)
    stream = Stream(name=found.name, items=items, shots=shots, blocks=blocks, drifts=drift)
    return Drawn(stream=stream, targets=targets)


def _taken(
    found: Labelled, order: Sequence[int] | np.ndarray, output: Choices
) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    examples = [found.examples[i] for i in order]
    items = tuple(Item(text=e.text, task=found.name, answers=output) for e in examples)
    return items, tuple(e.target for e in examples)


def permuted(answers: Sequence[str], share: float, rng: np.random.Generator) -> dict[str, str]:
    """Which label stands for which: `share` of them, two at least, none for itself."""
    if share <= 0:
        return {}
    count = min(len(answers), max(2, round(share * len(answers))))
    picked = [answers[i] for i in rng.permutation(len(answers))[:count]]
    return dict(zip(picked, [*picked[1:], picked[0]], strict=True))


def conflict(found: Labelled, *, seed: int, steps: int, users: int, share: float) -> Drawn:
    """S6: each of `users` calls `share` of the labels by another label's name, in her own way."""
    base = labelled(found, seed=seed, steps=steps)
    rng = np.random.default_rng([seed, users, round(100 * share)])
    who = rng.integers(users, size=len(base.targets))
    said = [permuted(tuple(found.answers), share, rng) for _ in range(users)]
    items = tuple(
        replace(item, user=f"user{u}") for item, u in zip(base.stream.items, who, strict=True)
    )
    targets = tuple(said[u].get(t, t) for t, u in zip(base.targets, who, strict=True))
    name = f"conflict-{users}-{round(100 * share)}"
    return Drawn(stream=replace(base.stream, name=name, items=items), targets=targets)


def recur(first: Labelled, second: Labelled, *, seed: int, steps: int) -> Drawn:
    """S8: a third of `first`, a third of `second`, and other requests of `first`."""
    part = max(1, steps // 3)
    one, two = (labelled(f, seed=seed, steps=n) for f, n in ((first, 2 * part), (second, part)))
    items = (*one.stream.items[:part], *two.stream.items, *one.stream.items[part:])
    targets = (*one.targets[:part], *two.targets, *one.targets[part:])
    blocks = (0, part, part + len(two.targets))
    stream = Stream(name="recur", items=items, shots=one.stream.shots, blocks=blocks)
    return Drawn(stream=stream, targets=targets)


def bbh(*, seed: int, steps: int, open_answers: bool, named: bool = True) -> Drawn:
    """BBH's tasks interleaved (Suzgun et al. 2022); never a line of it is trained on.

    A task with few targets has them as its closed set; the others are left out unless
    `open_answers`. Without `named`, the task is to be inferred.
    """
    pool = [pair for task in _bbh_tasks() for pair in _bbh_task(task, named)]
    pool = [(item, target) for item, target in pool if item.answers or open_answers]
    order = np.random.default_rng(seed).permutation(len(pool))
    taken = [pool[i] for i in order[:steps]]
    shots = tuple(pool[i] for i in order[steps : steps + SHOTS])
    name = "bbh" if named else "bbh-inferred"
    stream = Stream(name=name, items=tuple(item for item, _ in taken), shots=shots)
    return Drawn(stream=stream, targets=tuple(target for _, target in taken))


def _bbh_tasks() -> list[Path]:
    return sorted((data_folder() / "bbh" / "bbh").glob("*.json"))


def _bbh_task(path: Path, named: bool) -> list[tuple[Item, str]]:
    examples = json.loads(path.read_text(encoding="utf-8"))["examples"]
    targets = sorted({example["target"] for example in examples})
    answers = Choices(answers=tuple(targets)) if len(targets) <= BBH_CLOSED else None
    task = path.stem if named else None
    return [
        (Item(text=e["input"], task=task, answers=answers), e["target"])
        for e in examples
        if len(e["input"]) <= BBH_CHARACTERS
    ]


def clarifications(group: str, *, seed: int, steps: int) -> Drawn:
    """S3: MemPrompt's questions (Madaan et al. 2022), asked in words that hide what is meant.

    A question is understood when the clarification shown with it in the prompt is one for the
    right intent, and no other is: that measures memory and recall, not whether the model then
    knows the synonym (the bundled one does not). The task is to be inferred from the wording.
    """
    path = data_folder() / "memprompt" / f"{group}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    order = np.random.default_rng(seed).permutation(len(rows))[:steps]
    taken = [rows[i] for i in order]
    intents = Choices(answers=tuple(sorted({row["intent"] for row in rows})))
    items = tuple(Item(text=row["question"], answers=intents) for row in taken)
    return Drawn(
        stream=Stream(name=f"memprompt-{group}", items=items, blocks=(0, len(items) // 2)),
        targets=tuple(row["intent"] for row in taken),
        clarifications=tuple(row["feedback"] for row in taken),
        meanings={row["feedback"]: row["intent"] for row in rows},
    )


GROUPS = ("linguistic", "hin", "pun", "synthetic_gpt3")
CONFLICTS = tuple((users, share) for users in (4, 20) for share in (0, 10, 40))

Draw = Callable[[int, int], Drawn]
"""(seed, steps) -> a stream."""


def named(name: str, *, drift: bool = False, open_answers: bool = False) -> Draw:
    """The stream of that name. Raises InvalidSetting for a name that is none."""
    sets = {"banking77": banking, "trec": trec}
    if name in sets:
        found = sets[name]()
        return lambda seed, steps: labelled(found, seed=seed, steps=steps, drift=drift)
    if drift:
        raise InvalidSetting(f"{name!r} does not drift", value=name, hint="Drift needs labels")
    if name in ("bbh", "bbh-inferred"):
        told = name == "bbh"
        return lambda seed, steps: bbh(
            seed=seed, steps=steps, open_answers=open_answers, named=told
        )
    if name == "recur":
        one, two = banking(), trec()
        return lambda seed, steps: recur(one, two, seed=seed, steps=steps)
    return _parsed(name)


def _parsed(name: str) -> Draw:
    from benchmarks.generated import GENERATED

    kind, *rest = name.split("-")
    if name in GENERATED:
        return lambda seed, steps: GENERATED[name](seed, steps)
    if kind == "memprompt" and (group := "-".join(rest) or GROUPS[0]) in GROUPS:
        return lambda seed, steps: clarifications(group, seed=seed, steps=steps)
    if kind == "conflict" and len(rest) == 2 and all(part.isdigit() for part in rest):
        found, users, share = banking(), int(rest[0]), int(rest[1]) / 100
        return lambda seed, steps: conflict(found, seed=seed, steps=steps, users=users, share=share)
    raise InvalidSetting(f"no stream {name!r}", value=name, hint=f"Use one of {', '.join(names())}")


def names() -> tuple[str, ...]:
    """All streams that have one."""
    from benchmarks.generated import GENERATED

    return (
        *("banking77", "trec", "recur", "bbh", "bbh-inferred"),
        *(f"conflict-{users}-{share}" for users, share in CONFLICTS),
        *(f"memprompt-{group}" for group in GROUPS),
        *GENERATED,
    )
