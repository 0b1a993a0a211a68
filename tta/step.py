"""The values of a step: what it is made of, what it is told, what it answers and writes down.

Refuses to know in which order things happen: that is `tta.adapted`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from threading import RLock
from time import perf_counter
from typing import TYPE_CHECKING, cast

from tta.aside import Aside
from tta.decoding import (
    Batch,
    Decider,
    Decision,
    HFModel,
    Lock,
    Output,
    Prompts,
    invited,
    testify,
    thinks,
)
from tta.memory import Memory
from tta.protocols import Embedder, Learner, Model
from tta.response import Response
from tta.retrieval import Banks, Names, Packed, Passages, Recaller, Reranker, pack
from tta.taskbook import TaskBook
from tta.tasks import Profiles, Regroup, TaskInferer
from tta.types import (
    Context,
    Event,
    EventKind,
    Json,
    Learned,
    Prompt,
    Recall,
    Request,
    Standing,
    Task,
    Why,
)

if TYPE_CHECKING:
    from tta.retrieval.passages import Retriever

DEMONSTRATIONS = 16
"""Cases that are offered to a prompt; the budget decides how many it holds."""
KEPT = 8
"""How many candidates' texts the journal keeps of an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a chat is made of; shared by all its views."""

    model: HFModel | None
    memory: Memory
    tasks: TaskInferer
    profiles: Profiles
    recaller: Recaller
    banks: Banks
    passages: Passages
    decider: Decider
    budget: int
    batch: Batch | None
    regroup: Regroup
    aside: Aside = field(default_factory=Aside)
    forgotten: Counter[str] = field(default_factory=Counter)
    """How often each user was: what was begun before is not recorded after."""
    lock: Lock = field(default_factory=RLock)

    @classmethod
    def of(
        cls,
        model: HFModel | None,
        memory: Memory,
        embedder: Embedder,
        *,
        budget: int,
        retriever: Retriever | None,
        reranker: Reranker | None,
    ) -> Parts:
        """All of them; without a model nothing is shown to one: cases vote, none is chosen."""
        passages = Passages(
            memory, embedder, model, budget=budget, retriever=retriever, reranker=reranker
        )
        shown = DEMONSTRATIONS if model is not None else 0
        recaller = Recaller(memory, embedder, demonstrations=shown, passages=passages)
        names, tasks = Names(embedder), TaskInferer(memory, embedder)
        banks = Banks(memory, recaller, embedder, names)
        return cls(
            model=model,
            memory=memory,
            tasks=tasks,
            profiles=Profiles(memory),
            recaller=recaller,
            banks=banks,
            passages=passages,
            decider=Decider(model, names, banks),
            budget=budget,
            batch=Batch(lambda: model.plan.ragged) if model is not None else None,
            regroup=Regroup(memory, tasks),
        )

    def book(self, user: str) -> TaskBook:
        """A user's tasks."""
        return TaskBook(self.memory, self.profiles, self.regroup, user)

    def forget(self, user: str) -> None:
        """Let go of what is held of a user outside of the memory."""
        if self.model is not None:
            self.model.forget(user)
        self.banks.forget(user)
        self.passages.forget(user)
        self.tasks.forget(user)
        self.profiles.forget(user)
        self.regroup.forget(user)
        self.forgotten[user] += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request, and all that is known when it is decided."""

    request: Request
    wanted: Output | None
    task: Task
    recall: Recall
    context: Context
    prompts: Prompts
    standing: Standing
    forgotten: int
    """How often this user had been forgotten."""

    @property
    def told(self) -> tuple[Request, str, Output | None, Prompts, Recall, Standing]:
        """What the decider is told."""
        return (
            self.request,
            self.task.name,
            self.wanted,
            self.prompts,
            self.recall,
            self.standing,
        )


def respond(asked: Asked, decision: Decision, started: float, learner: Learner) -> Response:
    """The response to what was asked; `started` as of `perf_counter`. InvalidOutput: the answer
    is not of the type asked for."""
    best, recall = decision.candidates[0], asked.recall
    # What the task's answers are held to unasked does not change the type of the value.
    wanted = asked.wanted if asked.request.output is not None else None
    return Response(
        text=best.text,
        value=wanted.parse(best.text, best.finish) if wanted is not None else best.text,
        request=asked.request,
        task=asked.task,
        context=asked.context,
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
            thought=decision.thought,
        ),
        learner=learner,
    )


def form_of(wanted: Output | None) -> tuple[str, int]:
    """What names the answers asked for, and how many there are if they are a closed set."""
    if wanted is None:
        return "", 0
    if wanted.choices is not None:
        return _closed_form(wanted.choices), len(wanted.choices)
    return _digest(wanted.grammar or repr(wanted.text)), 0


@lru_cache(maxsize=64)
def _closed_form(choices: tuple[str, ...]) -> str:
    """Kept: a chat is asked with the same choices again and again."""
    return _digest("\n".join(sorted(choices)))


def _digest(form: str) -> str:
    return blake2b(form.encode(), digest_size=6).hexdigest()


def infer(parts: Parts, request: Request, wanted: Output | None) -> Task:
    """The task of a request, also by the answers that are asked for."""
    form, width = form_of(wanted)
    return parts.tasks.infer(request, form=form, width=width)


def named(parts: Parts, request: Request, wanted: Output | None) -> None:
    """Who names a task says that it is one: what was merged or split against that is taken back."""
    if request.task is None:
        return
    moves = parts.memory.moves(request.user)
    if any(move.task == request.task for move in moves.values()):
        task = infer(parts, request, wanted)
        for name, move in list(moves.items()):
            if move.task == task.name and move.takes(task.pattern, ""):
                parts.memory.undo(name, user=request.user)


def held(parts: Parts, request: Request, task: Task) -> Output | None:
    """Where no output was named, the one that the task's open answers are held to."""
    judged = request.verify is not None or request.verify_step is not None
    if request.output is not None or judged:
        return None
    return Output.of(parts.book(request.user).held(task.name, request.prompt))


