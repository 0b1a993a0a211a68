"""Best of N through the public surface, with the bundled model: how many are drawn, and why."""

import gc
import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import tta
from benchmarks import best_of_n
from tta import errors
from tta.decoding.ballot import Meanings
from tta.testing import HashEmbedder

HARD = "847+596="
"""The model is unsure of it: its greedy answer is wrong, and so are most samples."""
EASY = "12+5="
TOLD = "Say something about the sea."


def test_without_a_reason_for_more_one_is_drawn_greedily(chat: tta.Adapted) -> None:
    for question in (TOLD, HARD):
        reply, greedy = chat(question), chat(question, n=1)
        assert (reply.text, reply.cost.drawn) == (greedy.text, greedy.cost.drawn)
        assert reply.why.samples == (reply.text,)
        assert "1 of 1 agree" in reply.why.stopped


def test_a_typed_answer_is_drawn_again_where_the_model_is_unsure(chat: tta.Adapted) -> None:
    sure, unsure = chat(EASY, output=int), chat(HARD, output=int)
    assert (sure.value, len(sure.why.samples)) == (17, 1)
    assert 1 < len(unsure.why.samples) <= 16
    assert sure.why.posterior == (1.0,)
    assert len(unsure.why.posterior) == len(unsure.why.samples)


def test_what_is_said_of_the_end_of_drawing_holds_the_posterior(chat: tta.Adapted) -> None:
    reply = chat(HARD, output=int, n=tta.UpTo(40))
    votes = max(map(reply.why.samples.count, reply.why.samples))
    assert f"{votes} of {len(reply.why.samples)} agree" in reply.why.stopped
    assert f"posterior {reply.why.posterior[-1]:.2f}" in reply.why.stopped
    assert reply.why.posterior[-1] >= 0.95 > max(reply.why.posterior[:-1])


def test_a_sample_that_says_again_what_was_said_takes_no_pass(chat: tta.Adapted) -> None:
    some, every = chat(HARD, output=int, n=tta.UpTo(16, sure=1)), chat(HARD, output=int, n=16)
    said = len(some.why.samples)
    assert some.why.samples == every.why.samples[:said]
    assert len(set(some.why.samples)) < said  # some say again what others said before them
    tokens = {str(c.text): len(c.token_ids) for c in every.candidates}
    assert some.cost.drawn < sum(tokens[str(text)] for text in some.why.samples)


def test_so_many_samples_as_are_asked_for_and_each_votes(chat: tta.Adapted) -> None:
    reply = chat(HARD, n=12, seed=3)
    assert len(reply.why.samples) == 12
    assert {s for s in reply.why.samples if s} == {c.text for c in reply.candidates}
    assert len({c.text for c in reply.candidates}) == len(reply.candidates) < 12
    assert {"agreement", "agreement/certain", "agreement/group"} <= set(reply.why.weights)


def test_a_sample_is_the_same_however_many_are_drawn(chat: tta.Adapted) -> None:
    many = chat(HARD, n=16, seed=9, output=int).why.samples
    assert chat(HARD, n=5, seed=9, output=int).why.samples == many[:5]
    fewer = chat(HARD, n=tta.UpTo(16), seed=9, output=int).why.samples
    assert 1 < len(fewer) < 16
    assert fewer == many[: len(fewer)]
    # However many are drawn at once, as measured times would have it.
    for timing in ((1, 1.0), (8, 8.0)) * 50:
        chat._parts.decider._timing.add(*timing)
    assert chat(HARD, n=tta.UpTo(16), seed=9, output=int).why.samples == fewer


def test_lossless_is_the_answer_of_all_samples(chat: tta.Adapted) -> None:
    for seed in range(4):
        every = chat("64+18=", n=16, seed=seed, output=int)
        few = chat("64+18=", n=tta.UpTo(16, sure=1.0), seed=seed, output=int)
        assert few.text == max(every.why.samples, key=every.why.samples.count)
        assert len(few.why.samples) < 16


