"""Whatever goes wrong: a typed error, nothing recorded, and all memory given back."""

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Cache

import tta
from tta.decoding import engine
from tta.decoding.ragged import Apart, Together
from tta.errors import InvalidOutput, InvalidSetting, TTAError, VerifierFailed, VerifierTimeout

ASK = "Where is my parcel?"
NESTED = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 5, "maximum": 3}},
    "required": ["a"],
    "additionalProperties": False,
}


def fails(value: object) -> bool:
    raise KeyError("a verifier's own mistake")


def hangs(value: object) -> bool:
    return threading.Event().wait(20)


def half_a_stream(chat: tta.Adapted) -> None:
    with chat.stream(ASK) as stream:
        next(stream)
    raise InvalidSetting("left half-way")


def cancelled(chat: tta.Adapted) -> None:
    async def play() -> None:
        tasks = [asyncio.create_task(chat.acall(ASK, max_new_tokens=40)) for _ in range(3)]
        await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(play())
    raise InvalidSetting("all were cancelled")


BAD: dict[str, tuple[type[TTAError], Callable[[tta.Adapted], object]]] = {
    "contradiction": (InvalidOutput, lambda chat: chat(ASK, output=NESTED)),
    "no choice": (InvalidOutput, lambda chat: chat(ASK, output=[])),
    "an empty choice": (InvalidOutput, lambda chat: chat(ASK, output=["a", ""])),
    "a choice twice": (InvalidOutput, lambda chat: chat(ASK, output=["a", "a"])),
    "too long a pattern": (
        InvalidOutput,
        lambda chat: chat(ASK, output=tta.Regex("[a-z]{50}"), max_new_tokens=4, n=3),
    ),
    "a verifier that raises": (VerifierFailed, lambda chat: chat(ASK, verify=fails, n=3)),
    "a verifier that hangs": (
        VerifierTimeout,
        lambda chat: chat(ASK, verify=hangs, verify_seconds=0.05, n=3),
    ),
    "steps that raise": (VerifierFailed, lambda chat: chat(ASK, verify_step=fails)),
    "steps that hang": (
        VerifierTimeout,
        lambda chat: chat(ASK, verify_step=hangs, verify_seconds=0.05),
    ),
    "a stream that is left": (InvalidSetting, half_a_stream),
    "calls that are cancelled": (InvalidSetting, cancelled),
}


def held() -> tuple[int, int]:
    """How many rows and caches there are, and bytes of tensors other than parameters."""
    gc.collect()
    kinds = (engine.Prefix, engine.Rows, Together, Apart, Cache)
    objects: list[Any] = gc.get_objects()
    tensors = [o for o in objects if issubclass(type(o), torch.Tensor)]
    own = {t.data_ptr(): t.untyped_storage().nbytes() for t in tensors if not t.requires_grad}
    return sum(issubclass(type(o), kinds) for o in objects), sum(own.values())


def settled_threads(before: set[str]) -> bool:
    """Threads of awaited calls end on their own; one that a verifier hangs in is a daemon."""
    for thread in threading.enumerate():
        if thread.name.startswith("tta_"):
            thread.join(timeout=20)
    left = {t.name for t in threading.enumerate() if not t.daemon}
    return left <= before


@pytest.mark.parametrize("name", list(BAD))
def test_bad_input_raises_a_typed_error_and_leaves_nothing(name: str, tiny: tta.Adapted) -> None:
    error, call = BAD[name]
    model = tiny.model
    assert model is not None
    tiny(ASK, output=["card", "card lost"])  # whatever is made once
    tiny(ASK, output=tta.Regex("[a-z]{2}"), n=3)
    asyncio.run(tiny.acall(ASK, max_new_tokens=4))
    recorded = sum(1 for _ in tiny.memory.events())
    model.forget()
    threads = {thread.name for thread in threading.enumerate()}
    before = held()
    for _ in range(3):
        with pytest.raises(error):
            call(tiny)
        assert settled_threads(threads)
    model.forget()
    after = held()
    assert after[0] == before[0]
    assert after[1] <= before[1] + 4096
    assert sum(1 for _ in tiny.memory.events()) == recorded
    assert tiny(ASK, output=["card", "card lost"]).text in ("card", "card lost")


def test_choices_that_begin_each_other_are_told_apart(tiny: tta.Adapted) -> None:
    choices = ["card", "card lost", "card lost and found", "c"]
    reply = tiny(ASK, output=choices)
    assert sorted(c.text for c in reply.candidates) == sorted(choices)
    assert sum(c.score for c in reply.candidates) == pytest.approx(1.0)
