"""Wrap a frozen model so that it learns from feedback at every step.

The only module that knows all parts. One step is `Adapted.__call__`, top to bottom; the way back is
`Adapted.learn`. Everything else here is a view on those two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

from tta.decoding import Decider, Decision, Mixture, Output, Prompts, health, load, testify
from tta.errors import InvalidSetting
from tta.feedback import feedback_event
from tta.memory import Memory
from tta.protocols import Embedder, Model
from tta.request import VERIFY_SECONDS, Prompt, check_reads, check_user, make_request
from tta.response import Comparison, Explanation, Response
from tta.retrieval import (
    Banks,
    Names,
    Packed,
    Passages,
    Recaller,
    Reranker,
    SentenceEmbedder,
    default_embedder,
    pack,
)
from tta.tasks import TaskInferer
from tta.types import (
    ANY_TASK,
    DEFAULT_USER,
    Context,
    Event,
    EventKind,
    Feedback,
    Health,
    Json,
    Learned,
    Meaning,
    Reading,
    Recall,
    Request,
    Rule,
    Task,
    UpTo,
    Why,
)
from tta.types import Prompt as Rendered

if TYPE_CHECKING:
    from transformers import Pipeline, PreTrainedModel, PreTrainedTokenizerBase

    from tta.retrieval.documents import How, What
    from tta.retrieval.passages import Retriever

BUDGET = 512
"""Tokens of recalled material in a prompt, unless `wrap(budget=)` says otherwise."""
DEMONSTRATIONS = 16
"""Cases that are offered to a prompt; the budget decides how many it holds."""
KEPT = 8
"""How many candidates' texts the journal keeps of an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a chat is made of; shared by all its views."""

    model: Model | None
    memory: Memory
    tasks: TaskInferer
    recaller: Recaller
    banks: Banks
    passages: Passages
    decider: Decider
    budget: int
    lock: AbstractContextManager[Any]


