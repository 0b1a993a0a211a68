"""How well tasks are inferred, online and without a label, and what that is worth.

    python -m benchmarks.tasks --data DIR [--each 25] [--seeds 2,3,42] [--json OUT] [--only NAME]

For each stream (see `benchmarks.kinds`): adjusted Rand index (Hubert & Arabie, 1985), normalised
mutual information (arithmetic: it equals the V-measure with beta 1, Rosenberg & Hirschberg, 2007),
homogeneity and completeness of what was said at each step, tasks opened of the true number, and
milliseconds beyond embedding. Beside it, over the same patterns: k-means told the true number and
HDBSCAN (both see the whole stream first), tasks told apart by the exact first paragraph, one task.

Then the same with every answer corrected (`fed-NAME`, a share of the corrections being the answer
to another request): what was merged and split, and the index with that and without. MemPrompt's
intents by notes, BANKING77 and TREC interleaved with and without being told the task, a stream
A-B-A and a new task beside a related one, and the time at 1,000 tasks.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.metrics import (
    adjusted_rand_score,
    homogeneity_completeness_v_measure,
    normalized_mutual_info_score,
)

import tta
from benchmarks.kinds import STREAMS, Asked, Kinds, clarified, questions
from tta.decoding import Output
from tta.memory import Memory
from tta.memory.fold import State, UserState, apply
from tta.protocols import Embedder, Sightings
from tta.retrieval import Recaller, default_embedder
from tta.step import form_of
from tta.tasks import Regroup, TaskInferer
from tta.tasks.split import split
from tta.testing import HashEmbedder
from tta.types import (
    DEFAULT_USER,
    Event,
    EventKind,
    Json,
    Message,
    Request,
    Task,
    new_id,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]

Figures = dict[str, Any]
GROUPS = ("linguistic", "hin", "pun")
GOALS = {"superni": 0.90, "superni-reworded": 0.80}
"""Least adjusted Rand index."""


class Timed:
    """An embedder that knows how long it took. The prompt, which is embedded for the sake of recall
    and not read by inference, is left at zero."""

    def __init__(self, inner: Embedder) -> None:
        self._inner, self.seconds, self.worked = inner, 0.0, 0.0
        self.prompt = ""

    @property
    def id(self) -> str:
        return self._inner.id

    @property
    def dim(self) -> int:
        return self._inner.dim

    def embed(self, texts: Sequence[str]) -> FloatArray:
        started, working = perf_counter(), process_time()
        read = texts[:1] if len(texts) == 2 and texts[1] == self.prompt else texts
        vectors = np.zeros((len(texts), self.dim), np.float32)
        vectors[: len(read)] = self._inner.embed(read)
        self.seconds += perf_counter() - started
        self.worked += process_time() - working
        return vectors


class Course:
    """A user's requests one after the other, and the fold of what they were taken for."""

    def __init__(self, embedder: Embedder) -> None:
        self.state = State()
        self.embedder = Timed(embedder)
        self.inferer = TaskInferer(self, self.embedder)
        self.ms: list[tuple[float, float]] = []

    def sightings(self, *, user: str) -> Sightings:
        return self.state.users.get(user, UserState()).sightings

    def ask(self, asked: Asked) -> Task:
        request = Request(messages=(Message(role="user", content=asked.text),))
        form, width = form_of(Output.of(list(asked.answers) if asked.answers else None))
        timed, self.embedder.prompt = self.embedder, asked.text
        timed.seconds = timed.worked = 0.0
        started, working = perf_counter(), process_time()
        task = self.inferer.infer(request, form=form, width=width)
        seconds, worked = perf_counter() - started, process_time() - working
        self.ms.append((1_000 * (seconds - timed.seconds), 1_000 * (worked - timed.worked)))
        apply(self.state, _answered(asked.text, task))
        return task


def _answered(text: str, task: Task) -> Event:
    body: dict[str, Json] = {"request": text, "pattern": task.pattern, "answer": ""}
    body |= {"bare": task.bare, "form": task.form, "width": task.width, "named": False}
    return _event(EventKind.ANSWERED, task.name, new_id(), body)


