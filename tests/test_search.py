"""Search over steps: what is refused is left at once, rows go on from where they forked."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

import tta
from tta.decoding import HFModel, load
from tta.decoding.remembered import UNKNOWN, Remembered
from tta.decoding.search import END, Tried
from tta.errors import InvalidSetting, VerifierFailed, VerifierTimeout
from tta.testing import HashEmbedder
from tta.types import (
    Candidate,
    Cost,
    Finish,
    Message,
    Recall,
    Recalled,
    Record,
    RecordKind,
    Steps,
)

from conftest import MODELS, build  # isort: skip

ASK = (Message(role="user", content="Where is my parcel?"),)
LINES = tta.Regex("([ab]{3}\n){4}")
"""For models that know nothing: four lines of eight possible ones."""
SHOWN = (
    ("List: red lamp, old cup, blue door", "- red lamp\n- old cup\n- blue door"),
    ("List: tin box, map", "- tin box\n- map"),
)
ITEMS = ("quiet river", "silver cup", "stone", "green table")


def alternating(steps: Sequence[str]) -> bool:
    return steps[-1] == ("aba", "bab")[len(steps) % 2]


def searched(
    model: HFModel, check: Any = alternating, output: object = LINES, **options: Any
) -> tuple[tuple[Candidate, ...], Cost, str]:
    given = {"n": 1, "max_new_tokens": 24, "seed": 3, **options}
    rows = given.pop("rows", 4)
    judge = lambda steps: float(check(steps))  # noqa: E731
    return model.search(model.render(ASK), Steps(check, rows=rows), judge, output=output, **given)


@pytest.fixture
def llama(chat_tokenizer: PreTrainedTokenizerFast) -> HFModel:
    return load(build("llama"), chat_tokenizer)


# ------------------------------------------------------------------------------------ the rows


@pytest.mark.parametrize("name", list(MODELS))
def test_rows_fork_with_all_their_states_for_every_architecture(
    name: str, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load(build(name), chat_tokenizer)
    prompt = model.render(ASK)
    (candidate,), cost, stopped = searched(model, rows=3, max_new_tokens=200)
    assert candidate.text == "bab\naba\nbab\naba\n"
    assert candidate.finish is Finish.STOP
    assert stopped.startswith("1 of 1 found")
    assert cost.drawn > len(candidate.token_ids)
    with torch.no_grad():
        ids = torch.tensor([[*prompt.ids, *candidate.token_ids]])
        known = model.model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1)
    known = known[len(prompt.ids) - 1 :]
    expected = sum(float(known[t, i]) for t, i in enumerate(candidate.token_ids))
    expected += float(known[-1, list(model.end_ids)].logsumexp(0))
    assert candidate.logprob == pytest.approx(expected, abs=1e-3)


def test_a_step_is_judged_once_and_never_after_one_that_was_refused(llama: HFModel) -> None:
    asked: list[tuple[str, ...]] = []

    def check(steps: Sequence[str]) -> bool:
        asked.append(tuple(steps))
        return alternating(steps)

    (candidate,), _, stopped = searched(llama, check, rows=2, max_new_tokens=60)
    assert candidate.text == "bab\naba\nbab\naba\n"
    refused = [steps for steps in asked if not alternating(steps)]
    assert len(refused) == len(set(refused)) <= 4 * 7
    assert all(alternating(steps[: i + 1]) for steps in asked for i in range(len(steps) - 1))
    assert f"{len(refused)} refused" in stopped
    again = searched(llama, check, rows=2, max_new_tokens=60)
    assert again[0][0] == candidate


def test_it_ends_when_its_tokens_are_used_up_and_shows_how_far_it_came(llama: HFModel) -> None:
    def never(steps: Sequence[str]) -> bool:
        return False

    def at_first(steps: Sequence[str]) -> bool:
        return len(steps) == 1

    (candidate,), cost, stopped = searched(llama, never, rows=3, max_new_tokens=10)
    assert (candidate.finish, cost.drawn <= 30) == (Finish.LENGTH, True)
    assert stopped.startswith("the 30 tokens allowed are used up")
    (candidate,), cost, _ = searched(llama, at_first, rows=3, max_new_tokens=20)
    assert candidate.finish is Finish.LENGTH
    assert candidate.text in {f"{a}{b}{c}\n" for a in "ab" for b in "ab" for c in "ab"}
    assert candidate.stats["steps"] == 0
    (candidate,), _, _ = searched(llama, never, None, rows=2, max_new_tokens=1)
    assert candidate.finish is Finish.LENGTH


def test_of_steps_with_degrees_the_better_way_is_gone(llama: HFModel) -> None:
    def more_of_b(steps: Sequence[str]) -> float:
        return 0.5 + steps[-1].count("b") / 6

    found, _, _ = searched(llama, more_of_b, n=2, rows=6, max_new_tokens=60)
    plain, _ = llama.draw(llama.render(ASK), n=6, max_new_tokens=60, seed=3, output=LINES)
    assert [c.stats["steps"] for c in found] == sorted(c.stats["steps"] for c in found)[::-1]
    counts = [c.text.count("b") for c in plain]
    assert found[0].text.count("b") > np.mean(counts)
    assert len({c.text for c in found}) == 2


def test_what_is_left_is_as_probable_as_it_is_without_what_was_refused() -> None:
    """Three tokens and an end, two steps deep: every refused sequence is taken off."""
    torch.manual_seed(0)
    first, second = torch.randn(4), torch.randn(4)
    p, q = first.softmax(-1), second.softmax(-1)
    tried = Tried()
    tried.add([0, 1], float((p[0] * q[1]).log()))
    tried.add([0, END], float((p[0] * q[3]).log()))
    for _ in range(2):  # rows that run side by side may come upon the same
        tried.add([2], float(p[2].log()))
    after, behind = first.clone(), second.clone()
    tried.subtract([], 0.0, p.log(), after, [3])
    tried.subtract([0], float(p[0].log()), q.log(), behind, [3])
    left = torch.tensor([p[0] * (q[0] + q[2]), p[1], 0.0, p[3]])
    torch.testing.assert_close(after.softmax(-1), left / left.sum())
    torch.testing.assert_close(
        behind.softmax(-1), torch.tensor([q[0], 0.0, q[2], 0.0]) / (q[0] + q[2])
    )
    untouched = second.clone()
    tried.subtract([1], float(p[1].log()), q.log(), untouched, [3])
    assert torch.equal(untouched, second)


# ------------------------------------------------------------------------------------ the chat


def conversation(items: Sequence[str]) -> list[Message]:
    turns = [m for ask, answer in SHOWN for m in ((ask, "user"), (answer, "assistant"))]
    asked = [*turns, (f"List: {', '.join(items)}", "user")]
    return [Message(role=role, content=text) for text, role in asked]


def listed(steps: Sequence[str]) -> bool:
    return list(steps) == [f"- {item}" for item in ITEMS][: len(steps)]


def test_a_verifier_of_steps_corrects_an_answer_on_its_way(chat: tta.Adapted) -> None:
    right = "\n".join(f"- {item}" for item in ITEMS)
    asked = conversation(ITEMS)
    assert chat(asked).text != right  # the bundled model leaves words out
    reply = chat(asked, verify_step=listed, max_new_tokens=64)
    assert reply.text == right
    assert reply.why.stopped.startswith("1 of 1 found")
    assert "refused" in reply.why.stopped
    assert reply.cost.drawn > 20
    reply.good()
    awaited = asyncio.run(chat.acall(asked, verify_step=listed, user="bob", max_new_tokens=64))
    assert awaited.text == right
    # What memory would settle is judged all the same.
    stricter = tta.Steps(lambda steps: len(steps) < 2, rows=2)
    assert chat(asked, verify_step=stricter, max_new_tokens=8).text != right


def test_another_mark_may_end_a_step(chat: tta.Adapted) -> None:
    seen: list[tuple[str, ...]] = []

    def check(steps: Sequence[str]) -> bool:
        seen.append(tuple(steps))
        return True

    reply = chat("Repeat: quiet river stone", verify_step=tta.Steps(check, end=" ", rows=1))
    assert reply.text == "quiet river stone"
    words = ("quiet", "river", "stone")
    assert seen == [words[:1], words[:2], words]


def recalled(kind: RecordKind, answer: str, score: float) -> Recalled:
    record = Record(
        id=answer, kind=kind, user="a", task="t", request="?", answer=answer, source="", created=0.0
    )
    return Recalled(record=record, score=score, channel="dense")


def test_memory_blames_the_step_that_no_accepted_answer_has() -> None:
    refused = recalled(RecordKind.REJECTED, "mix\nbake\neat", 1.0)
    mended = recalled(RecordKind.CASE, "mix\nwait\neat", 1.0)
    vectors = HashEmbedder().embed
    told = Remembered.of(Recall(rejected=(refused,)), {"mix\nbake\neat"}, "\n", vectors)
    # Any of the three may be why; all of them together it must not be again.
    assert [told((step,)) for step in ("mix", "bake", "eat")] == [told(("mix",))] * 3
    assert 0 < told(("mix",)) < UNKNOWN
    assert told(("pour",)) == UNKNOWN
    assert told(("mix", "bake", "eat")) == 0.0
    better = Remembered.of(Recall(cases=(mended,), rejected=(refused,)), (), "\n", vectors)
    found = [better((step,)) for step in ("mix", "wait", "bake", "pour")]
    assert found == pytest.approx([1.0, 1.0, 0.0, UNKNOWN], abs=1e-6)


def test_the_beginning_of_everything_refused_is_blamed_less_than_what_came_once() -> None:
    ends = [f"end {i}" for i in range(12)]
    refused = tuple(recalled(RecordKind.REJECTED, f"mix\n{end}", 1.0) for end in ends)
    told = Remembered.of(Recall(rejected=refused), (), "\n", HashEmbedder().embed)
    assert told(("mix",)) < UNKNOWN
    both = tuple(recalled(RecordKind.REJECTED, f"mix\n{end}\nno", 1.0) for end in ends)
    told = Remembered.of(Recall(rejected=both), (), "\n", HashEmbedder().embed)
    assert told(("mix",)) == told(("no",))
    # "no" alone was refused, too: it is why, and "mix" is as good as one nobody has seen.
    alone = recalled(RecordKind.REJECTED, "no", 1.0)
    told = Remembered.of(Recall(rejected=(*both, alone)), (), "\n", HashEmbedder().embed)
    assert told(("no",)) < 0.01
    assert told(("mix",)) > 0.9 * UNKNOWN


def test_what_was_refused_very_often_is_surely_wrong() -> None:
    refused = tuple(recalled(RecordKind.REJECTED, "no", 1.0) for _ in range(64))
    told = Remembered.of(Recall(rejected=refused), (), "\n", HashEmbedder().embed)
    assert told(("no",)) == pytest.approx(0, abs=1e-6)


def test_a_step_that_was_refused_is_passed_over_the_next_time(chat: tta.Adapted) -> None:
    asked = conversation(ITEMS)
    first = chat(asked, verify_step=tta.Steps(), max_new_tokens=64)
    wrong = first.text.split("\n")[-1]
    mended = first.text.removesuffix(wrong) + "- nothing else"
    first.correct(mended)
    again = chat(asked, verify_step=tta.Steps(), max_new_tokens=64)
    assert again.text != first.text
    assert wrong not in again.text.split("\n")
    assert again.text.split("\n")[:2] == first.text.split("\n")[:2]


@pytest.mark.parametrize(
    ("check", "error"),
    [
        (lambda steps: 1 / 0, VerifierFailed),
        (lambda steps: threading.Event().wait(), VerifierTimeout),
        (lambda steps: 2.0, InvalidSetting),
        (lambda steps: "no", InvalidSetting),
    ],
)
def test_a_verifier_of_steps_that_fails_ends_the_call_and_leaves_nothing(
    check: Any, error: type[Exception], chat: tta.Adapted
) -> None:
    with pytest.raises(error):
        chat(conversation(ITEMS), verify_step=check, verify_seconds=0.2)
    assert sum(1 for _ in chat.memory.events()) == 0


@pytest.mark.parametrize(
    "given",
    [
        {"verify_step": 3},
        {"verify_step": tta.Steps(listed, rows=0)},
        {"verify_step": tta.Steps(listed, end="")},
        {"verify_step": tta.Steps(listed, least=0.0)},
        {"verify_step": listed, "output": ["card", "parcel"]},
    ],
)
def test_steps_that_cannot_be_judged_are_refused_beforehand(
    given: dict[str, Any], chat: tta.Adapted
) -> None:
    with pytest.raises(InvalidSetting):
        chat("Where is my parcel?", **given)
    assert sum(1 for _ in chat.memory.events()) == 0
