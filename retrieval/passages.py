"""The documents of a user: read into passages, found for a request, judged by feedback.

Knows how to search (by meaning and by words, fused by rank), what feedback said of each passage,
and how to ask a retriever of the caller's instead. Knows neither where passages are kept
(`Library`), nor how much of what is found fits into a prompt (`pack`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack, cast

import numpy as np

from tta.errors import InvalidSetting
from tta.protocols import Embedder, Library, Tokenizer
from tta.retrieval.documents import Splitting, passage_tokens, read
from tta.retrieval.lexical import Lexical, words
from tta.retrieval.tokens import estimate
from tta.types import (
    ANY_TASK,
    EVERYONE,
    Event,
    EventKind,
    Json,
    Reading,
    Recalled,
    Record,
    RecordKind,
    Request,
)

if TYPE_CHECKING:
    from llama_index.core.base.base_query_engine import BaseQueryEngine
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.schema import NodeWithScore

    from tta.protocols import FloatArray
    from tta.retrieval.documents import How, What

    Retriever = BaseRetriever | BaseQueryEngine

Reranker = Callable[[str, Sequence[str]], Sequence[float]]
"""(question, passages) -> how well each answers it; only the order counts."""

PASSAGE = "passage"
"""The channel of what is found here."""
OFFERED = 6
"""Passages that are offered to a prompt."""
POOL = 24
"""Passages that each way of searching may propose."""
SMOOTHING = 60
"""Of reciprocal rank fusion (Cormack, Clarke & Büttcher, 2009)."""
NEAR = 0.25
"""Least cosine at which a passage is about what is asked: of unrelated texts it is about 0.1."""


class Passages:
    """What bears on a request among the documents that its user, or a scope she reads, had read.

    `tokenizer`: of the model that they are shown to, if there is one. `budget`: tokens that a
    prompt has for all that is recalled. `retriever`: a LlamaIndex retriever or query engine that is
    asked instead, whoever the user is. `reranker`: puts what was found in its own order.
    """

    def __init__(
        self,
        library: Library,
        embedder: Embedder,
        tokenizer: Tokenizer | None,
        *,
        budget: int,
        retriever: Retriever | None = None,
        reranker: Reranker | None = None,
    ) -> None:
        _check(retriever)
        self._library, self._embedder = library, embedder
        self._tokens = passage_tokens(budget)
        # Without a model nothing is shown to one.
        self._count = tokenizer.count if tokenizer is not None else estimate
        self._is_shown = tokenizer is not None
        self._retriever, self._reranker = retriever, reranker
        self._words: dict[str, tuple[object, Sequence[Record], Lexical]] = {}

    def read(self, what: What, user: str, **how: Unpack[How]) -> Reading:
        """Keep the passages of what is new or changed among documents; see `documents.read`."""

        def keep(document: str, digest: str, passages: Sequence[str]) -> None:
            said: Mapping[str, Json] = {
                "document": document,
                "digest": digest,
                "passages": tuple(passages),
            }
            self._library.learn(Event(kind=EventKind.READ, user=user, body=said))

        return read(
            what,
            known={name: digest for name, (_, digest) in self._library.documents(user).items()},
            keep=keep,
            splitting=Splitting(
                tokens=self._tokens,
                count=self._count,
                parser=how.get("parser"),
                readers=how.get("readers", {}),
            ),
        )

    def told(self, feedback: Event, answered: Event | None) -> Event:
        """The feedback with what it says of the passages that led to the answer."""
        sources = answered.body.get("sources") if answered is not None else None
        if not sources:
            return feedback
        shown = self._library.passages(feedback.user, cast(Sequence[str], sources))
        said = cite(shown, feedback.kind, feedback.body)
        return replace(feedback, body={**feedback.body, **said})

    def find(self, request: Request, task: str) -> tuple[Recalled, ...]:
        """The best passages for a request, best first. One embedding call at most."""
        if not self._is_shown:
            return ()
        if self._retriever is not None:
            found, fused = _asked(self._retriever, request)
        else:
            found, fused = self._searched(request)
        if self._reranker is not None and found:
            said = self._reranker(request.prompt, [each.record.request for each in found])
            fused = _by_rank(_in_order(said))
        return _weighed(found, fused, self._library.worth(request.user, task))

    def forget(self, user: str) -> None:
        """Let go of what holds texts of a user."""
        self._words.pop(user, None)

    def _searched(self, request: Request) -> tuple[list[Recalled], FloatArray]:
        scopes = [request.user, *(scope for scope in request.reads if scope != EVERYONE)]
        scopes = [scope for scope in scopes if self._library.documents(scope)]
        if not scopes:
            return [], np.zeros(0)
        vector = self._embedder.embed([request.prompt])[0]
        near = [pair for scope in scopes for pair in self._near(vector, scope)]
        near.sort(key=lambda pair: -pair[1])
        alike = [record for scope in scopes for record in self._alike(request.prompt, scope)]
        found = self._recalled(vector, near, alike)
        place = {each.record.id: i for i, each in enumerate(found)}
        by_meaning = [place[record.id] for record, cosine in near if cosine >= NEAR]
        by_words = [place[record.id] for record in alike]
        return found, _by_rank(by_meaning, by_words, count=len(found))

    def _recalled(
        self, vector: FloatArray, near: Sequence[tuple[Record, float]], alike: Sequence[Record]
    ) -> list[Recalled]:
        """Each once, with its cosine."""
        cosines = {record.id: (record, cosine) for record, cosine in near}
        others = [record for record in alike if record.id not in cosines]
        if others:
            found = (self._library.vectors(others) @ vector).tolist()
            cosines |= {r.id: (r, cosine) for r, cosine in zip(others, found, strict=True)}
        return [
            Recalled(record=record, score=min(1.0, max(0.0, cosine)), channel=PASSAGE)
            for record, cosine in cosines.values()
        ]

    def _near(self, vector: FloatArray, scope: str) -> Sequence[tuple[Record, float]]:
        return self._library.nearest(
            vector, POOL, user=scope, task=ANY_TASK, kind=RecordKind.PASSAGE
        )

    def _alike(self, prompt: str, scope: str) -> list[Record]:
        """Those that share words with the prompt, best first."""
        documents = self._library.documents(scope)
        state = (len(documents), list(documents.values())[-1])
        if scope not in self._words or self._words[scope][0] != state:
            records = self._library.records(user=scope, task=ANY_TASK, kind=RecordKind.PASSAGE)
            self._words[scope] = state, records, Lexical([r.request for r in records])
        _, records, lexical = self._words[scope]
        return [records[row] for row in lexical.best(prompt, POOL)]


def _by_rank(*orders: Sequence[int], count: int | None = None) -> FloatArray:
    """Reciprocal rank fusion: of each place the sum of 1 / (60 + its rank), over the orders."""
    fused = np.zeros(len(orders[0]) if count is None else count)
    for order in orders:
        for rank, place in enumerate(order, start=1):
            fused[place] += 1 / (SMOOTHING + rank)
    return fused


def _in_order(scores: Sequence[float]) -> list[int]:
    return [int(i) for i in np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")]


def _weighed(
    found: Sequence[Recalled], fused: FloatArray, worth: Mapping[str, float]
) -> tuple[Recalled, ...]:
    """The best, each as relevant as the best match among all times its share of the best rank,
    times what feedback made of it."""
    if not len(fused) or not fused.max() > 0:
        return ()
    near = max(each.score for each, rank in zip(found, fused, strict=True) if rank > 0)
    scores = near * fused / fused.max()
    scores *= [worth.get(each.record.id, 1.0) for each in found]
    best = [i for i in _in_order(scores.tolist())[:OFFERED] if fused[i] > 0]
    return tuple(
        Recalled(record=found[i].record, score=min(1.0, float(scores[i])), channel=PASSAGE)
        for i in best
    )


# -------------------------------------------------------------------- a retriever of the caller's


def _check(retriever: object) -> None:
    if retriever is not None and not hasattr(retriever, "retrieve"):
        raise InvalidSetting(
            f"{type(retriever).__name__} cannot be asked for passages",
            value=retriever,
            hint="Pass a LlamaIndex BaseRetriever or query engine",
        )


def _asked(retriever: Retriever, request: Request) -> tuple[list[Recalled], FloatArray]:
    """What it finds, in its order: a query engine's answer before what that was made of."""
    from llama_index.core.base.base_query_engine import BaseQueryEngine

    if isinstance(retriever, BaseQueryEngine):
        answer = retriever.query(request.prompt)
        records = [_record(request, f"{request.id}=", str(answer), type(retriever).__name__)]
        nodes: Sequence[NodeWithScore] = answer.source_nodes
    else:
        records, nodes = [], retriever.retrieve(request.prompt)
    records += [_node(request, node) for node in nodes]
    unique = {record.request.strip(): record for record in records if record.request.strip()}
    found = [Recalled(record=r, score=1.0, channel=PASSAGE) for r in unique.values()]
    return found, _by_rank(range(len(found)))