def asked(parts: Parts, request: Request, wanted: Output | None) -> Asked:
    """All that is known of a request before it is decided; no model is run, and what others wrote
    was read before (`sync`)."""
    task = infer(parts, request, wanted)
    wanted = wanted or held(parts, request, task)
    recall = parts.recaller.recall(request, task)
    standing = parts.memory.standing(user=request.user, task=task.name)
    thinking = thinks(request, standing) if parts.model is not None else None
    context, prompts = prompted(parts, request, wanted, recall, thinking)
    return Asked(
        request=request,
        wanted=wanted,
        task=task,
        recall=recall,
        context=context,
        prompts=prompts,
        standing=standing,
        forgotten=parts.forgotten[request.user],
    )


def prompted(
    parts: Parts,
    request: Request,
    wanted: Output | None,
    recall: Recall,
    thinking: bool | None = None,
) -> tuple[Context, Prompts]:
    """What the model is shown, with what was recalled and without."""
    told = replace(request, messages=invited(request.messages)) if thinking else request
    packed, rendered = _compose(parts, told, wanted, recall)
    return context_of(packed, rendered), Prompts(
        recalled=rendered,
        frozen=lambda: _compose(parts, request, wanted, Recall())[1],
        differ=bool(packed.shown) or bool(thinking),
        thinks=thinking,
    )


def _compose(
    parts: Parts, request: Request, wanted: Output | None, recall: Recall
) -> tuple[Packed, Prompt]:
    model = parts.model
    packed = pack(
        request,
        recall,
        budget=parts.budget,
        context=model.context_length if model is not None else None,
        count=model.count if model is not None else str.__len__,
        answers=wanted.choices if wanted is not None else None,
    )
    # Without a model nothing is shown to one.
    return packed, model.render(packed.messages) if model else Prompt(text="", ids=())


def context_of(packed: Packed, rendered: Prompt) -> Context:
    return Context(
        messages=packed.messages,
        prompt=rendered.text,
        tokens=len(rendered.ids),
        shown=packed.shown,
        dropped=packed.dropped,
        costs=packed.costs,
    )


def learned(parts: Parts, event: Event, about: Event | None) -> Learned:
    """What feedback has changed, and what that led to."""
    event = parts.passages.told(_with_testimony(event, about), about)
    return replace(parts.memory.learn(event), led_to=parts.regroup.after(event))


def _with_testimony(event: Event, about: Event | None) -> Event:
    """The event with what it says of the experts that answered: folding it needs no more."""
    if about is None:
        return event
    opinions = cast(Mapping[str, Json], about.body.get("opinions") or {})
    return replace(event, body={**event.body, **testify(opinions, event.kind, event.body)})


def answered(response: Response, decision: Decision, model: Model | None) -> Event:
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
            "bare": response.task.bare,
            "form": response.task.form,
            "width": response.task.width,
            "sources": [source.id for source in response.context.sources],
            "named": response.request.task is not None,
        },
    )