def _event(kind: EventKind, task: str, response: str, body: Mapping[str, Json]) -> Event:
    id = response if kind is EventKind.ANSWERED else new_id()
    return Event(kind=kind, user=DEFAULT_USER, task=task, response=response, body=body, id=id)


# ------------------------------------------------------------------------------- clustering


def clustered(stream: Kinds, embedder: Embedder) -> Figures:
    """All methods on one stream."""
    course = Course(embedder)
    said = [course.ask(asked).name for asked in stream]
    true = [asked.task for asked in stream]
    found: Figures = {"tta": {**scores(true, said), **percentiles(course.ms)}}
    vectors = embedder.embed([split(a.text, closed=bool(a.answers)).pattern for a in stream])
    known = len(set(true))
    rivals: dict[str, Callable[[], Sequence[object]]] = {
        "k-means, told k": lambda: KMeans(known, n_init=3, random_state=0).fit_predict(vectors),
        "HDBSCAN": lambda: _hdbscan(vectors),
        "exact instruction": lambda: [asked.text.split("\n\n")[0] for asked in stream],
        "one task": lambda: ["one"] * len(stream),
    }
    return found | {name: scores(true, rival()) for name, rival in rivals.items()}


def _hdbscan(vectors: FloatArray) -> Sequence[object]:
    labels = HDBSCAN(min_cluster_size=5, copy=True).fit_predict(vectors)
    return [str(i) if label < 0 else int(label) for i, label in enumerate(labels)]


def scores(true: Sequence[str], said: Sequence[object]) -> Figures:
    """`said` holds any hashable names."""
    number = {name: i for i, name in enumerate(dict.fromkeys(said))}
    labels = [number[name] for name in said]
    homogeneity, completeness, v = homogeneity_completeness_v_measure(true, labels)
    return {
        "ari": round(float(adjusted_rand_score(true, labels)), 4),
        "nmi": round(float(normalized_mutual_info_score(true, labels)), 4),
        "v": round(float(v), 4),
        "homogeneity": round(float(homogeneity), 4),
        "completeness": round(float(completeness), 4),
        "opened": len(number),
        "true": len(set(true)),
    }


def percentiles(ms: Sequence[tuple[float, float]]) -> Figures:
    """Of the time beyond embedding: by the clock, and of the processor, which other programs that
    share the machine do not lengthen."""
    clock, processor = zip(*ms, strict=True)
    return {
        f"p{q}_{name}": round(float(np.percentile(of, q)), 3)
        for name, of in (("ms", clock), ("cpu_ms", processor))
        for q in (50, 95)
    }


# ------------------------------------------------------------------------- what it is worth


def fed(stream: Kinds, embedder: Embedder, seed: int, *, wrong: float) -> Figures:
    """What feedback does to the tasks: each answer is corrected, a share `wrong` of them by the
    answer to any request. "ari_after" is of the tasks as they are in the end."""
    without = scores([a.task for a in stream], _fed(stream, embedder, seed, wrong, None)[0])
    merged: list[Event] = []
    said, after, ms = _fed(stream, embedder, seed, wrong, merged)
    true = [asked.task for asked in stream]
    kinds = Counter(event.kind for event in merged)
    return {
        "merged": kinds[EventKind.MERGED],
        "split": kinds[EventKind.SPLIT],
        "ari": scores(true, said)["ari"],
        "ari_after": scores(true, after)["ari"],
        "ari_without": without["ari"],
        **percentiles(ms),
    }