@pytest.mark.parametrize("n", [0, True, tta.UpTo(0), tta.UpTo(4, sure=0.2), "many"])
def test_a_number_of_samples_that_cannot_be_is_refused(tiny: tta.Adapted, n: Any) -> None:
    with pytest.raises(errors.InvalidSetting):
        tiny(HARD, n=n)


def test_all_waves_continue_one_prefill(chat: tta.Adapted) -> None:
    """Even when the prompt is too long to be kept for later calls."""
    assert chat.model is not None
    chat.model.cache.limit = 1
    reply = chat(HARD, output=int, n=tta.UpTo(40))
    assert len(reply.why.samples) > 8
    assert reply.cost.prefilled == reply.context.tokens


def test_the_cost_counts_samples_that_were_given_up(chat: tta.Adapted) -> None:
    every = chat(HARD, n=16, seed=1)
    tokens = sum(len(c.token_ids) for c in every.candidates)
    assert every.cost.drawn > tokens  # repeated answers cost as much
    one = chat(HARD, n=1)
    assert chat(HARD, n=tta.UpTo(16), seed=1).cost.drawn > 4 * one.cost.drawn


# ------------------------------------------------------------------------------------- sameness


def test_answers_are_the_same_by_their_values(chat: tta.Adapted) -> None:
    def tens(value: object) -> int:
        return int(str(value)) // 10

    for output in (None, int):
        apart = chat(HARD, n=16, seed=1, output=output)
        joined = chat(HARD, n=16, seed=1, output=output, same=tens)
        assert joined.why.samples == apart.why.samples
        values = [tens(c.text) for c in joined.candidates]
        assert len(set(values)) == len(values) < len(apart.candidates)
        assert tens(joined.text) == max(values, key=[tens(s) for s in joined.why.samples].count)


class Coarse(HashEmbedder):
    """Sees no difference between numbers."""

    def embed(self, texts: Sequence[str]) -> Any:
        return super().embed(["number" if text.isdecimal() else text for text in texts])


def test_answers_are_the_same_by_their_meaning(model: tuple[Any, Any]) -> None:
    for embedder, kinds in ((Coarse(id="coarse"), 1), (HashEmbedder(), 5)):
        with tta.wrap(*model, embedder=embedder) as chat:
            reply = chat(HARD, n=8, seed=1, same=tta.Meaning())
        assert len(set(reply.why.samples)) == 5
        assert len(reply.candidates) == kinds


def test_meanings_are_of_the_first_kind_that_is_near_enough() -> None:
    kind = Meanings(HashEmbedder().embed, 0.7)
    texts = ["the blue sea", "a red car", "blue sea", "the sea", "a red red car", "the blue sea"]
    assert [kind(text) for text in texts] == [0, 1, 0, 0, 1, 0]


def test_samples_that_were_cut_off_do_not_vote(chat: tta.Adapted) -> None:
    reply = chat(HARD, n=4, max_new_tokens=2)
    assert reply.why.samples == (None,) * 4
    assert "none could vote" in reply.why.stopped
    assert "agreement" not in reply.why.weights
    asked: list[Any] = []
    chat(HARD, n=4, max_new_tokens=2, verify=asked.append)  # type: ignore[arg-type]
    assert asked == []


def test_a_function_of_the_caller_that_raises_is_named(chat: tta.Adapted) -> None:
    with pytest.raises(errors.InvalidSetting, match="same raised") as raised:
        chat(HARD, n=4, same=int.bit_count)
    assert isinstance(raised.value.value, str)
    assert list(chat.memory.events()) == []


# ------------------------------------------------------------------------------------- verifying


def test_drawing_ends_with_the_first_that_passes(chat: tta.Adapted) -> None:
    every = chat(HARD, n=16, output=int)
    third = list(dict.fromkeys(every.why.samples))[2]
    asked: list[int] = []

    def verify(value: int) -> bool:
        asked.append(value)
        return str(value) == third

    reply = chat(HARD, output=int, verify=verify)
    assert reply.text == third
    assert reply.why.samples == every.why.samples[: every.why.samples.index(third) + 1]
    assert "passed the verifier" in reply.why.stopped
    assert len(asked) == len(set(asked))  # of what was drawn again it is known


