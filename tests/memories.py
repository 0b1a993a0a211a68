"""Events and a look at a memory's insides, for the tests of `tta.memory`.

Answers carry the opinions of experts and feedback what it says of them, made by the very code that
makes them in a step, so that weights are a part of every state that is compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tta.decoding import Mixture
from tta.decoding.mixture import blend
from tta.decoding.testimony import opinions_json, testify
from tta.memory import Memory
from tta.memory.fold import State, fold
from tta.memory.index import ChromaIndex, MemoryIndex
from tta.testing import HashEmbedder
from tta.types import Event, EventKind, Json, RecordKind, Weights

EMBED = HashEmbedder()
_VOTING = (RecordKind.CASE, RecordKind.REJECTED)
WEIGHER = Mixture()
ANSWERS = ("yes", "no", "maybe", "ja")


def opinions(answer: str, experts: tuple[str, ...] = ("frozen", "kernel")) -> dict[str, Json]:
    """What two or more experts may have thought: the frozen one "no", the others `answer`."""
    texts = tuple(dict.fromkeys([*ANSWERS, answer]))
    favourites = ["no", *([answer] * len(experts))]
    said = {
        expert: np.array([0.0 if t == favourite else -1.5 - i / 4 for i, t in enumerate(texts)])
        for expert, favourite in zip(experts, favourites, strict=False)
    }
    mixed = blend(said, Weights())
    return opinions_json(texts, said, mixed, closed=True, frozen="no", passes=["frozen"])


def answered(
    response: str = "r1",
    *,
    user: str = "ada",
    task: str = "t",
    request: str = "Where is my parcel?",
    answer: str = "No idea.",
    pattern: str = "where is my ...",
    experts: tuple[str, ...] = (),
    margin: float | None = None,
) -> Event:
    body: dict[str, Json] = {"request": request, "pattern": pattern, "answer": answer}
    if experts:
        body |= {"opinions": opinions(answer, experts), "margin": margin}
    return Event(
        kind=EventKind.ANSWERED, user=user, task=task, response=response, id=response, body=body
    )


def feedback(kind: EventKind, about: Event, id: str, **said: Json) -> Event:
    about_body = {key: about.body[key] for key in ("request", "pattern", "answer")}
    body: dict[str, Json] = {**about_body, **said}
    kept = about.body.get("opinions")
    if isinstance(kept, Mapping):
        body |= testify(kept, kind, body)
    return Event(
        kind=kind, user=about.user, task=about.task, response=about.response, id=id, body=body
    )


def correction(about: Event, text: str, id: str = "c1") -> Event:
    return feedback(EventKind.CORRECTION, about, id, text=text)


def rating(about: Event, value: float, id: str = "g1") -> Event:
    return feedback(EventKind.RATING, about, id, value=value)


def note(about: Event, text: str, id: str = "n1") -> Event:
    return feedback(EventKind.NOTE, about, id, text=text)


def preference(about: Event, chosen: str, rejected: str, id: str = "p1") -> Event:
    return feedback(EventKind.PREFERENCE, about, id, chosen=chosen, rejected=rejected)


def edit(about: Event, result: str, id: str = "e1") -> Event:
    return feedback(EventKind.EDIT, about, id, start=0, stop=1, text="", result=result)


def rule(text: str, *, user: str = "ada", task: str = "", id: str = "rule1") -> Event:
    return Event(kind=EventKind.RULE, user=user, task=task, id=id, body={"text": text})


def reading(document: str, *texts: str, user: str = "ada", id: str = "d1") -> Event:
    """What a document says now; without texts, that it is gone."""
    body: dict[str, Json] = {
        "document": document,
        "digest": str(hash(texts)) if texts else "",
        "passages": texts,
    }
    return Event(kind=EventKind.READ, user=user, id=id, body=body)


def merged(task: str, into: str, *, user: str = "ada", id: str = "m1", because: str = "") -> Event:
    """All of a task is of another from now on."""
    body: dict[str, Json] = {"into": into}
    if because:
        body["because"] = because
    return Event(kind=EventKind.MERGED, user=user, task=task, id=id, body=body)


def split(
    task: str,
    into: str,
    *patterns: str,
    taught: Sequence[str] = (),
    user: str = "ada",
    id: str = "s1",
) -> Event:
    """Patterns of a task are a task of their own from now on."""
    body: dict[str, Json] = {"into": into, "patterns": list(patterns), "taught": list(taught)}
    return Event(kind=EventKind.SPLIT, user=user, task=task, id=id, body=body)


def undone(id: str, *, user: str = "ada") -> Event:
    return Event(kind=EventKind.UNDONE, user=user, body={"feedback": id})


def ordered(state: State) -> dict[str, list[str]]:
    """What equality of dicts does not compare: in which order records are live."""
    return {name: list(user.records) for name, user in state.users.items()}


def assert_consistent(memory: Memory) -> None:
    """The live state is the fold of the journal, and the index holds what is live: its ids, each
    once, and their vectors."""
    again = fold(memory.events(), memory._weigher, cap=memory.state.cap)
    assert memory.state == again
    assert ordered(memory.state) == ordered(again)
    index = memory._follower.index
    if index is None:
        return
    assert isinstance(index, ChromaIndex | MemoryIndex)
    for user in memory.users():
        index = memory._follower._index_of(user)  # as a search gets it
        past = memory.state.users[user].past.values()
        live = [r for r in memory.records(user=user) if r.kind is not RecordKind.RULE] + [*past]
        said_of = {(r.source, r.request) for r in live if r.kind in _VOTING}  # one rank, one vector
        assert len(said_of) == len({source for source, _ in said_of})
        assert sorted(index.known(user)) == sorted(r.id for r in live)
        if live and type(memory._embedder) is HashEmbedder:  # others count, or fail
            said = memory._embedder.embed([r.request for r in live])
            np.testing.assert_allclose(index.vectors(user, [r.id for r in live]), said, atol=1e-5)


def files_holding(folder: Path, needle: bytes) -> list[Path]:
    """The files below a folder in which the bytes occur."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in paths if needle in path.read_bytes()]


def teach(memory: Memory, number: int = 1, *, user: str = "ada", text: str = "Ask.") -> Event:
    """One answer and its correction."""
    about = answered(f"{user}{number}", user=user, request=f"question number {number}")
    memory.record(about)
    memory.learn(correction(about, text, f"c-{user}{number}"))
    return about


def near(memory: Memory, text: str, *, user: str = "ada", k: int = 1) -> list[str]:
    """The answers of the nearest cases."""
    vector = EMBED.embed([text])[0]
    found = memory.nearest(vector, k, user=user, task="t", kind=RecordKind.CASE)
    return [record.answer for record, _ in found]
