"""What each baseline of the benchmark remembers, shows and answers, after its paper."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import build, train_tokenizer
from streamed import ITEM, TEAMS, THINGS, drawn

from benchmarks.baselines import KnnPrompting, NearestMemory
from benchmarks.bench import Answer, Bench, messages
from benchmarks.methods import Tta, make
from benchmarks.oracle import Oracle, Regime, Told
from benchmarks.play import play
from benchmarks.prompting import (
    DELIMITER,
    GrowPrompt,
    MemPrompt,
    MemPromptOriginal,
    StreamICL,
    memory_key,
)
from benchmarks.streams import Item, Stream
from tta.decoding import load
from tta.testing import HashEmbedder


@pytest.fixture
def bench() -> Bench:
    """No language model: the answers' names stand for it."""
    return Bench(None, HashEmbedder())


@pytest.fixture(scope="module")
def tiny() -> Bench:
    """A language model with random weights and a context of 256 tokens."""
    return Bench(load(build("lfm2"), train_tokenizer(chat=True)), HashEmbedder())


def taught(
    method: GrowPrompt | StreamICL | MemPrompt | NearestMemory, bits: str
) -> list[tuple[str, str]]:
    """One request a letter: x right, - wrong; the answer is always `own`, the truth `gold`."""
    for number, bit in enumerate(bits):
        item = replace(ITEM, text=f"request {number}")
        told = Told(right=bit == "x", answer="own" if bit == "x" else "gold")
        method.learn(item, Answer(text="own"), told)
    return [(case.text, case.answer) for case in getattr(method, "cases", ())]


def test_self_streamicl_keeps_only_its_own_right_answers(bench: Bench) -> None:
    assert taught(StreamICL(bench, 4), "x-x-") == [("request 0", "own"), ("request 2", "own")]


def test_gold_streamicl_keeps_what_was_told_and_by_bits_what_was_right(bench: Bench) -> None:
    gold = taught(StreamICL(bench, 4, gold=True), "x-")
    assert gold == [("request 0", "own"), ("request 1", "gold")]
    method = StreamICL(bench, 4, gold=True)
    method.learn(ITEM, Answer(text="own"), Told(right=False))
    assert not method.cases


def prompt_of(method: object, item: Item) -> tuple[str, ...]:
    cases = method._fitting(item)  # type: ignore[attr-defined]
    return tuple(m.content for m in method._messages(item, cases))  # type: ignore[attr-defined]


def test_growprompt_shows_the_newest_sixteen_triples_oldest_first() -> None:
    bench = Bench(None, HashEmbedder(), budget=100_000)
    method = GrowPrompt(bench)
    taught(method, "x-" * 10)
    chunks = prompt_of(method, ITEM)[0].split("\n\nAnswers:")[0].split(DELIMITER)
    assert [c.splitlines()[0] for c in chunks] == [f"request {n}" for n in range(4, 20)]
    assert chunks[0] == "request 4\nYour answer: own\nUser Feedback: Your answer is correct"
    assert "not correct; the correct answer is gold" in chunks[1]


def test_memprompt_keeps_all_triples_and_shows_the_most_similar_last() -> None:
    bench = Bench(None, HashEmbedder(), budget=100_000)
    method = MemPrompt(bench, 16)
    assert len(taught(method, "x-" * 10)) == 20
    method.learn(replace(ITEM, text="Where was my parcel?"), Answer(text="a"), Told(right=False))
    chunks = prompt_of(method, ITEM)[0].split("\n\nAnswers:")[0].split(DELIMITER)
    assert len(chunks) == 16
    assert chunks[-1].splitlines()[0] == "Where was my parcel?"
    assert chunks[-1].endswith("Your answer is not correct")


