"""Streams: pieces that add up, a call's answer, and nothing left of one that is closed."""

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import tta
from tta.decoding import HFModel, engine, load
from tta.decoding.pieces import Pieces
from tta.errors import (
    InvalidOutput,
    InvalidSetting,
    InvalidText,
    ModelNeeded,
    PromptTooLong,
    StreamClosed,
)
from tta.testing import HashEmbedder
from tta.types import Message, Prompt

from conftest import build, train_tokenizer  # isort: skip

ASK = (Message(role="user", content="Where is my parcel?"),)
LONG = tta.Regex("[a-z]{99,}")
UNSURE = "847+596="
"""The bundled model has several guesses."""
QUESTION = "Repeat: quiet river stone"


def pieces_of(model: HFModel, prompt: Prompt, **options: Any) -> tuple[list[str], Any]:
    stream = model.stream(prompt, **{"max_new_tokens": 24, "seed": 0, **options})
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


# ------------------------------------------------------------------------------------- text


@pytest.mark.parametrize("chat", [True, False])
def test_pieces_add_up_to_what_is_drawn_for_every_architecture(
    any_model: PreTrainedModel, chat: bool
) -> None:
    model = load(any_model, train_tokenizer(chat=chat))
    prompt = model.render(ASK)
    for output in (None, tta.Regex("[a-zé]{3,30}")):
        (drawn,), cost = model.draw(prompt, n=1, max_new_tokens=24, seed=0, output=output)
        pieces, (candidate, spent) = pieces_of(model, prompt, output=output)
        assert "".join(pieces) == candidate.text == drawn.text
        assert candidate == drawn
        assert (spent.drawn, spent.prefilled) == (cost.drawn, cost.prefilled)
        assert all(pieces)


def test_a_story_comes_word_by_word(
    stories: tuple[PreTrainedModel, PreTrainedTokenizerFast],
) -> None:
    model = load(*stories)
    start = "Once upon a time, there was a"
    prompt = Prompt(text=start, ids=model.template.encode(start, special=True))
    pieces, (candidate, _) = pieces_of(model, prompt, max_new_tokens=60)
    assert "".join(pieces) == candidate.text
    assert len(pieces) > 40


