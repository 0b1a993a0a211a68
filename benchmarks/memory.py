"""What a memory costs as it grows: recall, learning, opening, rebuilding, disk and RAM.

    python -m benchmarks.memory [--sizes 1000,10000,100000] [--users 1] [--folder DIR] [--json OUT]
        [--journal postgresql+psycopg://USER@HOST:PORT/postgres] [--index http://HOST:PORT]

A record is a case of 384 dimensions with what it says of seventeen experts, in one task with 77
answers, in SQLite and an embedded Chroma on disk; `--users` spreads the records over that many.
With `--journal` it is in a database made for it on that PostgreSQL server, with `--index` in
collections of its own on that Chroma server; both must run, and hold nothing of it afterwards.
The vectors are made up (random points around 300 centres, a function of the text alone), so that
embedding costs nothing and everything measured is beyond it.

Each size is one memory, filled by an import and then measured in a fresh process, as users meet it:

* `open`: `Memory.open` in a process that has just imported it, the last close having been in order;
  `first`: the first recall after that; `refold`: opening without the snapshot; `rebuild`: embedding
  all again into a new Chroma.
* `recall`: all that is asked of the memory for one answer (rules, notes, 64 cases, 64 rejections);
  `learn`: a correction, durable, of an answer recorded before; `threads`: recalls by eight threads
  while a ninth corrects without a pause. `sync`: asking what others wrote, before an answer;
  `record`: keeping the answer.
* Times are of the clock; `cpu` of the processor, which other work on the machine does not change:
  of the asking thread in a percentile, else of the process, and never of the servers.
* `ram`: what the process has grown by since before the opening, less the vectors, per record, after
  every user was asked for once; `ram later`: the same after all that was learned.
* `found`: the share of the 64 nearest that a search finds: all up to 100,000 of a user and kind.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.places import Place, disk, fresh
from tta.decoding import Mixture
from tta.memory import Memory
from tta.retrieval import Recaller
from tta.types import Event, EventKind, Json, Message, RecordKind, Request, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]

DIM = 384
CENTRES = 300
ANSWERS = 77
EXPERTS = 17
TIMES = 300
READERS, SECONDS = 8, 5.0
QUESTIONS, WANTED = 100, 64
_BATCH = 5_000
_SPREAD = 0.7

CAP = 10_000_000
"""More than there are: all are recalled."""

GOALS = {"recall p95 ms": 15.0, "learn p95 ms": 10.0, "ram bytes": 3072.0}


def _said(number: int) -> dict[str, Json]:
    draw = np.random.default_rng(number).integers(1, 9999, size=(EXPERTS, 4)) / 10_000
    return {f"kernel*reader{e}": row for e, row in enumerate(draw.tolist())}


SAID = [_said(number) for number in range(1000)]


class MadeUp:
    """Vectors around centres, from the text's digest."""

    id = "made-up"
    dim = DIM

    def __init__(self) -> None:
        self._centres = np.random.default_rng(0).normal(size=(CENTRES, DIM)).astype(np.float32)

    def embed(self, texts: Sequence[str]) -> FloatArray:
        rows = np.stack([self._one(text) for text in texts])
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))

    def _one(self, text: str) -> FloatArray:
        seed = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
        drawn = np.random.Generator(np.random.SFC64(seed)).standard_normal(DIM, dtype=np.float32)
        return np.asarray(self._centres[seed % CENTRES] + _SPREAD * drawn)


def text(number: int) -> str:
    return f"please do thing number {number} of the usual kind for me, as soon as you can"


def heard(number: int) -> dict[str, Json]:
    """What one correction says of the experts: as long as in a real journal."""
    return {
        "likelihood": SAID[number % len(SAID)],
        "outcomes": ANSWERS,
        "right": 0.0,
        "frozen": 0.0,
        "confidence": None,
    }


def step(number: int, user: str) -> tuple[Event, Event]:
    """An answer that nobody gave, and its correction: one record."""
    said: dict[str, Json] = {
        "request": text(number),
        "pattern": f"pattern {number % 500}",
        "answer": "",
    }
    about: dict[str, Any] = {"user": user, "task": "t", "response": f"r{number}"}
    right = {**said, "text": f"answer {number % ANSWERS}", "heard": heard(number)}
    return (
        Event(kind=EventKind.ANSWERED, id=f"r{number}", body=said, **about),
        Event(kind=EventKind.CORRECTION, id=f"c{number}", body=right, **about),
    )


def name(number: int, users: int) -> str:
    return f"user {number % users}"


