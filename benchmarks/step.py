"""What a step without a language model costs beyond embedding, and what `learn` costs.

    python -m benchmarks.step [--cases 2000,50000] [--disk] [--folder DIR] [--json OUT]

At each number of remembered cases of one user and one task with 77 answers: the 50th and 95th
percentile in milliseconds of a whole step (sync, task, recall, decision, journal), of the
correction that follows it, and, for comparison, of the search alone; with `--disk` also of the
fsynced commit of a bare SQLite insert, below which no durable `learn` can be. Every text was
embedded before, as a step's own text is when it is learned from.

With TTA_DATA set, the texts are BANKING77's, embedded by all-MiniLM-L6-v2, and beyond its 13,000
the same with a little noise added to the vectors; without, made-up texts and a hashed embedding.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, time
from typing import TYPE_CHECKING, Any

import numpy as np

import tta
from tta.adapted import Adapted
from tta.retrieval import default_embedder
from tta.testing import HashEmbedder
from tta.types import Event, EventKind, RecordKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]

ANSWERS = [f"answer {n}" for n in range(77)]
GOALS = {"step": {2_000: 5.0, 50_000: 10.0}, "learn": {2_000: 5.0, 50_000: 5.0}}
"""p95 in milliseconds, by the number of cases."""

TIMES = 400
_NOISE = 0.02


class KnownTexts:
    """An embedder that has seen every text before."""

    id = "known"

    def __init__(self, texts: Sequence[str], vectors: FloatArray) -> None:
        self._seen = dict(zip(texts, vectors, strict=True))
        self.dim = int(vectors.shape[1])
        self._words = HashEmbedder(self.dim)

    def embed(self, texts: Sequence[str]) -> FloatArray:
        for text in texts:
            if text not in self._seen:
                self._seen[text] = self._words.embed([text])[0]
        return np.stack([self._seen[text] for text in texts])


def corpus(count: int) -> tuple[list[str], FloatArray]:
    """`count` different texts, and their unit vectors, shape (count, 384)."""
    data = os.environ.get("TTA_DATA")
    if data is None:
        texts = [f"please do thing {n} of kind {n % 77}" for n in range(count)]
        return texts, HashEmbedder(384).embed(texts)
    real = _banking77(Path(data))[:count]
    vectors = default_embedder().embed(real)
    random = np.random.default_rng(0)
    texts, rows = list(real), [vectors]
    while len(texts) < count:
        texts += [f"{text} ({len(rows)})" for text in real]
        noisy = vectors + _NOISE * random.normal(size=vectors.shape).astype(np.float32)
        rows.append(noisy / np.linalg.norm(noisy, axis=1, keepdims=True))
    return texts[:count], np.concatenate(rows)[:count]


def _banking77(data: Path) -> list[str]:
    texts: list[str] = []
    for name in ("train.csv", "test.csv"):
        with (data / "banking77" / name).open(encoding="utf-8", newline="") as file:
            texts += [row["text"] for row in csv.DictReader(file)]
    texts = list(dict.fromkeys(texts))
    np.random.default_rng(0).shuffle(texts)
    return texts


def history(texts: Sequence[str]) -> list[Event]:
    """The journal of one who corrected every one of these."""
    found = []
    for number, text in enumerate(texts):
        said = {"request": text, "pattern": f"pattern {number}", "answer": ANSWERS[0]}
        name = f"r{number}"
        about: dict[str, Any] = {"user": "default", "task": "t", "response": name, "time": time()}
        found.append(Event(kind=EventKind.ANSWERED, id=name, body=said, **about))
        right = {**said, "text": ANSWERS[number % 77]}
        found.append(Event(kind=EventKind.CORRECTION, id=f"c{number}", body=right, **about))
    return found


def percentiles(call: Callable[[int], object], times: int) -> dict[str, float]:
    """p50 and p95 in milliseconds of `times` calls."""
    taken = []
    for number in range(times):
        start = perf_counter()
        call(number)
        taken.append(1e3 * (perf_counter() - start))
    return {"p50": float(np.percentile(taken, 50)), "p95": float(np.percentile(taken, 95))}


def bare_commits(folder: Path) -> dict[str, float]:
    """The same durability with nothing around it."""
    db = sqlite3.connect(folder / "bare.sqlite", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE lines (line TEXT)")
    found = percentiles(lambda _: db.execute("INSERT INTO lines VALUES (?)", ("x" * 300,)), TIMES)
    db.close()
    return found


def measure(
    chat: Adapted, texts: Sequence[str], vectors: FloatArray
) -> dict[str, dict[str, float]]:
    """Percentiles of steps on `texts`, each followed by its correction."""
    replies: list[tta.Response] = []
    memory = chat.memory

    def step(number: int) -> None:
        replies.append(chat(texts[number], task="t", output=ANSWERS))

    def nearest(number: int) -> object:
        return memory.nearest(vectors[number], 64, user="default", task="t", kind=RecordKind.CASE)

    for number in range(20):  # whatever is made at the first use
        chat(texts[number], task="t", output=ANSWERS)
    gc.collect()
    return {
        "step": percentiles(step, TIMES),
        "learn": percentiles(lambda n: replies[n].correct(ANSWERS[n % 77]), TIMES),
        "nearest": percentiles(nearest, TIMES),
        "sync": percentiles(lambda _: memory.sync(), TIMES),
    }


def run(cases: int, folder: Path | None) -> dict[str, dict[str, float]]:
    """The figures at `cases` remembered cases: in RAM, or in a memory below `folder`."""
    texts, vectors = corpus(cases + TIMES)
    where = None if folder is None else folder / f"memory-{cases}"
    with tta.wrap(None, memory=where, embedder=KnownTexts(texts, vectors)) as chat:
        # The first texts are asked about; near copies of these too are among the cases.
        chat.memory.import_all(history(texts[TIMES:]))
        found = measure(chat, texts[:TIMES], vectors[:TIMES])
    if folder is not None:
        found["bare commit"] = bare_commits(folder)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", default="2000,50000", help="numbers of remembered cases")
    parser.add_argument("--disk", action="store_true", help="SQLite and Chroma on disk, not RAM")
    parser.add_argument("--folder", type=Path, help="where the disk to measure is; default: temp")
    parser.add_argument("--json", type=Path, dest="out")
    options = parser.parse_args()
    report = {}
    for cases in map(int, options.cases.split(",")):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            report[cases] = run(cases, Path(folder) if options.disk else None)
        print(f"{cases} cases, {'on disk' if options.disk else 'in RAM'}")
        for name, ms in report[cases].items():
            goal = GOALS.get(name, {}).get(cases)
            wanted = f"   goal: p95 < {goal:.0f} ms" if goal else ""
            print(f"  {name:12} p50 {ms['p50']:6.2f} ms   p95 {ms['p95']:6.2f} ms{wanted}")
    if options.out:
        options.out.write_text(json.dumps({"disk": options.disk, "cases": report}, indent=1) + "\n")


if __name__ == "__main__":
    main()