def read_back(tokenizer: PreTrainedTokenizerFast, text: str, mark: str = "") -> list[str]:
    """The pieces of a text whose ids come one by one."""
    model = load(build("llama"), tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = Pieces(model._decode, settled=model._settled, marks=[mark])
    found = [pieces.more(ids[:i]) for i in range(1, len(ids) + 1)]
    found.append(pieces.rest(model._decode(ids)))
    assert "".join(found) == model._decode(ids)
    return found


def test_a_character_of_several_tokens_comes_whole(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    found = read_back(chat_tokenizer, "naïve 中文 \U0001f469\u200d\U0001f680 e\u0301 ok")
    assert not any("\ufffd" in piece for piece in found)
    assert {"中", "文", "\U0001f469"} <= set(found)


def test_bytes_that_are_no_character_come_when_that_is_certain(
    chat_tokenizer: PreTrainedTokenizerFast,
) -> None:
    byte = chat_tokenizer("\u4e2d", add_special_tokens=False)["input_ids"][:1]
    model = load(build("llama"), chat_tokenizer)
    card = list(model.template.encode("card"))
    pieces = Pieces(model._decode, settled=model._settled)
    assert pieces.more([*card, *byte]) == "card"
    assert pieces.more([*card, *byte, *card]) == "\ufffdcard"
    assert pieces.rest("card\ufffdcard") == ""


def test_byte_tokens_that_are_read_as_a_run_wait_for_its_end(
    stories: tuple[PreTrainedModel, PreTrainedTokenizerFast],
) -> None:
    """Byte fallback: an invalid byte makes the valid ones beside it unreadable, too."""
    model = load(*stories)
    tokenizer = stories[1]
    run = [tokenizer.get_vocab()[f"<0x{byte}>"] for byte in ("C3", "A9", "E4")]
    word = list(model.template.encode("time"))
    for ids in ([*word, *run, *word], [*word, *run[:2], *word], [*run]):
        pieces = Pieces(model._decode, settled=model._settled)
        found = "".join(pieces.more(ids[:i]) for i in range(1, len(ids) + 1))
        assert found + pieces.rest(model._decode(ids)) == model._decode(ids)


def test_special_tokens_and_the_mark_of_the_plain_format_are_never_shown(
    chat_tokenizer: PreTrainedTokenizerFast, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    assert "".join(read_back(chat_tokenizer, "a<|im_start|>b")) == "ab"
    model = load(build("llama"), tiny_tokenizer)
    ids = list(model.template.encode(" It is\nUsual.\nUser: thanks"))
    pieces = Pieces(model._unmarked, settled=model._settled, marks=["\nUser:"])
    shown = ""
    for i in range(1, len(ids)):
        shown += pieces.more(ids[:i])
        assert "It is\nUsual.".startswith(shown)
    assert shown + pieces.rest(model._unmarked(ids)) == "It is\nUsual."


def test_long_answers_come_in_longer_pieces(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    reads = []

    def read(ids: list[int]) -> str:
        reads.append(len(ids))
        return "x" * len(ids)

    pieces = Pieces(read, settled=lambda token: True)
    shown = "".join(pieces.more([0] * i) for i in range(1, 2001))
    assert shown + pieces.rest("x" * 2000) == "x" * 2000
    assert len(reads) < 800


# ---------------------------------------------------------------------------------- the chat


def counted(chat: tta.Adapted) -> int:
    return sum(1 for _ in chat.memory.events())


def test_a_stream_ends_with_the_response_of_a_call(chat: tta.Adapted) -> None:
    asked = chat(QUESTION)
    stream = chat.stream(QUESTION)
    pieces = list(stream)
    reply = stream.response
    assert "".join(pieces) == reply.text == asked.text
    assert len(pieces) > 1
    assert reply.candidates[0].token_ids == asked.candidates[0].token_ids
    assert reply.confidence == pytest.approx(asked.confidence)
    assert reply.context == asked.context
    assert reply.why.stopped.startswith("1 drawn, as asked")
    assert stream.response is reply
    assert [e.id for e in chat.memory.events()] == [asked.id, reply.id]


def test_feedback_on_a_streamed_answer_is_in_force_at_the_next_step(chat: tta.Adapted) -> None:
    chat.stream(QUESTION).response.correct("quiet-river-stone")
    again = chat.stream(QUESTION)
    assert list(again) == ["quiet-river-stone"]  # accepted: whole
    assert again.response.why.stopped == "accepted for this very request"


def test_what_was_refused_is_not_streamed_again(chat: tta.Adapted) -> None:
    first = chat.stream(UNSURE).response
    first.bad()
    stream = chat.stream(UNSURE)
    (text,) = stream
    assert first.text != text == stream.response.text == chat(UNSURE).text


def test_a_closed_set_and_a_typed_answer_are_streamed_too(chat: tta.Adapted) -> None:
    stream = chat.stream("My card is lost.", output=["kade", "lopi"])
    assert list(stream) == [stream.response.text]
    typed = chat.stream("What is 2 + 3?", output=int)
    assert int("".join(typed)) == typed.response.value


def test_rules_hold_for_streams(chat: tta.Adapted) -> None:
    chat.rule("Write words joined by hyphens.", task="repeat")
    assert chat.stream(QUESTION, task="repeat").response.text == "quiet-river-stone"


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (InvalidText, lambda chat: chat.stream("  ")),
        (InvalidSetting, lambda chat: chat.stream("a", max_new_tokens=0)),
        (InvalidOutput, lambda chat: chat.stream("a", output=[])),
        (PromptTooLong, lambda chat: next(chat.stream("a", max_new_tokens=10_000))),
        (InvalidOutput, lambda chat: list(chat.stream("x", output=LONG, max_new_tokens=1))),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_raised_where_the_stream_is_read_and_leaves_nothing(
    error: type[Exception], asked: Callable[[tta.Adapted], object], chat: tta.Adapted
) -> None:
    with pytest.raises(error):
        asked(chat)
    assert counted(chat) == 0


def test_without_a_model_an_open_answer_cannot_be_streamed(names_only: tta.Adapted) -> None:
    with pytest.raises(ModelNeeded):
        next(names_only.stream(QUESTION))
    stream = names_only.stream("lost card", output=["card", "parcel"])
    assert list(stream) == ["card"]


# -------------------------------------------------------------------------------- leaving it


def test_a_stream_that_is_closed_records_nothing_and_has_no_response(chat: tta.Adapted) -> None:
    stream = chat.stream(QUESTION)
    first = next(stream)
    stream.close()
    assert first
    assert list(stream) == []
    with pytest.raises(StreamClosed):
        _ = stream.response
    with chat.stream(QUESTION) as left:
        next(left)
    with pytest.raises(StreamClosed):
        _ = left.response
    assert counted(chat) == 0


def test_a_stream_that_nobody_reads_runs_nothing(
    tiny: tta.Adapted, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    forward = engine.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        runs.append(1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine, "forward", counting)
    unread = tiny.stream(QUESTION)
    assert runs == []
    started = tiny.stream(QUESTION)
    next(started)
    before = len(runs)
    del started, unread
    gc.collect()
    assert len(runs) == before
    assert counted(tiny) == 0


def test_what_a_dropped_stream_held_is_freed_at_once(
    tiny: tta.Adapted, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[Any]] = []
    fork = engine.Prefix.fork

    def noted(self: engine.Prefix, *args: Any) -> engine.Rows:
        rows = fork(self, *args)
        held.append(weakref.ref(rows))
        return rows

    monkeypatch.setattr(engine.Prefix, "fork", noted)
    threads = threading.active_count()
    stream = tiny.stream(QUESTION)
    next(stream)
    next(stream)
    assert threading.active_count() == threads
    gc.disable()
    try:
        del stream
        assert held and all(rows() is None for rows in held)
    finally:
        gc.enable()


def test_an_interrupted_stream_leaves_no_lock_and_no_line(
    tiny: tta.Adapted, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, passes = engine.forward, iter(range(100))

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if next(passes) == 3:
            raise KeyboardInterrupt
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(tiny.stream(QUESTION))
    assert counted(tiny) == 0
    worker = threading.Thread(target=tiny, args=(QUESTION,))  # another thread gets the lock
    worker.start()
    worker.join(timeout=60)
    assert counted(tiny) == 1


def test_streams_may_be_read_in_turns_with_calls_and_feedback_in_between(
    model: tuple[Any, Any],
) -> None:
    with tta.wrap(*model, embedder=HashEmbedder()) as chat:
        one, other = chat.stream(QUESTION, user="ada"), chat.stream("Repeat: red lamp", user="bob")
        shown = [next(one), next(other), next(one)]
        call = chat("Greet Ada.", user="cy")
        call.correct("Dear Ada,")
        results: list[str] = []
        thread = threading.Thread(target=lambda: results.append(chat("Hello", user="di").text))
        thread.start()
        thread.join(timeout=60)
        assert len(results) == 1
        text = shown[0] + shown[2] + "".join(one)
        assert text == one.response.text == chat(QUESTION, user="eve").text
        assert shown[1] + "".join(other) == other.response.text


def test_a_stream_that_outlives_its_chat_says_so(model: tuple[Any, Any]) -> None:
    with tta.wrap(*model, embedder=HashEmbedder()) as chat:
        stream = chat.stream(QUESTION)
        next(stream)
    with pytest.raises(tta.TTAError, match="closed"):
        list(stream)