def test_where_none_passes_all_are_drawn_or_all_that_is_probable_was_refused(
    chat: tta.Adapted,
) -> None:
    unsure = chat(HARD, verify=lambda value: False)
    assert len(unsure.why.samples) == 16
    sure = chat(EASY, verify=lambda value: False, n=tta.UpTo(64))
    assert len(sure.why.samples) < 8
    assert "all refused" in sure.why.stopped


def test_degrees_end_it_when_the_best_is_not_worth_beating(chat: tta.Adapted) -> None:
    reply = chat(HARD, verify=lambda value: 0.3 + int(value) % 3 / 100)
    assert 4 <= len(reply.why.samples) < 16
    assert "not worth another sample" in reply.why.stopped


def test_a_verifier_that_raises_leaves_nothing_behind(chat: tta.Adapted) -> None:
    expected = chat(HARD, n=8, seed=5).why.samples
    assert chat.model is not None
    cache = chat.model.cache
    events, kept = len(list(chat.memory.events())), (len(cache), cache.bytes)
    gc.collect()
    tensors = _tensors()

    def broken(value: Any) -> bool:
        raise RuntimeError("no compiler here")

    with pytest.raises(errors.VerifierFailed, match="no compiler") as raised:
        chat(HARD, n=8, seed=5, verify=broken)
    assert raised.value.value == expected[0]
    assert isinstance(raised.value.__cause__, RuntimeError)
    del raised
    gc.collect()
    assert (len(list(chat.memory.events())), len(cache), cache.bytes) == (events, *kept)
    assert _tensors() == tensors
    assert chat(HARD, n=8, seed=5).why.samples == expected


def _tensors() -> int:
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def _waiting(release: threading.Event, when: Callable[[Any], bool]) -> Callable[[Any], float]:
    def verify(value: Any) -> float:
        if when(value):
            release.wait(20)
            return 1.0
        return 0.6

    return verify


def test_a_verifier_that_hangs_is_left_alone_after_its_time(chat: tta.Adapted) -> None:
    release, before = threading.Event(), threading.active_count()
    try:
        with pytest.raises(errors.VerifierTimeout, match=r"longer than 0\.05 s") as raised:
            chat(HARD, verify=_waiting(release, lambda value: True), verify_seconds=0.05)
        assert raised.value.value == chat(HARD).text
        assert threading.active_count() == before + 1  # only the one that hangs
    finally:
        release.set()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_an_answer_found_before_it_hangs_is_given(chat: tta.Adapted) -> None:
    release, greedy = threading.Event(), chat(HARD).text
    try:
        reply = chat(
            HARD, verify=_waiting(release, lambda value: value != greedy), verify_seconds=0.05
        )
    finally:
        release.set()
    assert reply.text == greedy
    assert "took too long" in reply.why.stopped


def test_settings_of_a_verifier_are_checked(tiny: tta.Adapted) -> None:
    for wrong in (
        {"verify": True},
        {"same": 3},
        {"same": tta.Meaning(-2)},
        {"verify_seconds": 0},
        {"verify_seconds": -1.0},
    ):
        with pytest.raises(errors.InvalidSetting):
            tiny(HARD, **wrong)
    assert list(tiny.memory.events()) == []


# --------------------------------------------------------------------------------- from feedback


