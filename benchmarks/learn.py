"""What `Memory.learn` costs beyond embedding, with SQLite and Chroma on disk.

    python -m benchmarks.learn [--records 2000] [--folder DIR] [--json OUT]

Prints the 50th and 95th percentile in milliseconds of `learn` (every call is fsynced), of the
fsynced commit of a bare SQLite insert on the same disk (the floor), of `nearest` and of `sync`.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from tta.memory import Memory
from tta.testing import HashEmbedder
from tta.types import Event, EventKind, RecordKind

DIM = 384


class KnownTexts(HashEmbedder):
    """Has embedded every text before, as a step has embedded the request it answered."""

    def __init__(self, texts: Sequence[str]) -> None:
        super().__init__(DIM)
        self._seen = dict(zip(texts, super().embed(texts), strict=True))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self._seen[text] for text in texts])


def percentiles(call: Callable[[int], object], times: int) -> dict[str, float]:
    """p50 and p95 in milliseconds of `times` calls."""
    taken = []
    for number in range(times):
        start = perf_counter()
        call(number)
        taken.append(1e3 * (perf_counter() - start))
    return {"p50": float(np.percentile(taken, 50)), "p95": float(np.percentile(taken, 95))}


def answer(number: int, text: str) -> Event:
    body = {"request": text, "pattern": "please ...", "answer": "no"}
    name = f"r{number}"
    return Event(kind=EventKind.ANSWERED, user="ada", task="t", response=name, id=name, body=body)


def correction(number: int, text: str) -> Event:
    body = {"request": text, "pattern": "please ...", "answer": "no", "text": f"yes {number}"}
    return Event(kind=EventKind.CORRECTION, user="ada", task="t", response=f"r{number}", body=body)


def bare_commits(folder: Path, times: int) -> dict[str, float]:
    """The same durability with nothing around it."""
    db = sqlite3.connect(folder / "bare.sqlite", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE lines (line TEXT)")
    found = percentiles(lambda _: db.execute("INSERT INTO lines VALUES (?)", ("x" * 300,)), times)
    db.close()
    return found


def measure(folder: Path, records: int) -> dict[str, dict[str, float]]:
    """Each operation's percentiles, at up to `records` corrections of one user."""
    texts = [f"please do thing {n} of kind {n % 77}" for n in range(records)]
    embedder = KnownTexts([*texts, "please ..."])
    queries = embedder.embed(texts)
    with Memory.open(folder / "memory", embedder=embedder) as memory:
        for number, text in enumerate(texts):
            memory.record(answer(number, text))

        def nearest(number: int) -> object:
            return memory.nearest(queries[number], 8, user="ada", task="t", kind=RecordKind.CASE)

        found = {
            "learn": percentiles(lambda n: memory.learn(correction(n, texts[n])), records),
            "nearest": percentiles(nearest, min(500, records)),
            "sync": percentiles(lambda _: memory.sync(), 500),
        }
    found["bare commit"] = bare_commits(folder, records)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="where the disk to measure is; default: temp")
    parser.add_argument("--json", type=Path, dest="out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(Path(folder), options.records)
    for name, ms in found.items():
        print(f"{name:12} p50 {ms['p50']:6.2f} ms   p95 {ms['p95']:6.2f} ms")
    if options.out:
        options.out.write_text(json.dumps({"records": options.records, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
