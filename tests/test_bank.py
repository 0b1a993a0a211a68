"""Banks of readers over a real memory: they follow its ledgers, and nobody else's."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memories import answered, correction, preference, rating
from numpy.typing import NDArray

from tta.memory import Memory
from tta.retrieval import Banks, Names, Recaller
from tta.retrieval.bank import BANKS, RECURRING, WIDER
from tta.testing import HashEmbedder
from tta.types import EVERYONE, Event, Message, Recall, Recalled, Record, Request, Task

FloatArray = NDArray[np.floating[Any]]
Opinions = Mapping[str, FloatArray]

EMBED = HashEmbedder(32)
ANSWERS = ("amber", "coral", "indigo")
ASKED = (
    "Where is my parcel?",
    "The parcel is late",
    "I lost the password!",
    "Is there a new password?",
    "Where is my train ticket?",
)


class Desk:
    """A memory, and the banks that read it."""

    def __init__(self, where: Path | None = None) -> None:
        self.memory = Memory.open(where, embedder=EMBED)
        self.recaller = Recaller(self.memory, EMBED)
        self.banks = Banks(self.memory, self.recaller, EMBED, Names(EMBED))

    def teach(self, *events: Event) -> None:
        for event in events:
            self.memory.record(about(event))
            self.memory.learn(event)

    def opinions(
        self, text: str = ASKED[1], user: str = "ada", reads: tuple[str, ...] = ()
    ) -> Opinions:
        request = Request(
            messages=(Message(role="user", content=text),), user=user, task="t", reads=reads
        )
        recall = self.recaller.recall(request, Task(name="t"))
        return self.banks.opinions(request, "t", ANSWERS, {}, recall)


def about(event: Event) -> Event:
    """The answer that feedback is about."""
    request, answer, pattern = (str(event.body[f]) for f in ("request", "answer", "pattern"))
    return answered(
        event.response, user=event.user, task=event.task,
        request=request, answer=answer, pattern=pattern,
    )  # fmt: skip


def asked(n: int, user: str = "ada", answer: str = "amber", task: str = "t") -> Event:
    """The answer that the feedback number `n` of a user is about."""
    text = ASKED[n % len(ASKED)]
    return answered(f"{user}-{n}", user=user, request=text, answer=answer, task=task)


def right(n: int, text: str, user: str = "ada", task: str = "t") -> Event:
    return correction(asked(n, user, task=task), text, f"{user}-c{n}")


def wrong(n: int, user: str = "ada", instead: Mapping[str, float] | None = None) -> Event:
    event = rating(asked(n, user), -1.0, f"{user}-g{n}")
    if instead is None:
        return event
    return Event(
        kind=event.kind, user=user, task=event.task, response=event.response, id=event.id,
        body={**event.body, "instead": instead},
    )  # fmt: skip


HISTORY = (
    right(0, "coral"),
    wrong(1, instead={"coral": 0.7, "indigo": 0.3}),
    right(2, "indigo"),
    preference(asked(3), "coral", "amber", "ada-p3"),
    right(5, "indigo"),  # the same request as 0: replaces it
)


def assert_same(one: Opinions, other: Opinions) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=1e-6, err_msg=name)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.memory.close()


def test_every_opinion_is_a_distribution_over_the_answers(desk: Desk) -> None:
    desk.teach(*HISTORY)
    for opinion in desk.opinions().values():
        assert opinion.shape == (len(ANSWERS),)
        assert np.exp(opinion).sum() == pytest.approx(1)


def test_without_memory_the_names_are_among_the_experts(desk: Desk) -> None:
    found = desk.opinions("an indigo thing")
    assert found["names"].argmax() == ANSWERS.index("indigo")
    np.testing.assert_allclose(found["kernel.05"], found["names"], atol=1e-6)


def test_a_bank_that_follows_step_by_step_is_one_that_starts_late(desk: Desk) -> None:
    late = Desk()
    for event in HISTORY:
        desk.opinions()
        desk.teach(event)
    late.teach(*HISTORY)
    assert_same(desk.opinions(), late.opinions())
    late.memory.close()


def test_what_was_taught_is_heard_by_every_expert_that_learns(desk: Desk) -> None:
    before = desk.opinions(ASKED[0])
    for n in range(0, 25, 5):  # always the same request
        desk.teach(right(n, "indigo"))
    after = desk.opinions(ASKED[0])
    place = ANSWERS.index("indigo")
    for name in set(after) - {"names"}:
        assert after[name].argmax() == place, name
        assert after[name][place] > before[name][place], name
    np.testing.assert_array_equal(after["names"], before["names"])


@pytest.mark.parametrize("undone", range(len(HISTORY)))
def test_after_an_undo_all_opinions_are_as_if_it_had_never_been_said(
    desk: Desk, undone: int
) -> None:
    never = Desk()
    never.teach(*(e for i, e in enumerate(HISTORY) if i != undone))
    desk.teach(*HISTORY)
    with_it = desk.opinions()
    desk.memory.undo(HISTORY[undone].id, user="ada")
    assert_same(desk.opinions(), never.opinions())
    now = desk.opinions()
    changed = any(not np.allclose(with_it[name], now[name]) for name in with_it)
    assert changed == (undone != 0)  # the first was replaced by the last
    never.memory.close()


def test_an_undo_in_one_task_leaves_the_banks_of_others(desk: Desk) -> None:
    desk.teach(*HISTORY, right(4, "coral", task="u"))
    before = desk.opinions()
    desk.memory.undo("ada-c4", user="ada")
    assert_same(desk.opinions(), before)


def test_reopening_gives_the_same_opinions(tmp_path: Path) -> None:
    first = Desk(tmp_path / "m")
    first.teach(*HISTORY)
    before = first.opinions()
    first.memory.close()
    again = Desk(tmp_path / "m")
    assert_same(again.opinions(), before)
    again.memory.close()


def test_another_users_lessons_change_no_bit_of_an_opinion(desk: Desk) -> None:
    desk.teach(*HISTORY[:2])
    before = desk.opinions()
    for n in range(8):
        desk.teach(right(n, "indigo", user="bob"))
    desk.memory.undo("bob-c3", user="bob")
    desk.opinions(user="bob")
    after = desk.opinions()
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_a_wider_scope_is_heard_only_when_it_may_be_read(desk: Desk) -> None:
    desk.teach(*(right(n, "indigo", user="team") for n in range(5)))
    strict = desk.opinions()
    assert not any("@" in name for name in strict)
    wide = desk.opinions(reads=("team",))
    assert set(wide) - set(strict) == {f"{name}@team" for name in WIDER}
    for name in WIDER:
        assert wide[f"{name}@team"].argmax() == ANSWERS.index("indigo")
    for name in strict:
        np.testing.assert_array_equal(wide[name], strict[name])


def test_everyone_is_all_users_together(desk: Desk) -> None:
    desk.teach(*(right(n, "indigo", user="bob") for n in range(3)))
    desk.teach(*(right(n, "coral", user="eve") for n in range(3, 6)))
    one = Desk()
    for n in range(6):
        one.teach(right(n, "indigo" if n < 3 else "coral", user="ada" if n != 5 else "carl"))
    # The same lessons, whoever gave them (5 and 0 are one request: of one user it would replace).
    found, same = (d.opinions(reads=(EVERYONE,), user="nobody") for d in (desk, one))
    for name in WIDER:
        np.testing.assert_allclose(found[f"{name}@*"], same[f"{name}@*"], atol=1e-6)
    one.memory.close()


def test_a_user_who_is_forgotten_leaves_everyones_bank(desk: Desk) -> None:
    desk.teach(*(right(n, "indigo", user="bob") for n in range(3)))
    without = desk.opinions(reads=(EVERYONE,))
    desk.teach(*(right(n, "coral", user="eve") for n in range(5)))
    with_eve = desk.opinions(reads=(EVERYONE,))
    assert not np.allclose(with_eve["ridge@*"], without["ridge@*"])
    desk.memory.forget("eve")
    assert_same(desk.opinions(reads=(EVERYONE,)), without)


def test_no_bank_keeps_a_text_of_a_user_who_is_forgotten(desk: Desk) -> None:
    desk.teach(right(0, "indigo", user="bob"), right(1, "coral", user="eve"))
    for user in ("bob", "eve"):
        desk.opinions(user=user, reads=(EVERYONE,))
    desk.banks.forget("eve")
    desk.memory.forget("eve")
    gc.collect()
    held = [r for r in gc.get_objects() if type(r) is Record]
    assert {record.user for record in held if record.source in ("bob-c0", "eve-c1")} == {"bob"}


def test_who_was_forgotten_and_comes_back_starts_anew(desk: Desk) -> None:
    never = desk.opinions()
    desk.teach(*HISTORY)
    desk.opinions()
    desk.memory.forget("ada")
    assert_same(desk.opinions(), never)
    desk.teach(right(0, "coral"))
    assert desk.opinions(ASKED[0])["kernel.05"].argmax() == ANSWERS.index("coral")


def test_more_tasks_than_fit_are_made_anew_when_asked(desk: Desk) -> None:
    desk.teach(*HISTORY)
    before = desk.opinions()
    request = Request(messages=(Message(role="user", content="x"),), user="ada")
    for n in range(BANKS + 1):
        desk.banks.opinions(request, f"task {n}", ANSWERS, {}, Recall())
    assert_same(desk.opinions(), before)


# --------------------------------------------------------------------------------- open answers


def heard(*events: Event) -> Recall:
    """What these events left, as recalled for the same request."""
    desk = Desk()
    desk.teach(*events)
    request = Request(messages=(Message(role="user", content=ASKED[0]),), user="ada", task="t")
    found = desk.recaller.recall(request, Task(name="t"))
    desk.memory.close()
    return found


def judged(desk: Desk, texts: list[str], recall: Recall) -> Opinions:
    """What is said of open answers to the first request."""
    return desk.banks.judged(request_of(ASKED[0]), "t", texts, recall)


def request_of(text: str) -> Request:
    return Request(messages=(Message(role="user", content=text),), user="ada", task="t")


def test_open_answers_that_recur_are_known_for_new_requests_until_they_are_taken_back(
    desk: Desk,
) -> None:
    desk.teach(*(right(i, answer) for i, answer in enumerate(("red", "blue"))))
    new = request_of("What about something entirely new?")
    assert desk.banks.known(new, "t", Recall()) == []
    again = [right(i, answer) for i, answer in enumerate(("red", "blue", "red"), start=2)]
    desk.teach(*again)
    assert set(desk.banks.known(new, "t", Recall())) == {"red", "blue"}
    said = judged(desk, ["never heard", "blue", "red"], Recall())
    assert {name: said[name].argmax() for name in RECURRING} == dict.fromkeys(RECURRING, 2)
    for event in again:
        desk.memory.undo(event.id, user="ada")
    assert desk.banks.known(new, "t", Recall()) == []


def test_what_was_corrected_is_refused_by_the_centroid_alone() -> None:
    corrected, accepted = Desk(), Desk()
    corrected.teach(right(0, "coral"))  # not amber
    accepted.teach(correction(asked(0, answer="coral"), "coral", "ada-c0"))
    one, other = corrected.opinions(ASKED[0]), accepted.opinions(ASKED[0])
    amber = ANSWERS.index("amber")
    assert one["centroid"][amber] < other["centroid"][amber]
    for name in ("kernel.05", "lda", "ridge", "words", "recent"):
        np.testing.assert_allclose(one[name], other[name], atol=1e-6, err_msg=name)
    again = Desk()  # where the answers were asked about before
    again.opinions(ASKED[0])
    again.teach(right(0, "coral"))
    assert_same(again.opinions(ASKED[0]), one)
    for desk in (corrected, accepted, again):
        desk.memory.close()


def test_a_text_that_is_only_asked_about_gets_no_row(desk: Desk) -> None:
    desk.teach(*(right(i, answer) for i, answer in enumerate(("red", "red", "red"))))
    bank = desk.banks._bank("ada", "t")
    before = bank.row("red")
    desk.banks.judged(request_of("new"), "t", ["one", "two"], Recall())
    assert (before, bank.row("first new one")) == (0, 1)


def test_an_open_answer_like_an_accepted_one_is_preferred_and_like_a_refused_one_is_not(
    desk: Desk,
) -> None:
    recall = heard(right(0, "Ask for the tracking number"))
    texts = ["The tracking number please", "No", "amber alert"]
    similar = judged(desk, texts, recall)["similar"]
    assert np.exp(similar).sum() == pytest.approx(1)
    assert similar.argmax() == 0
    assert similar.argmin() == 2
    votes = judged(desk, ["No", "amber", "Ask for the tracking number"], recall)["votes"]
    assert votes.argmax() == 2
    assert votes[0] == votes[1]  # what was corrected is refused for that request alone


def test_without_memory_open_answers_are_all_alike(desk: Desk) -> None:
    found = judged(desk, ["a", "b"], Recall())
    assert set(found) == {"similar", "votes"}
    for opinion in found.values():
        np.testing.assert_allclose(np.exp(opinion), 0.5)


def test_the_weaker_of_two_refusals_counts_less(desk: Desk) -> None:
    def refusal(answer: str, value: float, n: int) -> Recalled:
        event = rating(asked(0, answer=answer), value, f"ada-x{n}")
        return heard(event).rejected[0]

    recall = Recall(rejected=(refusal("yes", -1.0, 1), refusal("no", -0.1, 2)))
    votes = judged(desk, ["yes", "no"], recall)["votes"]
    assert votes[1] > votes[0]
