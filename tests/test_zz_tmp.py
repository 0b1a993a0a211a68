"""Calls that are awaited: a call's answer, common passes, and nothing left of one cancelled."""

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import tta
from tta.decoding import Batch, HFModel, Ticket, engine, load, padded
from tta.decoding.plan import plan
from tta.decoding.ragged import Apart, Together
from tta.decoding.sample import uniforms
from tta.errors import InvalidOutput, PromptTooLong, UnsupportedModel
from tta.request import Options
from tta.types import Candidate, Message

from conftest import MODELS, build  # isort: skip

WORDS = ("quiet river stone", "red", "copper lid and silver cup", "green lamp on the table")
ASKS = tuple(f"Repeat: {words}" for words in WORDS)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many rows each pass of the batch had."""
    seen: list[int] = []
    for kind in (Together, Apart):
        forward = kind.forward

        def noted(self: Any, tokens: Sequence[int], forward: Any = forward) -> torch.Tensor:
            seen.append(len(tokens))
            return forward(self, tokens)  # type: ignore[no-any-return]

        monkeypatch.setattr(kind, "forward", noted)
    yield seen


def at_once(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each gives or raises, each in a thread of its own."""
    found: list[Any] = [None] * len(works)

    def run(i: int) -> None:
        try:
            found[i] = works[i]()
        except Exception as error:
            found[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    return found


def joined(batch: Batch) -> tuple[engine.Steps, Any, Callable[[], None]]:
    ticket = Ticket(batch)
    return batch.steps(ticket), partial(batch.run, ticket), ticket.check


def asked(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def drawn_by(model: HFModel, kind: int) -> Callable[[], tuple[Candidate, ...]]:
    options: list[dict[str, Any]] = [
        {"n": 1, "max_new_tokens": 20},
        {"n": 3, "max_new_tokens": 30},
        {"n": 2, "max_new_tokens": 12, "output": tta.Regex("[a-z]{2,20}")},
        {"n": 1, "max_new_tokens": 40, "output": list[int]},
        {"n": 1, "max_new_tokens": 1},
    ]
    prompt = model.render(asked(ASKS[kind % len(ASKS)]))
    return lambda: model.draw(prompt, seed=kind, **options[kind])[0]


@pytest.mark.parametrize("name", list(MODELS))
def test_rows_drawn_in_company_are_those_drawn_alone(
    name: str, chat_tokenizer: PreTrainedTokenizerFast, sizes: list[int]
) -> None:
    model = load(build(name), chat_tokenizer)
    alone = [drawn_by(model, kind)() for kind in range(5)]
    batch = Batch(lambda: model.plan.ragged)
    views = [model.stepping(*joined(batch)) for _ in range(5)]
    found = at_once([drawn_by(view, kind) for kind, view in enumerate(views)])
    assert [[c.token_ids for c in one] for one in found] == [
        [c.token_ids for c in one] for one in alone
    ]
    for one, other in zip(found, alone, strict=True):
        for candidate, same in zip(one, other, strict=True):
            assert candidate.logprob == pytest.approx(same.logprob, abs=1e-3)
    assert max(sizes) > 1
    assert (len(batch), batch._lanes, batch._live) == (0, None, [])


# ----------------------------------------------------------------------------------- the chat


def together(chat: tta.Adapted, calls: Sequence[dict[str, Any]]) -> list[Any]:
    async def all_of_them() -> list[Any]:
        tasks = (chat.acall(**call) for call in calls)
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(all_of_them())


def is_quiet(chat: tta.Adapted) -> bool:
    """No row, no lock and soon no thread."""
    batch, lock = chat._parts.batch, chat._parts.lock
    assert batch is not None
    assert (len(batch), batch._lanes, batch._live, batch._led) == (0, None, [], False)

    def taken() -> bool:
        with lock:
            return True

    assert at_once([taken]) == [True]  # by another thread than the one that might hold it
    for _ in range(500):
        if not any(thread.name.startswith("tta_") for thread in threading.enumerate()):
            return True
        time.sleep(0.01)
    return False


def test_an_awaited_call_answers_and_takes_what_a_call_does(chat: tta.Adapted) -> None:
    taken = set(inspect.signature(tta.Adapted.__call__).parameters) - {"self", "prompt", "user"}
    assert set(Options.__annotations__) == taken
    plain = chat(ASKS[0], user="ada", task="t")
    awaited = asyncio.run(chat.acall(ASKS[0], user="bob", task="t"))
    assert (awaited.text, awaited.task.name, awaited.request.user) == (plain.text, "t", "bob")
    assert awaited.candidates == plain.candidates
    assert awaited.cost.drawn == plain.cost.drawn
    awaited.correct("quiet-river-stone")
    assert asyncio.run(chat.acall(ASKS[0], user="bob", task="t")).text == "quiet-river-stone"
    assert is_quiet(chat)


def test_calls_awaited_at_once_share_passes_and_answer_as_alone(
    chat: tta.Adapted, sizes: list[int]
) -> None:
    calls: list[dict[str, Any]] = [
        *({"prompt": ask, "user": f"u{i}"} for i, ask in enumerate(ASKS)),
        {"prompt": "My card is lost.", "output": ["kade", "lopi"], "user": "c"},
        {"prompt": "What is 2 + 3?", "output": int, "user": "d"},
        {"prompt": "847+596=", "n": 4, "seed": 3, "user": "e"},
    ]
    plain = [chat(**{**call, "user": f"plain {call['user']}"}) for call in calls]
    found = together(chat, calls)
    assert [reply.text for reply in found] == [reply.text for reply in plain]
    assert [reply.value for reply in found] == [reply.value for reply in plain]
    assert {c.text for c in found[-1].candidates} == {c.text for c in plain[-1].candidates}
    assert max(sizes) > 2
    assert sum(1 for _ in chat.memory.events()) == 2 * len(calls)
    assert is_quiet(chat)


def test_what_goes_wrong_with_one_call_reaches_its_caller_alone(chat: tta.Adapted) -> None:
    def fails(value: object) -> bool:
        raise ZeroDivisionError("a verifier's own mistake")

    calls: list[dict[str, Any]] = [
        {"prompt": ASKS[0]},
        {"prompt": ASKS[1], "output": []},
        {"prompt": ASKS[2], "max_new_tokens": 100_000},
        {"prompt": ASKS[1], "output": tta.Regex("[a-z]{99,}"), "max_new_tokens": 3},
        {"prompt": "847+596=", "verify": fails, "n": 4},
        {"prompt": ASKS[2]},
    ]
    kinds = (tta.Response, InvalidOutput, PromptTooLong, InvalidOutput, Exception, tta.Response)
    found = together(chat, calls)
    for reply, kind in zip(found, kinds, strict=True):
        assert isinstance(reply, kind)
    assert (found[0].text, found[5].text) == (WORDS[0], WORDS[2])
    assert sum(1 for _ in chat.memory.events()) == 2
    assert is_quiet(chat)


def test_a_row_that_goes_wrong_while_it_is_drawn_leaves_the_others(
    tiny_llama: PreTrainedModel,
    chat_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever's thread leads: one row's logits turn to nothing, another's constraint fails."""
    model = load(tiny_llama, chat_tokenizer)
    batch = Batch(lambda: model.plan.ragged)
    wanted = drawn_by(model, 1)()
    sampled = engine.sampled

    def broken(rows: Any, logits: torch.Tensor, *rest: Any) -> Any:
        for i, row in enumerate(rows):
            if row.matcher is not None and len(row.ids) == 4:
                logits[i] = float("nan")
        return sampled(rows, logits, *rest)

    monkeypatch.setattr(engine, "sampled", broken)
    view = model.stepping(*joined(batch))
    found = at_once([drawn_by(view, kind) for kind in (1, 2, 3)])
    assert [c.token_ids for c in found[0]] == [c.token_ids for c in wanted]
    assert isinstance(found[1], UnsupportedModel)
    assert isinstance(found[2], UnsupportedModel)
    assert (len(batch), batch._lanes) == (0, None)


def test_a_pass_that_fails_is_told_to_all_who_were_in_it(
    tiny_llama: PreTrainedModel,
    chat_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = load(tiny_llama, chat_tokenizer)
    assert model.plan.ragged
    batch = Batch(lambda: True)

    def full(*args: object) -> torch.Tensor:
        raise MemoryError("no room")

    monkeypatch.setattr(Together, "forward", full)
    view = model.stepping(*joined(batch))
    found = at_once([drawn_by(view, kind) for kind in (0, 1, 2)])
    assert [type(error) for error in found] == [MemoryError] * 3
    monkeypatch.undo()
    assert at_once([drawn_by(view, 0)])[0] == drawn_by(model, 0)()


# ------------------------------------------------------------------------------- cancellation


def held_back(
    chat: tta.Adapted, monkeypatch: pytest.MonkeyPatch
) -> tuple[threading.Event, list[int]]:
    """From its third pass on the batch waits for the event; how many rows each pass had."""
    assert isinstance(chat.model, HFModel)
    assert chat.model.plan.ragged  # which is found out by running such passes
    gate, seen, forward = threading.Event(), list[int](), Together.forward

    def waiting(self: Together, tokens: Sequence[int]) -> torch.Tensor:
        seen.append(len(tokens))
        if len(seen) > 2:
            assert gate.wait(60)
        return forward(self, tokens)

    monkeypatch.setattr(Together, "forward", waiting)
    return gate, seen


@pytest.mark.parametrize('i', range(150))
def test_the_loop_runs_while_the_model_does_and_a_cancelled_call_leaves_the_others(
    i: int, chat: tta.Adapted, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [chat(ask, user="other").text for ask in ASKS]
    before = sum(1 for _ in chat.memory.events())
    gate, seen = held_back(chat, monkeypatch)

    async def play() -> list[Any]:
        tasks = [asyncio.create_task(chat.acall(ask, user=f"u{i}")) for i, ask in enumerate(ASKS)]
        batch = chat._parts.batch
        assert batch is not None
        while len(batch) < len(ASKS) and not any(task.done() for task in tasks):
            await asyncio.sleep(0.001)  # would never come back from a loop that is blocked
        tasks[2].cancel()
        await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(play())
    assert isinstance(found[2], asyncio.CancelledError)
    assert [found[i].text for i in (0, 1, 3)] == [expected[i] for i in (0, 1, 3)]
    assert is_quiet(chat)
    users = [event.user for event in chat.memory.events()][before:]
    assert sorted(users) == ["u0", "u1", "u3"]
    assert len(ASKS) - 1 in seen or 2 in seen


def test_calls_that_time_out_all_at_once_leave_nothing(
    chat: tta.Adapted, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, _ = held_back(chat, monkeypatch)

    async def play() -> None:
        tasks = [asyncio.create_task(chat.acall(ask)) for ask in ASKS]
        batch = chat._parts.batch
        assert batch is not None
        while not len(batch) and not any(task.done() for task in tasks):
            await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        gate.set()

    asyncio.run(play())
    for _ in range(1000):
        if chat._parts.batch is not None and not len(chat._parts.batch):
            break
        time.sleep(0.01)
    assert is_quiet(chat)
    assert sum(1 for _ in chat.memory.events()) == 0
    assert chat(ASKS[0]).text == WORDS[0]


def test_more_rows_than_fit_wait_their_turn(
    chat: tta.Adapted, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tta.decoding.batch.MOST_ROWS", 2)
    found = together(chat, [{"prompt": ask, "user": f"u{i}"} for i, ask in enumerate(ASKS)])
    assert [reply.text for reply in found] == list(WORDS)
    assert max(sizes) == 2


def test_calls_streams_and_awaited_calls_mix(chat: tta.Adapted) -> None:
    async def play() -> list[str]:
        tasks = [asyncio.create_task(chat.acall(ask, user=f"u{i}")) for i, ask in enumerate(ASKS)]
        stream = chat.stream(ASKS[0], user="s")
        pieces = [next(stream)]
        await asyncio.sleep(0.01)
        assert chat(ASKS[1], user="c").text == WORDS[1]
        pieces += list(stream)
        assert "".join(pieces) == WORDS[0]
        return [reply.text for reply in await asyncio.gather(*tasks)]

    assert asyncio.run(play()) == list(WORDS)
    assert is_quiet(chat)


# ---------------------------------------------------------------------------------- erasure


@pytest.mark.parametrize("way", ["stream", "acall"])
def test_what_was_begun_before_a_forgetting_is_not_recorded_after_it(
    way: str, chat: tta.Adapted, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat(ASKS[0], user="ada").correct("quiet-river-stone")
    if way == "stream":
        stream = chat.stream(ASKS[2], user="ada")
        next(stream)
        chat.forget(user="ada")
        reply = stream.response
    else:
        gate, seen = held_back(chat, monkeypatch)

        async def play() -> tta.Response:
            task = asyncio.create_task(chat.acall(ASKS[2], user="ada"))
            while len(seen) < 3:
                await asyncio.sleep(0.001)
            await asyncio.to_thread(chat.forget, user="ada")
            gate.set()
            return await task

        reply = asyncio.run(play())
    assert reply.text
    assert [event.kind for event in chat.memory.events()] == ["forgotten"]
    assert chat.model is not None
    assert len(chat.model.cache) == 0
    with pytest.raises(tta.TTAError, match="no response"):
        reply.good()


def test_without_a_model_a_call_can_be_awaited(names_only: tta.Adapted) -> None:
    reply = asyncio.run(names_only.acall("lost card", output=["card", "parcel"]))
    assert reply.text == "card"


# ------------------------------------------------------------------------------------- prompts

PROMPTS = ([5, 9, 3, 7, 11, 2], [8], [4, 4, 9], [6, 2, 3, 5])


@pytest.mark.parametrize("name", list(MODELS))
def test_prompts_in_one_pass_are_what_they_are_alone(name: str) -> None:
    model = build(name)
    if not plan(model).padded:
        assert name in ("mistral", "gemma2", "gemma3", "mamba", "qwen3_next")
        return
    for ids, both in zip(PROMPTS, padded.prefixes(model, PROMPTS), strict=True):
        alone = engine.Prefix(model, ids)
        torch.testing.assert_close(both.logits, alone.logits, atol=1e-5, rtol=1e-4)
        drawn = []
        for prefix in (both, alone):
            rows = [engine.Row(uniforms=uniforms(0, i, 12)) for i in range(3)]
            engine.draw(prefix, rows, engine.Rules(ends=(), limit=12))
            drawn.append([row.ids for row in rows])
        assert drawn[0] == drawn[1]


def waiting(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> list[Any]:
    """What each gets of prompts that have waited for their turn together."""
    batch = Batch(lambda: True)
    with batch._filling:
        threads: list[Any] = []
        works = [partial(batch.run, Ticket(batch), model, ids) for ids in prompts]
        found: list[Any] = []
        threads.append(threading.Thread(target=lambda: found.extend(at_once(works))))
        threads[0].start()
        while len(batch._prompts) < len(prompts):
            time.sleep(0.001)
    threads[0].join(timeout=120)
    assert not batch._prompts
    return found


def test_prompts_that_wait_together_are_run_in_one_pass(
    monkeypatch: pytest.MonkeyPatch, tiny_llama: PreTrainedModel
) -> None:
    passes: list[int] = []
    forward = engine.forward

    def noted(model: Any, ids: torch.Tensor, **more: Any) -> Any:
        passes.append(len(ids))
        return forward(model, ids, **more)

    monkeypatch.setattr(engine, "forward", noted)
    found = waiting(tiny_llama, PROMPTS)
    assert passes == [len(PROMPTS)]
    assert [prefix.ids.tolist()[0] for prefix in found] == [list(ids) for ids in PROMPTS]


def test_a_prompt_that_cannot_be_run_fails_alone(tiny_llama: PreTrainedModel) -> None:
    found = waiting(tiny_llama, [[5, 9], [10**6, 3], [7, 2]])
    assert [type(each) for each in found] == [engine.Prefix, IndexError, engine.Prefix]