def problems(count: int) -> list[tuple[str, int]]:
    return [(f"{a}+{1100 - a // 2}=", 1100 + a - a // 2) for a in range(401, 999, 13)][:count]


def test_feedback_that_samples_do_not_help_ends_drawing_them(chat: tta.Adapted) -> None:
    asked = problems(39)
    before = [len(chat(text, output=int, task="t").why.samples) for text, _ in asked[-8:]]
    assert sum(before) > 16
    for text, right in asked[:-8]:
        reply = chat(text, output=int, task="t")
        reply.good() if reply.value == right else reply.correct(str(right))
    after = [chat(text, output=int, task="t") for text, _ in asked[-8:]]
    assert sum(len(reply.why.samples) for reply in after) < sum(before) / 2
    assert any("more samples added" in reply.why.stopped for reply in after)


def test_feedback_that_samples_help_begins_drawing_them_for_free_text(chat: tta.Adapted) -> None:
    text = HARD
    assert len(chat(text, task="t").why.samples) == 1
    for seed in range(4):
        reply = chat(text, n=8, seed=seed, task="t")
        other = next(s for s in reply.why.samples if s is not None and s != reply.why.samples[0])
        _accept(chat, reply, other)
    standing = chat.memory.standing(user=chat.user, task="t")
    assert standing.sampled.steps > 0
    assert standing.sampled.gained > 0
    assert len(chat("848+597=", task="t").why.samples) > 1


def _accept(chat: tta.Adapted, reply: tta.Response, right: str) -> None:
    """Say which was right, and take care that this does not settle the next answer."""
    if reply.text == reply.why.samples[0]:
        reply.bad()
    else:
        reply.good()


def test_an_undo_takes_back_what_was_said_of_samples(chat: tta.Adapted) -> None:
    reply = chat(HARD, n=8, task="t")
    learned = reply.good()
    assert chat.memory.standing(user=chat.user, task="t").sampled.steps == 1
    chat.undo(learned)
    assert chat.memory.standing(user=chat.user, task="t").sampled.steps == 0


# ------------------------------------------------------------------------------------- halving


def test_halving_gives_up_the_less_confident_and_their_votes(chat: tta.Adapted) -> None:
    whole = chat(HARD, n=16, max_new_tokens=16, seed=2)
    halved = chat(HARD, n=tta.UpTo(16, halving=True), max_new_tokens=16, seed=2)
    assert "left by halving" in halved.why.stopped
    assert len(halved.why.samples) < 16
    assert set(halved.why.samples) <= set(whole.why.samples)
    assert halved.cost.drawn < whole.cost.drawn


def test_which_samples_halving_keeps_does_not_hang_on_threads(chat: tta.Adapted) -> None:
    kept: list[tuple[tuple[str | None, ...], ...]] = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)  # a batched product ends in other last bits
            halving = tta.UpTo(16, halving=True, sure=1.0)
            replies = [chat(HARD, n=halving, max_new_tokens=16, seed=seed) for seed in range(6)]
            kept.append(tuple(reply.why.samples for reply in replies))
    finally:
        torch.set_num_threads(before)
    assert kept[0] == kept[1]


def test_samples_that_are_over_in_time_are_not_halved(chat: tta.Adapted) -> None:
    short = chat(HARD, n=tta.UpTo(8, halving=True, sure=1.0), max_new_tokens=64)
    assert "halving" not in short.why.stopped
    assert short.why.samples == chat(HARD, n=8).why.samples[: len(short.why.samples)]


# ------------------------------------------------------------------------------------- measured


def test_the_benchmark_asks_all_methods_the_same_and_writes_what_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "best.json"
    best_of_n.main(["--n", "4", "--taught", "2", "--json", str(out)], embedder=HashEmbedder())
    found = json.loads(out.read_text())
    assert set(found["methods"]) == set(best_of_n.METHODS)
    samples = {name: row["samples"][0] for name, row in found["methods"].items()}
    assert (samples["greedy"], samples["16, majority"], samples["16, verifier"]) == (1, 16, 16)
    assert all(1 <= count <= 16 for name, count in samples.items() if "history" not in name)
    right = {name: row["accuracy"] for name, row in found["methods"].items()}
    assert right["16, verifier"] == right["default, verifier"] >= right["greedy"]
    assert {row["id"] for row in found["rows"]} == {"majority", "verifier", "history"}
    assert "of the tokens of '16, majority'" in capsys.readouterr().out