class Adapted:
    """A frozen model with a memory. Call it; correct it; call it again.

    Made by `tta.wrap`. Closing it (or leaving a `with` block) closes the memory, not the model.
    """

    def __init__(
        self, parts: Parts, *, user: str = DEFAULT_USER, reads: Sequence[str] = ()
    ) -> None:
        self._parts = parts
        self.user = check_user(user)
        self.reads = check_reads(reads, user)

    def __call__(
        self,
        prompt: Prompt,
        *,
        user: str | None = None,
        task: str | None = None,
        output: object = None,
        verify: Callable[[Any], bool | float] | None = None,
        verify_seconds: float = VERIFY_SECONDS,
        same: Callable[[Any], object] | Meaning | None = None,
        n: int | UpTo | None = None,
        max_new_tokens: int | None = None,
        seed: int = 0,
    ) -> Response:
        """Answer, in the light of all that `user` has taught so far.

        `prompt` is a question or a list of messages. `output` is a `Literal`, an `Enum`, a list of
        choices, a pydantic model, a dataclass, a JSON schema, `tta.Regex` or `tta.Grammar`.

        An open answer is drawn `n` times: the first greedily, the others sampled from `seed`;
        `tta.UpTo(40)` ends that once the votes agree; None draws once, and more (up to 16) where
        that promises a better answer: with a verifier, for short typed answers that the model is
        unsure of, and where feedback showed that it helps. Samples vote for an answer if they have
        its value, or if `same`, a function of the value, gives the same, or if they mean the same
        (`tta.Meaning`). `verify` says of a value
        how good it is (a bool, or 0 to 1): drawing ends with the first that passes. It runs in a
        thread of its own, for `verify_seconds` at most, and must not call this chat.

        Raises InputError for arguments that cannot be used (nothing is recorded then), ModelNeeded
        for an open answer without a model, VerifierError when `verify` raises or takes too long,
        StoreError when the answer cannot be recorded. What raises leaves nothing behind.
        """
        started = perf_counter()
        request = make_request(
            prompt,
            user=self.user if user is None else user,
            reads=self.reads,
            task=task,
            output=output,
            verify=verify,
            verify_seconds=verify_seconds,
            same=same,
            n=n,
            max_new_tokens=max_new_tokens,
            seed=seed,
        )
        wanted = Output.of(output)
        with self._parts.lock:
            found, recall, packed, rendered = self._prepare(request, wanted)
            standing = self._parts.memory.standing(user=request.user, task=found.name)
            prompts = self._prompts(request, wanted, packed, rendered)
            decision = self._parts.decider.decide(
                request, found.name, wanted, prompts, recall, standing
            )
            context = _context(packed, rendered)
            response = self._respond(request, wanted, found, recall, context, decision, started)
            self._parts.memory.record(_answered(response, decision, self._parts.model))
        return response

    def learn(self, feedback: Feedback, *, user: str | None = None) -> Learned:
        """Take feedback that comes later or from elsewhere; durable when this returns.

        The same feedback id twice is one event. Raises UnknownResponse, WrongUser, ConflictingId,
        InputError for content that cannot be used, StoreError when it could not be written.
        """
        who = self.user if user is None else user
        with self._parts.lock:
            memory = self._parts.memory
            memory.sync()
            about = None if isinstance(feedback, Rule) else memory.event(feedback.response)
            event = _with_testimony(feedback_event(feedback, about, user=who), about)
            return memory.learn(self._parts.passages.told(event, about))

    def rule(self, text: str, *, task: str = ANY_TASK, user: str | None = None) -> Learned:
        """A standing instruction, for one task or for all."""
        return self.learn(Rule(text=text, task=task), user=user)

    def read(self, what: What, *, user: str | None = None, **how: Unpack[How]) -> Reading:
        """Take in documents: of this user's alone, what bears on a request is shown with it.

        `what`: files, folders, LlamaIndex documents or nodes. Only what is new or has changed is
        read, and what is gone leaves; the journal keeps its text until `forget`. `parser` and
        `readers` (by ending, ".pdf") of LlamaIndex split and read otherwise. Each document is
        durable once read. Raises InvalidSetting (no such path), InvalidText (no text), StoreError.
        """
        who = check_user(self.user if user is None else user)
        self._parts.memory.sync()
        return self._parts.passages.read(what, who, **how)

    def undo(self, feedback: str | Learned, *, user: str | None = None) -> Learned:
        """As if that feedback had never been given. Raises UnknownFeedback, WrongUser."""
        feedback_id = feedback.feedback if isinstance(feedback, Learned) else feedback
        with self._parts.lock:
            self._parts.memory.sync()
            return self._parts.memory.undo(feedback_id, user=self.user if user is None else user)

    def forget(self, *, user: str) -> int:
        """Erase all that is kept of `user`, texts and vectors; returns how many events that was."""
        check_user(user)
        with self._parts.lock:
            if self._parts.model is not None:
                self._parts.model.forget(user)
            self._parts.banks.forget(user)
            self._parts.passages.forget(user)
            return self._parts.memory.forget(user)

    def for_user(self, user: str, *, reads: Sequence[str] = ()) -> Adapted:
        """A light view: the same model and memory, another person's scope.

        `reads` names wider scopes that may be read besides it, nearest first: other users, or
        `tta.EVERYONE`. What is learned there counts as more experts, as far as they prove right
        here. Without it nothing but the user's own is ever read.
        """
        return Adapted(self._parts, user=user, reads=reads)

    def health(self, user: str | None = None) -> tuple[Health, ...]:
        """How adaptation fares for a user in each task with feedback, those with the most first."""
        who = self.user if user is None else user
        with self._parts.lock:
            memory = self._parts.memory
            memory.sync()
            found = [
                health(who, task, memory.standing(user=who, task=task).weights, tally)
                for task, tally in memory.trust(who).tallies.items()
            ]
        return tuple(sorted(found, key=lambda h: (-h.feedback, -h.steps)))

    def wants_feedback(self, reply: Response, share: float = 0.3) -> bool:
        """Whether feedback on this reply would teach much, for an app that asks on `share` (0 to
        1) of the steps: the decision was closer than most of its task's last 100 (margin sampling:
        Scheffer et al., 2001). Raises InvalidSetting outside of 0 to 1."""
        if not 0 <= share <= 1:
            raise InvalidSetting(f"share must be from 0 to 1, was {share!r}", value=share)
        with self._parts.lock:
            trust = self._parts.memory.trust(reply.request.user)
            return trust.is_close(reply.task.name, reply.margin, share)

    def frozen(
        self,
        prompt: Prompt,
        *,
        output: object = None,
        max_new_tokens: int | None = None,
    ) -> Response:
        """What the untouched model answers, greedily; nothing is recalled and nothing recorded.

        Without a model, the similarity of the request to the answers' names stands for it.
        """
        started = perf_counter()
        request = make_request(prompt, user=self.user, output=output, max_new_tokens=max_new_tokens)
        wanted = Output.of(output)
        with self._parts.lock:
            task, recall = Task(name="frozen"), Recall()
            packed, rendered = self._compose(request, wanted, recall)
            decision = self._parts.decider.frozen(request, wanted, rendered)
            context = _context(packed, rendered)
            return self._respond(request, wanted, task, recall, context, decision, started)

    def compare(self, prompt: Prompt, **options: Any) -> Comparison:  # noqa: ANN401 (of __call__)
        """The untouched model's answer beside the adapted one; `options` as for a call."""
        kept = {k: v for k, v in options.items() if k in ("output", "max_new_tokens")}
        asked = self if options.get("user") is None else self.for_user(options["user"])
        return Comparison(frozen=asked.frozen(prompt, **kept), adapted=self(prompt, **options))

    def explain(
        self,
        prompt: Prompt,
        *,
        user: str | None = None,
        task: str | None = None,
        output: object = None,
    ) -> Explanation:
        """Everything up to decoding, without running the model or recording anything."""
        request = make_request(
            prompt,
            user=self.user if user is None else user,
            reads=self.reads,
            task=task,
            output=output,
        )
        with self._parts.lock:
            found, recall, packed, rendered = self._prepare(request, Output.of(output))
        return Explanation(
            request=request, task=found, recall=recall, context=_context(packed, rendered)
        )

    @property
    def model(self) -> Model | None:
        """The frozen model; `.model.model` is the very object that was wrapped."""
        return self._parts.model

    @property
    def memory(self) -> Memory:
        """What is remembered: records, events, export."""
        return self._parts.memory

    def close(self) -> None:
        """Write out and release the memory; the model stays usable."""
        with self._parts.lock:
            self._parts.memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        model = self._parts.model.id if self._parts.model is not None else None
        return f"<Adapted model={model!r} user={self.user!r} memory={self._parts.memory!r}>"

    def _prepare(
        self, request: Request, wanted: Output | None
    ) -> tuple[Task, Recall, Packed, Rendered]:
        self._parts.memory.sync()
        task = self._parts.tasks.infer(request)
        recall = self._parts.recaller.recall(request, task)
        return task, recall, *self._compose(request, wanted, recall)

    def _compose(
        self, request: Request, wanted: Output | None, recall: Recall
    ) -> tuple[Packed, Rendered]:
        model = self._parts.model
        packed = pack(
            request,
            recall,
            budget=self._parts.budget,
            context=model.context_length if model is not None else None,
            count=model.count if model is not None else str.__len__,
            answers=wanted.choices if wanted is not None else None,
        )
        # Without a model nothing is shown to one.
        return packed, model.render(packed.messages) if model else Rendered(text="", ids=())

    def _prompts(
        self, request: Request, wanted: Output | None, packed: Packed, rendered: Rendered
    ) -> Prompts:
        return Prompts(
            recalled=rendered,
            frozen=lambda: self._compose(request, wanted, Recall())[1],
            differ=bool(packed.shown),
        )

    def _respond(
        self,
        request: Request,
        wanted: Output | None,
        task: Task,
        recall: Recall,
        context: Context,
        decision: Decision,
        started: float,
    ) -> Response:
        best = decision.candidates[0]
        return Response(
            text=best.text,
            value=wanted.parse(best.text, best.finish) if wanted is not None else best.text,
            request=request,
            task=task,
            context=context,
            candidates=decision.candidates,
            confidence=decision.confidence,
            margin=decision.margin,
            cost=replace(decision.cost, ms=1000 * (perf_counter() - started)),
            why=Why(
                weights=decision.weights,
                spoke_for=tuple(r for r in recall.cases if r.record.answer == best.text),
                spoke_against=tuple(r for r in recall.rejected if r.record.answer == best.text),
                stopped=decision.stopped,
                skipped=decision.skipped,
                muted=decision.muted,
                samples=decision.samples,
                posterior=decision.posterior,
            ),
            learner=self,
        )