def test_no_method_shows_more_than_the_budget_or_the_context_holds(tiny: Bench) -> None:
    assert tiny.model is not None
    small = Bench(tiny.model, tiny.embedder, budget=80)
    for bench, most in ((small, 80), (tiny, 256)):
        for method in (StreamICL(bench, 16, gold=True), GrowPrompt(bench), MemPrompt(bench, 16)):
            taught(method, "x-" * 20)
            cases = method._fitting(ITEM)
            shown = bench.model.render(method._messages(ITEM, cases))  # type: ignore[union-attr]
            plain = bench.model.render(messages(ITEM))  # type: ignore[union-attr]
            assert 0 < len(cases) < 16
            assert len(shown.ids) - len(plain.ids) <= most
            method.predict(ITEM)  # and fits into the context


def test_memory_alone_votes_for_what_was_right_and_against_what_was_wrong(bench: Bench) -> None:
    method = NearestMemory(bench, 5)
    first = method.predict(ITEM)
    assert first.text == bench.frozen(ITEM)[0].text
    method.learn(ITEM, first, Told(right=False))
    second = method.predict(ITEM)
    assert second.text != first.text
    method.learn(ITEM, second, Told(right=False, answer="umber"))
    assert method.predict(ITEM).text == "umber"


def test_memory_alone_does_not_answer_outside_the_closed_set(bench: Bench) -> None:
    method = NearestMemory(bench, 5)
    method.learn(replace(ITEM, task="x"), Answer(text="a"), Told(right=False, answer="elsewhere"))
    assert method.predict(ITEM).text in TEAMS


def test_knn_prompting_reads_the_nearest_distributions(bench: Bench) -> None:
    method = KnnPrompting(bench, 1)
    asked = [replace(ITEM, text=f"the {thing} of amber teal") for thing in THINGS]
    for item, team in zip(asked, TEAMS, strict=True):
        method.learn(item, method.predict(item), Told(right=False, answer=team))
    # Against itself the divergence is 0, the least there is.
    assert [method.predict(item).text for item in asked[:1]] == [TEAMS[0]]
    method.learn(ITEM, replace(method.predict(ITEM), text="x"), Told(right=False))
    assert "x" not in method._answers


def test_memprompt_looks_up_the_question_without_its_arguments() -> None:
    assert memory_key("What is like < ship > ?") == "like"
    bench = Bench(None, HashEmbedder())
    method = MemPromptOriginal(bench)
    item = replace(ITEM, text="what has a similar ring to < ship > ?")
    method.learn(item, Answer(text="a"), Told(note="clarification: old"))
    method.learn(item, Answer(text="a"), Told(note="clarification: new"))
    found = method.predict(replace(item, text="what has a similar ring to < dock > ?"))
    assert found.notes == ("clarification: new",)
    assert not method.predict(replace(item, text="expand on < dock > at length")).notes


def test_on_a_stream_of_strangers_a_method_without_users_keeps_them_apart(bench: Bench) -> None:
    stream = Stream(name="s", items=(ITEM,), scoped=True)
    method = make("knn-1", bench, stream, 2)
    ada, bob = replace(ITEM, user="ada"), replace(ITEM, user="bob")
    frozen = method.predict(bob).text
    right = next(team for team in TEAMS if team != frozen)
    method.learn(ada, method.predict(ada), Told(right=False, answer=right))
    assert (method.predict(ada).text, method.predict(bob).text) == (right, frozen)


def test_frozen_is_what_tta_says_of_the_untouched_model(bench: Bench, tiny: Bench) -> None:
    for used in (bench, tiny):
        method = Tta(used)
        for item in drawn(6).stream.items:
            untouched = method.chat.frozen(item.text, output=item.answers).text
            assert used.frozen(item)[0].text == untouched
        method.close()


def test_the_empty_memory_control_never_learns(bench: Bench) -> None:
    stream = drawn()
    control = make("empty-memory", bench, stream.stream, 2)
    assert isinstance(control, Tta)
    play(control, stream, Oracle(stream, Regime(), seed=2))
    assert not control.chat.memory.records(user="default")