def open_memory(place: Place) -> Memory:
    return Memory.open(
        place.where, embedder=MadeUp(), index=place.index, weigher=Mixture(), cap=CAP
    )


def fill(place: Place, records: int, users: int) -> dict[str, float]:
    """Make the memory."""
    start, busy = perf_counter(), process_time()
    with open_memory(place) as memory:
        for first in range(0, records, _BATCH):
            numbers = range(first, min(records, first + _BATCH))
            memory.import_all([e for n in numbers for e in step(n, name(n, users))])
    return {
        "fill s": round(perf_counter() - start, 2),
        "fill cpu s": round(process_time() - busy, 2),
    }


# ------------------------------------------------------------------------------- measuring


def percentiles(call: Callable[[int], object], times: int) -> dict[str, float]:
    """Percentiles in milliseconds of `times` calls, and of the processor's time in them."""
    taken, busy = [], []
    for number in range(times):
        start, before = perf_counter(), thread_time()
        call(number)
        taken.append(1e3 * (perf_counter() - start))
        busy.append(1e3 * (thread_time() - before))
    found = _percentiles(busy)
    return _percentiles(taken) | {"cpu p50": found["p50"], "cpu p95": found["p95"]}


def _percentiles(taken: Sequence[float]) -> dict[str, float]:
    found = {f"p{p}": round(float(np.percentile(taken, p)), 2) for p in (50, 95, 99)}
    return found | {"max": round(max(taken), 2)}


def asker(memory: Memory, records: int, users: int) -> Callable[[int], object]:
    """Recalls for requests near to what is there; their vectors are at hand."""
    texts = [text(records + n) for n in range(TIMES)]
    known = dict(zip(texts, MadeUp().embed(texts), strict=True))

    class AtHand(MadeUp):
        def embed(self, texts: Sequence[str]) -> FloatArray:
            return np.stack([known[t] for t in texts])

    recaller = Recaller(memory, AtHand())

    def ask(number: int) -> object:
        request = Request(
            messages=(Message(role="user", content=texts[number % TIMES]),),
            user=name(number, users),
        )
        return recaller.recall(request, Task(name="t"))

    return ask


def teacher(memory: Memory, records: int, users: int, times: int) -> Callable[[int], object]:
    """Corrections of answers recorded beforehand."""
    steps = [step(records + 10 * TIMES + n, name(n, users)) for n in range(times)]
    memory.import_all([about for about, _ in steps])
    return lambda number: memory.learn(steps[number][1])


def recorder(memory: Memory, records: int, users: int) -> Callable[[int], object]:
    """Answers that are kept."""
    steps = [step(records + 50 * TIMES + n, name(n, users)) for n in range(TIMES)]
    return lambda number: memory.record(steps[number][0])


def at_once(ask: Callable[[int], object], teach: Callable[[int], object]) -> dict[str, Any]:
    """Eight threads recall while one corrects."""
    over = threading.Event()
    taken: list[float] = []

    def read(first: int) -> None:
        number = first
        while not over.is_set():
            start = perf_counter()
            ask(number)
            taken.append(1e3 * (perf_counter() - start))
            number += READERS

    readers = [threading.Thread(target=read, args=(n,)) for n in range(READERS)]
    for reader in readers:
        reader.start()
    written: list[float] = []
    end = perf_counter() + SECONDS
    while perf_counter() < end and len(written) < 10 * TIMES - 1:
        start = perf_counter()
        teach(len(written))
        written.append(1e3 * (perf_counter() - start))
    over.set()
    for reader in readers:
        reader.join()
    return {"recall": _percentiles(taken), "recalls": len(taken), "learn": _percentiles(written)}