def wrap(
    model: PreTrainedModel | Pipeline | str | None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    memory: str | Path | None = None,
    index: str | None = None,
    embedder: Embedder | str | None = None,
    user: str = DEFAULT_USER,
    reads: Sequence[str] = (),
    budget: int = BUDGET,
    retriever: Retriever | None = None,
    reranker: Reranker | None = None,
) -> Adapted:
    """Wrap a frozen model. It is never changed: no weight, hook, configuration or tokenizer field.

    `model`: a model (with its `tokenizer`), a transformers text-generation pipeline, an id or path
    for `from_pretrained`, "bundled" for the small model that comes with tta, or None for no
    language model at all (closed answers only: the answers' names stand for its opinion).
    `memory`: a folder, a SQLAlchemy URL, or None to remember for the life of this object only.
    `index`: `http://host:port` of a Chroma server, needed when several processes share a memory.
    `embedder`: an object with `id`, `dim` and `embed`, or a sentence-transformers id or path.
    `reads`: wider scopes that may be read besides the user's own; see `Adapted.for_user`.
    `budget`: tokens of recalled material in a prompt.
    `retriever`: a LlamaIndex retriever or query engine that finds passages instead of what was
    read by `Adapted.read`; it is asked for every user. `reranker`: given the question and passages,
    how well each answers it.

    Raises ModelError when model or embedder cannot be used, StoreError when the memory cannot.
    """
    if budget < 0:
        raise InvalidSetting(f"budget must not be negative, was {budget!r}", value=budget)
    check_reads(reads, check_user(user))
    frozen = _load(model, tokenizer)
    embeds = _embedder(embedder)
    store = Memory.open(memory, embedder=embeds, index=index, weigher=Mixture())
    # Without a model nothing is shown to one: cases vote, and none is chosen for a prompt.
    shown = DEMONSTRATIONS if frozen is not None else 0
    passages = Passages(
        store, embeds, frozen, budget=budget, retriever=retriever, reranker=reranker
    )
    recaller = Recaller(store, embeds, demonstrations=shown, passages=passages)
    names = Names(embeds)
    banks = Banks(store, recaller, embeds, names)
    parts = Parts(
        model=frozen,
        memory=store,
        tasks=TaskInferer(store, embeds),
        recaller=recaller,
        banks=banks,
        passages=passages,
        decider=Decider(frozen, names, banks),
        budget=budget,
        lock=RLock(),
    )
    return Adapted(parts, user=user, reads=reads)