def _node(request: Request, found: NodeWithScore) -> Record:
    node = found.node
    name = node.metadata.get("file_path") or node.ref_doc_id or node.node_id
    return _record(request, node.node_id, node.get_content(), str(name))


def _record(request: Request, name: str, text: str, document: str) -> Record:
    return Record(
        id=name,
        kind=RecordKind.PASSAGE,
        user=request.user,
        task=ANY_TASK,
        request=text,
        answer=document,
        source="",
        created=0.0,
    )


# ---------------------------------------------------------------------- what feedback says of them


def cite(passages: Mapping[str, str], kind: EventKind, body: Mapping[str, Json]) -> dict[str, Json]:
    """What feedback says of the passages that were shown: fields to add to its event's body.

    `passages`: their texts by id. `cited`: how right (1 to -1) it proves each of them. A passage is
    credited with what it says itself, word for word, whatever was answered; where none says
    anything of it, all have led to the answer in equal parts.
    """
    right, wrong, weight = _told(kind, body)
    said = {name: _credit(text, right, wrong) for name, text in passages.items()}
    if not any(said.values()):
        said = dict.fromkeys(said, (-1.0 if wrong else 1.0) / max(1, len(said)))
    cited: dict[str, Json] = {name: weight * credit for name, credit in said.items() if credit}
    return {"cited": cited} if weight and cited else {}


def _told(kind: EventKind, body: Mapping[str, Json]) -> tuple[str, str, float]:
    """(what should have been answered, what should not, how much that counts)."""
    answer = str(body.get("answer", ""))
    if kind is EventKind.RATING:
        value = float(cast(float, body["value"]))
        return (answer, "", value) if value > 0 else ("", answer, -value)
    if kind is EventKind.PREFERENCE:
        return str(body["chosen"]), str(body["rejected"]), 1.0
    if kind in (EventKind.CORRECTION, EventKind.EDIT):
        right = str(body["text" if kind is EventKind.CORRECTION else "result"])
        return right, answer if answer.strip() != right.strip() else "", 1.0
    return "", "", 0.0


def _credit(text: str, right: str, wrong: str) -> float:
    if _says(text, right):
        return 1.0
    return -1.0 if _says(text, wrong) else 0.0


def _says(text: str, answer: str) -> bool:
    found = " ".join(words(answer))
    return bool(found) and f" {found} " in f" {' '.join(words(text))} "
