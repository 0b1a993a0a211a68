"""Wrap a frozen model so that it learns from feedback at every step.

With `tta.step`, its values, the only module that knows all parts (`tta.taskbook` reads what one of
them says of tasks). One step is `Adapted._step`, top to bottom; the way back is `Adapted.learn`.
Everything else here is a view on those two.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from tta.decoding import (
    Decider,
    Decision,
    HFModel,
    Joined,
    Mixture,
    Output,
    Ticket,
    health,
    load,
)
from tta.errors import InvalidSetting
from tta.feedback import feedback_event
from tta.memory import Memory
from tta.protocols import Embedder
from tta.request import VERIFY_SECONDS, Options, Prompt, check_reads, check_user, make_request
from tta.response import Comparison, Explanation, Response
from tta.retrieval import (
    Reranker,
    SentenceEmbedder,
    default_embedder,
)
from tta.step import Asked, Parts, answered, asked, learned, named, prompted, respond
from tta.stream import Stream
from tta.taskbook import TaskBook
from tta.types import (
    ANY_TASK,
    DEFAULT_USER,
    Feedback,
    Health,
    Learned,
    Meaning,
    Reading,
    Recall,
    Request,
    Rule,
    Standing,
    Steps,
    Task,
    UpTo,
)

if TYPE_CHECKING:
    from transformers import Pipeline, PreTrainedModel, PreTrainedTokenizerBase

    from tta.retrieval.documents import How, What
    from tta.retrieval.passages import Retriever

BUDGET = 512
"""Tokens of recalled material in a prompt, unless `wrap(budget=)` says otherwise."""


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
        verify_step: Callable[[Sequence[str]], bool | float] | Steps | None = None,
        verify_seconds: float = VERIFY_SECONDS,
        same: Callable[[Any], object] | Meaning | None = None,
        n: int | UpTo | None = None,
        think: bool | None = None,
        max_new_tokens: int | None = None,
        seed: int = 0,
    ) -> Response:
        """Answer, in the light of all that `user` has taught so far.

        `prompt` is a question or a list of messages. `output` is a `Literal`, an `Enum`, a list of
        choices, a pydantic model, a dataclass, a JSON schema, `tta.Regex`, `tta.Grammar` or
        `tta.Text`. `think`: whether the model writes steps before it answers (`reply.why.thought`),
        up to 192 tokens more; None: as was said of the task (`chat.tasks.think`), else not.

        An open answer is drawn `n` times: the first greedily, the others sampled from `seed`;
        `tta.UpTo(40)` ends that once the votes agree; None draws once, and more (up to 16) where
        that promises a better answer: with a verifier, for short typed answers that the model is
        unsure of, and where feedback showed that it helps. Samples vote for an answer if they have
        its value, or if `same`, a function of the value, gives the same, or if they mean the same
        (`tta.Meaning`). `verify` says of a value
        how good it is (a bool, or 0 to 1): drawing ends with the first that passes. It runs in a
        thread of its own, for `verify_seconds` at most, and must not call this chat. So does
        `verify_step`, which is told the steps so far (lines, unless `tta.Steps` says otherwise) and
        judges the last: one that is refused is left at once for another.

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
            verify_step=verify_step,
            verify_seconds=verify_seconds,
            same=same,
            n=n,
            think=think,
            max_new_tokens=max_new_tokens,
            seed=seed,
        )
        return self._step(request, Output.of(output), started)

    async def acall(
        self, prompt: Prompt, *, user: str | None = None, **options: Unpack[Options]
    ) -> Response:
        """A call that is awaited; what it takes, answers and raises is that of a call.

        Calls that are awaited at the same time are drawn in common passes of the model, where its
        layers allow (`Plan.ragged`); each answer is the one it would be alone. They see the memory
        as it is when they begin. A task that is cancelled stops drawing and records nothing.
        """
        started = perf_counter()
        who = self.user if user is None else user
        request = make_request(prompt, user=who, reads=self.reads, **options)
        wanted = Output.of(request.output)
        ticket = Ticket(self._parts.batch)
        return await self._parts.aside.run(
            lambda: self._step(request, wanted, started, ticket), ticket.give_up
        )

    def stream(
        self,
        prompt: Prompt,
        *,
        user: str | None = None,
        task: str | None = None,
        output: object = None,
        max_new_tokens: int | None = None,
        seed: int = 0,
    ) -> Stream:
        """Answer in pieces of text, as they are drawn; `.response` of what is returned is the
        whole answer. The arguments are those of a call.

        An open answer is the greedy candidate of the prompt that is trusted most; others that a
        call might prefer, such as what was accepted for similar requests, are not weighed against
        it. One piece is what need not be drawn first (a closed set, what was accepted for this very
        request), or must not be (where something was refused for it).

        Bad arguments raise here, all else when a piece is asked for; nothing is recorded then.
        """
        request = make_request(
            prompt,
            user=self.user if user is None else user,
            reads=self.reads,
            task=task,
            output=output,
            n=1,
            max_new_tokens=max_new_tokens,
            seed=seed,
        )
        return Stream(self._pieces(request, Output.of(output)))

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
            return learned(self._parts, feedback_event(feedback, about, user=who), about)

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
            self._parts.forget(user)
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
            context, prompts = prompted(self._parts, request, wanted, Recall())
            known = Asked(
                request=request,
                wanted=wanted,
                task=Task(name="frozen"),
                recall=Recall(),
                context=context,
                prompts=prompts,
                standing=Standing(),
                forgotten=0,
            )
            decision = self._parts.decider.frozen(request, wanted, prompts.recalled)
            return respond(known, decision, started, self)

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
            self._parts.memory.sync()
            known = asked(self._parts, request, Output.of(output))
        return Explanation(
            request=request, task=known.task, recall=known.recall, context=known.context
        )

    @property
    def model(self) -> HFModel | None:
        """The frozen model; `.model.model` is the very object that was wrapped."""
        return self._parts.model

    @property
    def memory(self) -> Memory:
        """What is remembered: records, events, export."""
        return self._parts.memory

    @property
    def tasks(self) -> TaskBook:
        """The tasks of this user, and what is known of each: to be looked at, and edited."""
        return self._parts.book(self.user)

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

    def _step(
        self,
        request: Request,
        wanted: Output | None,
        started: float,
        ticket: Ticket | None = None,
    ) -> Response:
        with self._parts.lock:
            self._parts.memory.sync()
            named(self._parts, request, wanted)
            known = asked(self._parts, request, wanted)
            decision = self._decider(ticket).decide(*known.told)
            response = respond(known, decision, started, self)
            if ticket is not None:
                ticket.check()
            self._record(known, response, decision)
        return response

    def _decider(self, ticket: Ticket | None) -> Decider:
        """With a ticket, one that lets go of the lock while the model runs."""
        model, batch = self._parts.model, self._parts.batch
        if ticket is None or model is None or batch is None:
            return self._parts.decider
        return self._parts.decider.through(Joined(model, batch, ticket, self._parts.lock))

    def _pieces(self, request: Request, wanted: Output | None) -> Generator[str, None, Response]:
        """The step again; the lock is let go of whenever others may run."""
        started = perf_counter()
        with self._parts.lock:
            self._parts.memory.sync()
            named(self._parts, request, wanted)
            known = asked(self._parts, request, wanted)
            decision = self._parts.decider.settled(*known.told)
        shown = decision is None
        if decision is None:
            decision = yield from self._parts.decider.stream(*known.told)
        response = respond(known, decision, started, self)
        if not shown and response.text:
            yield response.text
        with self._parts.lock:
            self._record(known, response, decision)
        return response

    def _record(self, asked: Asked, response: Response, decision: Decision) -> None:
        model, user = self._parts.model, asked.request.user
        if asked.forgotten != self._parts.forgotten[user]:
            # Erased while it was drawn: nothing of it may come back.
            if model is not None:
                model.forget(user)
            return
        self._parts.memory.record(answered(response, decision, model))


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
    cap: int | None = None,
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
    `cap`: how many cases of each user and task can be recalled; the memory keeps it (100,000).
    `retriever`: a LlamaIndex retriever or query engine that finds passages instead of what was read
    (`Adapted.read`), for every user. `reranker`: (question, passages) to how well each answers it.

    Raises ModelError when model or embedder cannot be used, StoreError when the memory cannot.
    """
    if budget < 0:
        raise InvalidSetting(f"budget must not be negative, was {budget!r}", value=budget)
    check_reads(reads, check_user(user))
    frozen = _load(model, tokenizer)
    embeds = SentenceEmbedder(embedder) if isinstance(embedder, str) else embedder
    embeds = default_embedder() if embeds is None else embeds
    store = Memory.open(memory, embedder=embeds, index=index, weigher=Mixture(), cap=cap)
    store.answered_by(frozen.id if frozen is not None else "")
    parts = Parts.of(frozen, store, embeds, budget=budget, retriever=retriever, reranker=reranker)
    return Adapted(parts, user=user, reads=reads)


def _load(
    model: PreTrainedModel | Pipeline | str | None, tokenizer: PreTrainedTokenizerBase | None
) -> HFModel | None:
    if model is None:
        return None
    if isinstance(model, str) and model == "bundled":
        from tta.micro import bundled

        return load(*bundled())
    return load(model, tokenizer)