def resident() -> int:
    """Bytes of this process that are in RAM, but for files that are mapped into it."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def beyond_vectors(place: Place, before: int, records: int) -> int:
    """Bytes per record that the process has grown by, less the vectors: with a snapshot they lie in
    it, mapped."""
    heap = DIM * 4 if place.snapshot is None else 0
    return round((resident() - before) / records) - heap


def share_found(memory: Memory, records: int, user: str) -> float:
    """Which share of the best `WANTED` cases by brute force a search finds."""
    asked = MadeUp().embed([text(records + n) for n in range(QUESTIONS)])
    cases = memory.records(user=user, task="t", kind=RecordKind.CASE)
    best: FloatArray = np.zeros((QUESTIONS, 0), dtype=np.float32)
    for start in range(0, len(cases), 50_000):
        scores = asked @ memory.vectors(cases[start : start + 50_000]).T
        best = -np.sort(-np.concatenate([best, scores], axis=1), axis=1)[:, :WANTED]
    found = 0
    for vector, scores in zip(asked, best, strict=True):
        near = memory.nearest(vector, WANTED, user=user, task="t", kind=RecordKind.CASE)
        found += sum(score >= scores[-1] - 1e-6 for _, score in near)
    return found / best.size


def measure(place: Place, records: int, users: int) -> dict[str, Any]:
    """In a fresh process: everything but the rebuilding."""
    import chromadb  # noqa: F401 (its import is not what is measured)

    with Memory.open(None, embedder=MadeUp(), weigher=Mixture()) as warm:
        warm.import_all([event for n in range(100) for event in step(n, name(n, users))])
        asker(warm, 100, users)(0)
    gc.collect()
    before = resident()
    start, busy = perf_counter(), process_time()
    with open_memory(place) as memory:
        found: dict[str, Any] = {"open s": round(perf_counter() - start, 3)}
        found["open cpu s"] = round(process_time() - busy, 3)
        ask = asker(memory, records, users)
        start, busy = perf_counter(), process_time()
        ask(0)
        found["first s"] = round(perf_counter() - start, 3)
        found["first cpu s"] = round(process_time() - busy, 3)
        for user in range(users):
            memory.records(user=name(user, users))
        found["ram bytes"] = beyond_vectors(place, before, records)
        found["recall ms"] = percentiles(ask, TIMES)
        found["learn ms"] = percentiles(teacher(memory, records, users, TIMES), TIMES)
        found["sync ms"] = percentiles(lambda _: memory.sync(), TIMES)
        found["record ms"] = percentiles(recorder(memory, records, users), TIMES)
        teach = teacher(memory, records + 20 * TIMES, users, 10 * TIMES)
        found["threads ms"] = at_once(ask, teach)
        found["ram later bytes"] = beyond_vectors(place, before, records)
        found["found"] = share_found(memory, records, name(0, users))
        start = perf_counter()
    found["close s"] = round(perf_counter() - start, 3)
    return found


def reopen(place: Place) -> dict[str, float]:
    """In a fresh process: opening from the journal and Chroma, and embedding all again."""
    place.drop_snapshot()
    start, busy = perf_counter(), process_time()
    with open_memory(place) as memory:
        found = {"refold s": round(perf_counter() - start, 2)}
        found["refold cpu s"] = round(process_time() - busy, 2)
        start, busy = perf_counter(), process_time()
        memory.rebuild()
        found["rebuild s"] = round(perf_counter() - start, 2)
        found["rebuild cpu s"] = round(process_time() - busy, 2)
    return found


def apart(what: str, place: Place, records: int, users: int) -> dict[str, Any]:
    """What `--only` prints in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--only", what, "--journal", place.where]
    command += ["--sizes", str(records), "--users", str(users)]
    if place.index is not None:
        command += ["--index", place.index]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def sizes(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for records in map(int, options.sizes.split(",")):
        users = min(options.users, records)
        with fresh(folder=options.folder, journal=options.journal, index=options.index) as place:
            found = {"records": records, "users": users, **apart("fill", place, records, users)}
            found["disk bytes"] = {part: size // records for part, size in disk(place).items()}
            found |= apart("measure", place, records, users)
            found |= apart("reopen", place, records, users)
        yield found


def only(options: argparse.Namespace) -> dict[str, Any]:
    """One part, in a place that is there."""
    place = Place(where=options.journal, index=options.index)
    parts: dict[str, Callable[[int], dict[str, Any]]] = {
        "fill": lambda records: fill(place, records, options.users),
        "measure": lambda records: measure(place, records, options.users),
        "reopen": lambda _: reopen(place),
    }
    return parts[options.only](int(options.sizes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", default="1000,10000,100000", help="numbers of records")
    parser.add_argument("--users", type=int, default=1, help="users to spread them over")
    parser.add_argument("--folder", type=Path, help="where the disk to measure is; default: temp")
    parser.add_argument("--journal", help="URL of a PostgreSQL server; default: SQLite in a folder")
    parser.add_argument("--index", help="URL of a Chroma server; default: embedded, if in a folder")
    parser.add_argument("--json", type=Path, dest="out")
    parser.add_argument("--only", choices=["fill", "measure", "reopen"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(only(options)))
        return
    report = []
    for found in sizes(options):
        print(json.dumps(found, indent=1), flush=True)
        report.append(found)
        if options.out:
            options.out.write_text(json.dumps({"goals": GOALS, "sizes": report}, indent=1) + "\n")


if __name__ == "__main__":
    main()