def _load(
    model: PreTrainedModel | Pipeline | str | None, tokenizer: PreTrainedTokenizerBase | None
) -> Model | None:
    if model is None:
        return None
    if isinstance(model, str) and model == "bundled":
        from tta.micro import bundled

        return load(*bundled())
    return load(model, tokenizer)


def _embedder(embedder: Embedder | str | None) -> Embedder:
    if embedder is None:
        return default_embedder()
    return SentenceEmbedder(embedder) if isinstance(embedder, str) else embedder


def _context(packed: Packed, rendered: Rendered) -> Context:
    return Context(
        messages=packed.messages,
        prompt=rendered.text,
        tokens=len(rendered.ids),
        shown=packed.shown,
        dropped=packed.dropped,
        costs=packed.costs,
    )


def _with_testimony(event: Event, about: Event | None) -> Event:
    """The event with what it says of the experts that answered: folding it needs no more."""
    if about is None:
        return event
    opinions = cast(Mapping[str, Json], about.body.get("opinions") or {})
    return replace(event, body={**event.body, **testify(opinions, event.kind, event.body)})


def _answered(response: Response, decision: Decision, model: Model | None) -> Event:
    """The journal's line for an answer; the response's id is the event's."""
    return Event(
        id=response.id,
        kind=EventKind.ANSWERED,
        user=response.request.user,
        task=response.task.name,
        response=response.id,
        body={
            "request": response.request.prompt,
            "pattern": response.task.pattern,
            "answer": response.text,
            "candidates": [c.text for c in response.candidates[:KEPT]],
            "messages": [{"role": m.role, "content": m.content} for m in response.request.messages],
            "model": model.id if model is not None else "",
            "opinions": decision.opinions,
            "margin": round(decision.margin, 6),
            "sources": [source.id for source in response.context.sources],
        },
    )
