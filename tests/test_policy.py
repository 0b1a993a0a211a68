"""What is kept when there is more than the cap, what folds into one, and what contradicts."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from memories import WEIGHER, answered, assert_consistent, correction, rating

from tta import errors
from tta.memory import Memory
from tta.memory.policy import Kept, normalised
from tta.testing import HashEmbedder
from tta.types import RecordKind

EMBED = HashEmbedder()


@pytest.fixture
def memory() -> Iterator[Memory]:
    with Memory.open(None, embedder=EMBED, weigher=WEIGHER, cap=6) as memory:
        yield memory


def teach(
    memory: Memory, number: int, text: str, *, request: str = "", task: str = "t", user: str = "ada"
) -> None:
    about = answered(
        f"{user}r{number}", user=user, task=task, request=request or f"question {number}", answer=""
    )
    memory.record(about)
    memory.learn(correction(about, text, f"{user}c{number}"))


def cases(memory: Memory, task: str = "t", user: str = "ada") -> list[str]:
    found = memory.records(user=user, task=task, kind=RecordKind.CASE)
    return [f"{record.request}: {record.answer}" for record in found]


def test_of_the_answer_with_most_beyond_its_share_the_oldest_goes(memory: Memory) -> None:
    for number in range(6):
        teach(memory, number, "common")
    teach(memory, 6, "rare")
    assert cases(memory) == [*(f"question {n}: common" for n in range(1, 6)), "question 6: rare"]
    for number in range(7, 30):
        teach(memory, number, "common")
    assert cases(memory) == ["question 6: rare", *(f"question {n}: common" for n in range(25, 30))]
    assert_consistent(memory)


def test_where_every_answer_is_another_the_oldest_go(memory: Memory) -> None:
    for number in range(9):
        teach(memory, number, f"answer {number}")
    assert cases(memory) == [f"question {n}: answer {n}" for n in range(3, 9)]


def test_shares_are_as_what_was_taught_to_the_power_of_three_quarters() -> None:
    kept = Kept()
    for number, answer in enumerate([*"a" * 400, *"b" * 100, *"a" * 500, *"c" * 4]):
        kept.add(answer, str(number))
        while sum(map(len, kept.held.values())) > 44:
            gone = kept.surplus(44)
            assert gone is not None
            kept.remove(next(a for a, held in kept.held.items() if gone in held), gone)
    assert {answer: len(held) for answer, held in kept.held.items()} == {"a": 36, "b": 7, "c": 1}


def test_each_task_user_and_kind_has_a_cap_of_its_own(memory: Memory) -> None:
    for number in range(8):
        teach(memory, number, "yes")
        teach(memory, 100 + number, "yes", task="u")
        teach(memory, number, "yes", user="bob")
        about = answered(f"bad{number}", request=f"question {number}", answer="no")
        memory.record(about)
        memory.learn(rating(about, -1, f"g{number}"))
    kinds = Counter(
        (r.user, r.task, r.kind) for u in ("ada", "bob") for r in memory.records(user=u)
    )
    assert set(kinds.values()) == {6}
    assert len(kinds) == 4
    assert_consistent(memory)


def test_what_gave_way_is_not_recalled_but_still_learned_from(memory: Memory) -> None:
    for number in range(10):
        teach(memory, number, "yes")
    vector = EMBED.embed(["question 0"])[0]
    found = memory.nearest(vector, 20, user="ada", task="t", kind=RecordKind.CASE)
    assert len(found) == 6
    assert "question 0" not in [record.request for record, _ in found]
    ledger = memory.ledger(user="ada", task="t")
    assert [(sign, record.request) for sign, record in ledger] == [
        (1, f"question {n}") for n in range(10)
    ]
    assert (memory.vectors([record for _, record in ledger])[0] == vector).all()


def test_undoing_brings_back_what_gave_way(memory: Memory) -> None:
    for number in range(7):
        teach(memory, number, "yes")
    before = cases(memory)
    assert "question 0: yes" not in before
    undone = memory.undo("adac3", user="ada")
    assert [record.request for record in undone.added] == ["question 0"]
    assert cases(memory) == [f"question {n}: yes" for n in (0, 1, 2, 4, 5, 6)]
    assert_consistent(memory)


def test_the_cap_is_kept_with_the_memory(tmp_path: Path) -> None:
    def number(cap: int | None) -> int:
        with Memory.open(tmp_path / "m", embedder=EMBED, weigher=WEIGHER, cap=cap) as memory:
            assert_consistent(memory)
            return len(cases(memory))

    with Memory.open(tmp_path / "m", embedder=EMBED, cap=5) as memory:
        for n in range(12):
            teach(memory, n, "yes")
    assert (number(None), number(8), number(None), number(100)) == (5, 8, 8, 12)
    with pytest.raises(errors.InvalidSetting):
        number(0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Where is my parcel?", "where is  my parcel"),
        ("Ｗｈｅｒｅ？", "where"),
        ("\tIs it red!", "is it red?"),
        ("STRASSE", "straße"),
    ],
)
def test_near_duplicates_with_one_answer_fold_and_are_counted(
    memory: Memory, one: str, other: str
) -> None:
    teach(memory, 1, "yes", request=one)
    teach(memory, 2, "yes", request=other)
    teach(memory, 3, "yes", request=other)
    assert cases(memory) == [f"{other}: yes"]
    assert memory.coverage("ada").tasks[0].repeats == 2
    memory.undo("adac3", user="ada")
    memory.undo("adac2", user="ada")
    assert cases(memory) == [f"{one}: yes"]
    assert memory.coverage("ada").tasks[0].repeats == 0
    assert_consistent(memory)


@pytest.mark.parametrize(
    ("one", "other"), [("is it red", "is it read"), ("3 + 4", "3 - 4"), ("?", "!"), ("a b", "ab")]
)
def test_what_only_looks_alike_does_not_fold(memory: Memory, one: str, other: str) -> None:
    teach(memory, 1, "yes", request=one)
    teach(memory, 2, "yes", request=other)
    assert len(cases(memory)) == 2
    assert normalised(one) != normalised(other)


def test_contradictions_are_shown_and_the_newest_of_one_request_wins(memory: Memory) -> None:
    teach(memory, 1, "red", request="Which team?")
    teach(memory, 2, "blue", request="Which team?")
    teach(memory, 3, "green", request="which team")
    teach(memory, 4, "yes", request="Is it red?")
    teach(memory, 5, "yes", request="is it red")
    (found,) = memory.contradictions("ada")
    assert found.newest.answer == "green"
    assert [record.answer for record in found.older] == ["red", "blue"]
    assert not found.resolved, "'Which team?' and 'which team' are live side by side"
    memory.undo("adac3", user="ada")
    (found,) = memory.contradictions("ada")
    assert (found.newest.answer, found.resolved) == ("blue", True)
    assert cases(memory)[0] == "Which team?: blue"
    memory.undo("adac1", user="ada")
    assert memory.contradictions("ada") == ()
    assert memory.contradictions("bob") == ()
