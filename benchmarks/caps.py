"""What is lost when a memory keeps only so many cases: which ones should it keep?

    python -m benchmarks.caps [--streams banking77,trec] [--caps 100,300,1000] [--steps 4000]
        [--orders 2,3] [--whole] [--json OUT]

Accuracy in percent (over all steps, and in the last fifth) of the kernel vote of the nearest 64
kept cases, all-MiniLM-L6-v2; the right label of each request is kept after its answer. Data come
from the folder that TTA_DATA names. Policies:

* `newest`, `random`, `all` (no cap);
* `tta`: what the memory does (`memory/policy.py`): shares of the labels are as how often they were
  taught, to the power 3/4, and of the label with most beyond its share the oldest goes;
* `equal`, `root`, `proportional`: the same with other shares (powers 0, 1/2 and 1);
* `mistakes`: as `tta`, but of the label what had been answered right goes first;
* `cover`: as `tta`, but of the label the one goes that is most like another (greedy k-centre).

With `--whole` it is all of tta that answers, without a model, and only `newest`, `random`, `tta`
and `all` are compared: most experts are sums over all that was ever taught, and know no cap.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

import tta
from benchmarks.streams import Labelled, banking, labelled, trec
from tta.memory import fold
from tta.memory.policy import Kept
from tta.retrieval import default_embedder
from tta.retrieval.readers import Kernel, Voters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]

VOTERS = 64
_PSEUDO = 1e-6
"""Names all but left out: what is measured is what was kept."""


@dataclass
class Pool:
    """The kept cases, oldest first: numbers of requests, and what a policy may know of them."""

    vectors: FloatArray
    labels: Sequence[str]
    cap: int
    random: np.random.Generator
    numbers: list[int] = field(default_factory=list)
    right: set[int] = field(default_factory=set)
    kept: Kept = field(default_factory=Kept)

    def most(self, power: float) -> list[int]:
        """Those of the label that has most beyond its share."""
        counts = {label: len(held) for label, held in self.kept.held.items()}
        total = sum(seen**power for seen in self.kept.seen.values())
        worst = max(counts, key=lambda a: counts[a] - self.cap / total * self.kept.seen[a] ** power)
        return [int(name) for name in self.kept.held[worst]]

    def surplus(self) -> int:
        """What the memory would let go."""
        return int(self.kept.surplus(self.cap) or self.numbers[0])


def _mistakes(pool: Pool) -> int:
    several = pool.most(0.75)
    return next((number for number in several if number in pool.right), several[0])


def _cover(pool: Pool) -> int:
    several = pool.most(0.75)
    rows = pool.vectors[several]
    like = rows @ rows.T
    np.fill_diagonal(like, -1.0)
    return several[int(like.max(axis=1).argmax())]


POLICIES: Mapping[str, Callable[[Pool], int]] = {
    "newest": lambda pool: pool.numbers[0],
    "random": lambda pool: int(pool.random.choice(pool.numbers)),
    "tta": Pool.surplus,
    "equal": lambda pool: pool.most(0.0)[0],
    "root": lambda pool: pool.most(0.5)[0],
    "proportional": lambda pool: pool.most(1.0)[0],
    "mistakes": _mistakes,
    "cover": _cover,
}


def stream(
    vectors: FloatArray,
    labels: Sequence[str],
    names: Mapping[str, FloatArray],
    cap: int,
    policy: str,
) -> list[bool]:
    """Which steps were answered right."""
    pool = Pool(vectors=vectors, labels=labels, cap=cap, random=np.random.default_rng(0))
    kernel, titles, answers = Kernel(0.05, _PSEUDO), np.stack([*names.values()]), [*names]
    place = {answer: row for row, answer in enumerate(answers)}
    taken = []
    for number, vector in enumerate(vectors):
        scores = vectors[pool.numbers] @ vector if pool.numbers else np.zeros(0)
        best = np.argsort(-scores)[:VOTERS]
        voters = Voters(
            place=np.array([place[labels[pool.numbers[i]]] for i in best], dtype=np.intp),
            cosine=scores[best].astype(np.float64),
            weight=np.ones(len(best)),
        )
        opinion = kernel.votes(voters, (titles @ vector).astype(np.float64))
        taken.append(answers[int(opinion.argmax())] == labels[number])
        keep(pool, number, POLICIES[policy], right=taken[-1])
    return taken


def keep(pool: Pool, number: int, policy: Callable[[Pool], int], *, right: bool) -> None:
    """One more case, and one less if they are too many."""
    pool.numbers.append(number)
    pool.kept.add(pool.labels[number], str(number))
    if right:
        pool.right.add(number)
    if len(pool.numbers) > pool.cap:
        gone = policy(pool)
        pool.numbers.remove(gone)
        pool.kept.remove(pool.labels[gone], str(gone))


def measure(
    data: Labelled, caps: Sequence[int], steps: int, orders: Sequence[int]
) -> dict[str, Any]:
    """By cap and policy, the mean over the orders: (all steps, last fifth)."""
    embedder = default_embedder()
    titles = [about or name for name, about in data.answers.items()]
    names = dict(zip(data.answers, embedder.embed(titles), strict=True))
    found: dict[str, list[list[float]]] = {}
    for order in orders:
        chosen = np.random.default_rng(order).permutation(len(data.examples))[:steps]
        examples = [data.examples[i] for i in chosen]
        vectors = embedder.embed([example.text for example in examples])
        labels = [example.target for example in examples]
        cells = [(cap, policy) for cap in caps for policy in POLICIES] + [(steps, "newest")]
        for cap, policy in cells:
            taken = stream(vectors, labels, names, cap, policy)
            cell = "all" if cap == steps else f"{cap} {policy}"
            last = taken[-len(taken) // 5 :]
            found.setdefault(cell, []).append(
                [100 * sum(taken) / len(taken), 100 * sum(last) / len(last)]
            )
    return {cell: np.round(np.mean(rows, axis=0), 1).tolist() for cell, rows in found.items()}


# ------------------------------------------------------------------------------ all of tta


class _Newest(Kept):
    """First in, first out."""

    def surplus(self, cap: int) -> str | None:
        return None


class _Random(Kept):
    """Any, the same one each time."""

    def surplus(self, cap: int) -> str | None:
        held = [name for names in self.held.values() for name in names]
        return held[int(np.random.default_rng(self.seen.total()).integers(len(held)))]


WHOLE: Mapping[str, type[Kept]] = {"newest": _Newest, "random": _Random, "tta": Kept}


def whole(data: Labelled, caps: Sequence[int], steps: int, orders: Sequence[int]) -> dict[str, Any]:
    """As `measure`, of tta's own answers."""
    embedder = default_embedder()
    found: dict[str, list[list[float]]] = {}
    for order in orders:
        drawn = labelled(data, seed=order, steps=steps, drift=False)
        cells = [(cap, policy) for cap in caps for policy in WHOLE] + [(steps, "tta")]
        for cap, policy in cells:
            taken = []
            with (
                patch.object(fold, "Kept", WHOLE[policy]),
                tta.wrap(None, embedder=embedder, cap=cap) as chat,
            ):
                for item, target in zip(drawn.stream.items, drawn.targets, strict=True):
                    reply = chat(item.text, task=item.task, output=item.answers)
                    taken.append(reply.text == target)
                    _ = reply.good() if taken[-1] else reply.correct(target)
            cell = "all" if cap == steps else f"{cap} {policy}"
            last = taken[-len(taken) // 5 :]
            found.setdefault(cell, []).append(
                [100 * sum(taken) / len(taken), 100 * sum(last) / len(last)]
            )
    return {cell: np.round(np.mean(rows, axis=0), 1).tolist() for cell, rows in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--streams", default="banking77,trec")
    parser.add_argument("--caps", default="100,300,1000")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--orders", default="2,3")
    parser.add_argument("--whole", action="store_true", help="all of tta answers")
    parser.add_argument("--json", type=Path, dest="out")
    options = parser.parse_args()
    caps, orders = ([int(n) for n in text.split(",")] for text in (options.caps, options.orders))
    report = {}
    for name in options.streams.split(","):
        data = {"banking77": banking, "trec": trec}[name]()
        report[name] = (whole if options.whole else measure)(data, caps, options.steps, orders)
        for cell, (every, last) in report[name].items():
            print(f"{name:10} {cell:20} {every:5.1f} {last:5.1f}")
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