def _fed(
    stream: Kinds, embedder: Embedder, seed: int, wrong: float, happened: list[Event] | None
) -> tuple[list[str], list[str], list[tuple[float, float]]]:
    """The tasks that were said, those that they are in the end, and the milliseconds of looking."""
    rng, ms, asked = np.random.default_rng(seed), [], []
    with Memory.open(None, embedder=embedder) as memory:
        inferer = TaskInferer(memory, embedder)
        regroup = Regroup(memory, inferer)
        for item in stream:
            request = Request(messages=(Message(role="user", content=item.text),))
            form, width = form_of(Output.of(list(item.answers) if item.answers else None))
            task = inferer.infer(request, form=form, width=width)
            event = _answered(item.text, task)
            memory.record(event)
            asked.append((task.name, event.id))
            other = stream[int(rng.integers(len(stream)))].answer
            answer = other if rng.random() < wrong else item.answer
            kept = memory.event(event.id)
            assert kept is not None
            body = {**event.body, "text": answer}
            correction = _event(EventKind.CORRECTION, kept.task, event.id, body)
            memory.learn(correction)
            started, working = perf_counter(), process_time()
            found = regroup.after(correction) if happened is not None else ()
            ms.append((1_000 * (perf_counter() - started), 1_000 * (process_time() - working)))
            events = (memory.event(learned.feedback) for learned in found)
            if happened is not None:
                happened += [event for event in events if event is not None]
        kept_events = (memory.event(name) for _, name in asked)
        after = [memory.home(event) for event in kept_events if event is not None]
    return [name for name, _ in asked], after, ms


def intents(rows: Sequence[Mapping[str, str]], embedder: Embedder) -> Figures:
    """A question is understood when the one note recalled for it is of its intent; if not, its
    clarification is noted."""
    meant = {row["feedback"]: row["intent"] for row in rows}
    right = 0
    with Memory.open(None, embedder=embedder) as memory:
        inferer, recaller = TaskInferer(memory, embedder), Recaller(memory, embedder)
        for row in rows:
            request = Request(messages=(Message(role="user", content=row["question"]),))
            task = inferer.infer(request)
            event = _answered(row["question"], task)
            memory.record(event)
            notes = recaller.recall(request, task).notes
            if notes and meant[notes[0].record.answer] == row["intent"]:
                right += 1
                continue
            body = {**event.body, "text": row["feedback"]}
            memory.learn(_event(EventKind.NOTE, task.name, event.id, body))
        notes_kept = len(memory.records(user=DEFAULT_USER))
    return {"accuracy": round(right / len(rows), 4), "notes": notes_kept, "steps": len(rows)}


def told_or_not(stream: Kinds, embedder: Embedder) -> Figures:
    """Accuracy of the whole step without a model, each answer corrected, on one stream."""
    found = {}
    for name, told in (("told", True), ("inferred", False)):
        with tta.wrap(None, embedder=embedder) as chat:
            right = [_step(chat, asked, told=told) for asked in stream]
        found[name] = round(float(np.mean(right)), 4)
    return {**found, "lost": round(found["told"] - found["inferred"], 4), "steps": len(stream)}


def _step(chat: tta.Adapted, asked: Asked, *, told: bool = False, learn: bool = True) -> bool:
    task = asked.task if told else None
    reply = chat(asked.text, output=list(asked.answers or ()), task=task)
    if learn:
        reply.correct(asked.answer)
    return reply.text == asked.answer


def forgetting(first: Kinds, second: Kinds, probes: Kinds, embedder: Embedder) -> Figures:
    """A-B-A: `probes` of A (never learned from) after A, after B, and after A again. Then a related
    new task (BANKING77 under an instruction): its first answers, with and without A known."""
    with tta.wrap(None, embedder=embedder) as chat:
        asked = {}
        half = len(first) // 2
        for name, part in (("A", first[:half]), ("AB", second), ("ABA", first[half:])):
            for item in part:
                _step(chat, item)
            asked[name] = float(np.mean([_step(chat, p, learn=False) for p in probes]))
        related = [_related(probe) for probe in probes]
        after = float(np.mean([_step(chat, item) for item in related]))
    with tta.wrap(None, embedder=embedder) as fresh:
        frozen = [fresh.frozen(r.text, output=list(r.answers or ())).text for r in related]
        scratch = float(np.mean([_step(fresh, item) for item in related]))
    start = float(np.mean([f == r.answer for f, r in zip(frozen, related, strict=True)]))
    return {
        **{f"after_{name}": round(value, 4) for name, value in asked.items()},
        "backward_transfer": round(asked["AB"] - asked["A"], 4),
        "related_frozen": round(start, 4),
        "related_from_scratch": round(scratch, 4),
        "related_with_A_known": round(after, 4),
        "forward_transfer": round(after - scratch, 4),
        "probes": len(probes),
    }


