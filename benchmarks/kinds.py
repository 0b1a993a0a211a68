"""Streams of requests whose task is known to the benchmark and hidden from what infers it.

Knows the files under a data folder and how requests are laid out. Refuses to know what infers
tasks. The order of a stream is that of `numpy.random.default_rng(seed)`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.reworded import laid_out, reworded

BBH_CLOSED = 20
"""A BBH task with more distinct targets than this has open answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request, its true task, the right answer, and the closed set it is from (None: open)."""

    text: str
    task: str
    answer: str
    answers: tuple[str, ...] | None = None


Kinds = tuple[Asked, ...]


def superni(data: Path, seed: int, each: int) -> Kinds:
    """Super-NaturalInstructions' English test tasks (Wang et al. 2022), `each` requests of each of
    60 in one shuffled stream: the definition, a blank line, the input. Two tasks have one and the
    same definition, so that no method can tell them apart."""
    return _superni(data, seed, each, lambda text, content, rng: f"{text}\n\n{content}")


def superni_reworded(data: Path, seed: int, each: int) -> Kinds:
    """The same, the instruction of each request in other words and laid out in another way."""
    return _superni(
        data, seed, each, lambda text, content, rng: laid_out(reworded(text, rng), content, rng)
    )


def _superni(
    data: Path, seed: int, each: int, made: Callable[[str, str, np.random.Generator], str]
) -> Kinds:
    rng = np.random.default_rng(seed)
    taken = []
    for task in _lines(data / "superni" / "tasks.jsonl"):
        rows = _lines(data / "superni" / "tasks" / f"{task['task']}.jsonl")
        for i in rng.permutation(len(rows))[:each]:
            text = made(task["definition"].strip(), rows[i]["input"].strip(), rng)
            taken.append(Asked(text=text, task=task["task"], answer=rows[i]["output"]))
    return _shuffled(taken, rng)


def bbh(data: Path, seed: int, each: int) -> Kinds:
    """14 tasks of BIG-Bench Hard (Suzgun et al. 2022), most without any instruction; those with few
    targets have them as a closed set."""
    rng = np.random.default_rng(seed)
    taken = []
    for path in sorted((data / "bbh" / "bbh").glob("*.json")):
        rows = json.loads(path.read_text(encoding="utf-8"))["examples"]
        targets = tuple(sorted({row["target"] for row in rows}))
        answers = targets if len(targets) <= BBH_CLOSED else None
        for i in rng.permutation(len(rows))[:each]:
            row = rows[i]
            asked = Asked(text=row["input"], task=path.stem, answer=row["target"], answers=answers)
            taken.append(asked)
    return _shuffled(taken, rng)


def bbh_open(data: Path, seed: int, each: int) -> Kinds:
    """The same without saying which answers are possible."""
    return tuple(
        Asked(text=asked.text, task=asked.task, answer=asked.answer)
        for asked in bbh(data, seed, each)
    )


def questions(data: Path, seed: int, each: int) -> Kinds:
    """BANKING77 and TREC interleaved, `each` of both: bare texts, each with its set of labels."""
    rng = np.random.default_rng(seed)
    with (data / "banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        cards = [(row["text"], row["category"]) for row in csv.DictReader(file)]
    kinds = [(row["text"], row["label"]) for row in _lines(data / "trec" / "train.jsonl")]
    taken = []
    for name, rows in (("banking77", cards), ("trec", kinds)):
        answers = tuple(sorted({label for _, label in rows}))
        for i in rng.permutation(len(rows))[:each]:
            text, label = rows[i]
            taken.append(Asked(text=text, task=name, answer=label, answers=answers))
    return _shuffled(taken, rng)


def mixed(data: Path, seed: int, each: int) -> Kinds:
    """Reworded superni, bbh, and the two sets of questions, all interleaved."""
    parts = [f(data, seed, each) for f in (superni_reworded, bbh, questions)]
    return _shuffled([asked for part in parts for asked in part], np.random.default_rng(seed))


def _shuffled(taken: list[Asked], rng: np.random.Generator) -> Kinds:
    return tuple(taken[i] for i in rng.permutation(len(taken)))


def _lines(path: Path) -> list[Mapping[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def clarified(data: Path, seed: int, group: str) -> tuple[Mapping[str, str], ...]:
    """MemPrompt's questions of one group (Madaan et al. 2022) with "intent" and "feedback"."""
    rows = _lines(data / "memprompt" / f"{group}.jsonl")
    return tuple(rows[i] for i in np.random.default_rng(seed).permutation(len(rows)))


STREAMS: Mapping[str, Callable[[Path, int, int], Kinds]] = {
    "superni": superni,
    "superni-reworded": superni_reworded,
    "bbh": bbh,
    "bbh-open": bbh_open,
    "banking77+trec": questions,
    "mixed": mixed,
}