def _related(asked: Asked) -> Asked:
    text = f"Sort this customer's message by its intent: {asked.text}"
    return Asked(text=text, task="related", answer=asked.answer, answers=asked.answers)


def at_scale(tasks: int) -> Figures:
    """Milliseconds beyond embedding at so many tasks (three wordings each), of hashed vectors."""
    verbs = ("translate", "sort", "explain", "rewrite", "check", "count", "draw", "rank")
    course = Course(HashEmbedder(384))
    for n in range(3 * tasks):
        kind, wording = n % tasks, ("the", "this", "each")[n // tasks]
        text = f"{verbs[kind % 8]} {wording} sort{kind} for team{kind // 8} as plan{kind * 7}: {n}"
        request = Request(messages=(Message(role="user", content=text),), task=f"task {kind}")
        apply(course.state, _answered(text, course.inferer.infer(request)))
    course.ask(Asked(text="warm up: 1", task="", answer=""))
    course.ms.clear()
    for n in range(300):
        text = f"{verbs[n % 8]} my sort{n} for team{n // 8} as plan{n * 7}, number {n}: x"
        course.ask(Asked(text=text, task="", answer=""))
    return {"tasks": tasks, **percentiles(course.ms)}


# ------------------------------------------------------------------------------ the command


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder with the data sets")
    parser.add_argument("--each", type=int, default=25, help="requests of each task")
    parser.add_argument("--steps", type=int, default=300, help="of BANKING77 and of TREC each")
    parser.add_argument("--seeds", default="2,3,42", help="orders, by commas")
    parser.add_argument("--only", default="", help="the one part to run")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    embedder = default_embedder()
    found: dict[str, dict[str, Figures]] = {}
    for name, part in _parts(options, embedder).items():
        if options.only and name != options.only:
            continue
        found[name] = {}
        for seed in (int(text) for text in options.seeds.split(",")):
            found[name][str(seed)] = part(seed)
            print(name, seed, json.dumps(found[name][str(seed)]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"goals": GOALS, "found": found}, indent=1))


def _parts(options: argparse.Namespace, embedder: Embedder) -> dict[str, Callable[[int], Figures]]:
    data, each, steps = options.data, options.each, options.steps

    def forgotten(seed: int) -> Figures:
        cards = [q for q in questions(data, seed, 2 * steps) if q.task == "banking77"]
        kinds = [q for q in questions(data, seed, steps) if q.task == "trec"]
        first, probes = cards[:steps], cards[steps : steps + steps // 3]
        return forgetting(tuple(first), tuple(kinds), tuple(probes), embedder)

    def grouped(stream: Callable[[Path, int, int], Kinds], seed: int) -> Figures:
        return clustered(stream(data, seed, each), embedder)

    def corrected(stream: Callable[[Path, int, int], Kinds], wrong: float, seed: int) -> Figures:
        return fed(stream(data, seed, each), embedder, seed, wrong=wrong)

    def noted(group: str, seed: int) -> Figures:
        return intents(clarified(data, seed, group), embedder)

    parts: dict[str, Callable[[int], Figures]] = {
        **{name: partial(grouped, stream) for name, stream in STREAMS.items()},
        **{f"memprompt-{group}": partial(noted, group) for group in GROUPS},
    }
    for name in ("superni", "superni-reworded", "bbh-open"):
        for share in (0.0, 0.2, 1.0):
            parts[f"fed-{name}-{share}"] = partial(corrected, STREAMS[name], share)
    parts["told or not"] = lambda seed: told_or_not(questions(data, seed, steps), embedder)
    parts["forgetting"] = forgotten
    parts["scale"] = lambda seed: at_scale(1_000)
    return parts


if __name__ == "__main__":
    main()
