"""What many users agree on, promoted to a wider scope: undoable, and forgotten with its users."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from memories import (
    WEIGHER,
    answered,
    assert_consistent,
    correction,
    files_holding,
)

import tta
from tta import errors
from tta.memory import Memory
from tta.testing import HashEmbedder
from tta.types import Event, EventKind, RecordKind

EMBED = HashEmbedder()
AMONG = ("ada", "bob", "eve")


@pytest.fixture(params=["in RAM", "in a folder"])
def memory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Memory]:
    where = tmp_path / "m" if request.param == "in a folder" else None
    with Memory.open(where, embedder=EMBED, weigher=WEIGHER, flush_every=2) as memory:
        yield memory


def teach(memory: Memory, user: str, request: str, text: str, *, task: str = "t") -> None:
    number = len(list(memory.events()))
    about = answered(f"r{number}", user=user, task=task, request=request)
    memory.record(about)
    memory.learn(correction(about, text, f"c{number}"))


def team(memory: Memory) -> list[tuple[str, str]]:
    return [(record.request, record.answer) for record in memory.records(user="team")]


def test_what_enough_users_agree_on_is_promoted(memory: Memory) -> None:
    for user in AMONG:
        teach(memory, user, "Where is it?", "parcels")
    teach(memory, "ada", "Who is it?", "people")
    teach(memory, "bob", "who is it", "people")
    (learned,) = memory.promote(to="team", among=AMONG, at_least=3)
    assert [(r.kind, r.user, r.task, r.answer) for r in learned.added] == [
        (RecordKind.CASE, "team", "t", "parcels")
    ]
    assert memory.promote(to="team", among=AMONG, at_least=3) == ()
    assert len(memory.promote(to="team", among=AMONG, at_least=2)) == 1
    assert team(memory) == [("Where is it?", "parcels"), ("who is it", "people")]
    vector = EMBED.embed(["Where is it?"])[0]
    near = memory.nearest(vector, 1, user="team", task="t", kind=RecordKind.CASE)
    assert near[0][1] == pytest.approx(1)
    assert_consistent(memory)


def test_what_more_users_deny_is_not_promoted(memory: Memory) -> None:
    for user, text in zip(("ada", "bob", "eve", "kim"), ("a", "a", "b", "b"), strict=True):
        teach(memory, user, "Which?", text)
    assert memory.promote(to="team", among=("ada", "bob", "eve", "kim"), at_least=2) == ()
    assert len(memory.promote(to="team", among=("ada", "bob", "eve"), at_least=2)) == 1


def test_only_who_is_named_is_asked_and_only_of_the_task(memory: Memory) -> None:
    for user in AMONG:
        teach(memory, user, "Where is it?", "parcels")
        teach(memory, user, "Where is it?", "there", task="u")
    assert memory.promote(to="team", among=("ada", "bob"), at_least=3) == ()
    (learned,) = memory.promote(to="team", among=AMONG, at_least=3, task="u")
    assert learned.added[0].answer == "there"


def test_a_promotion_changes_no_user(memory: Memory) -> None:
    for user in AMONG:
        teach(memory, user, "Where is it?", "parcels")
    before = {user: memory.records(user=user) for user in AMONG}
    memory.promote(to="team", among=AMONG, at_least=3)
    assert {user: memory.records(user=user) for user in AMONG} == before


def test_a_promotion_can_be_undone(memory: Memory) -> None:
    for user in AMONG:
        teach(memory, user, "Where is it?", "parcels")
    teach(memory, "team", "Where is it?", "said before")
    (learned,) = memory.promote(to="team", among=AMONG, at_least=3)
    assert ("Where is it?", "said before") not in team(memory)
    with pytest.raises(errors.WrongUser):
        memory.undo(learned.feedback, user="ada")
    memory.undo(learned.feedback, user="team")
    assert ("Where is it?", "said before") in team(memory)
    assert_consistent(memory)
    assert len(memory.promote(to="team", among=AMONG, at_least=3)) == 1


def test_if_one_who_agreed_is_forgotten_nothing_of_it_stays(memory: Memory) -> None:
    for user in AMONG:
        teach(memory, user, "Where is it?", "parcels")
        teach(memory, user, "Undone?", "undone")
    for user in ("bob", "eve"):
        teach(memory, user, "Who is it?", "people")
    promoted = memory.promote(to="team", among=AMONG, at_least=2)
    undone = next(one for one in promoted if one.added[0].answer == "undone")
    memory.undo(undone.feedback, user="team")
    assert len(team(memory)) == 2
    memory.forget("ada")
    assert team(memory) == [("Who is it?", "people")]
    assert_consistent(memory)
    left = [event for event in memory.events("team") if event.kind is EventKind.PROMOTED]
    assert [event.body["users"] for event in left] == [["bob", "eve"]]
    assert len(memory.promote(to="team", among=("bob", "eve"), at_least=2)) == 2


def test_a_scope_that_knew_nothing_else_is_gone(memory: Memory) -> None:
    for user in AMONG:
        teach(memory, user, "Where is it?", "parcels")
    memory.promote(to="team", among=AMONG, at_least=3)
    memory.forget("eve")
    assert set(memory.users()) == {"ada", "bob"}
    assert_consistent(memory)


@pytest.mark.parametrize("embedder", [EMBED, None])
def test_no_byte_of_what_was_promoted_stays_in_any_file(
    tmp_path: Path, embedder: HashEmbedder | None
) -> None:
    folder, secret = tmp_path / "m", "plover egg"
    with Memory.open(folder, embedder=EMBED, weigher=WEIGHER, snapshot_every=1) as memory:
        teach(memory, "ada", secret, "blue")
        teach(memory, "bob", "Who is it?", "people")
        memory.promote(to="team", among=("ada",), at_least=1)
        memory.promote(to="team", among=("bob",), at_least=1)
    vector = EMBED.embed([secret])[0].tobytes()
    assert files_holding(folder, vector)
    with Memory.open(folder, embedder=embedder, weigher=WEIGHER) as memory:
        memory.forget("ada")
    assert files_holding(folder, secret.encode()) == []
    assert files_holding(folder, vector) == []
    with Memory.open(folder, embedder=EMBED, weigher=WEIGHER) as memory:
        assert team(memory) == [("Who is it?", "people")]
        assert_consistent(memory)


@pytest.mark.parametrize(
    ("to", "among", "at_least"),
    [("ada", AMONG, 3), ("*", AMONG, 3), ("team", AMONG, 0), ("", AMONG, 2)],
)
def test_a_promotion_that_makes_no_sense_is_refused(
    memory: Memory, to: str, among: tuple[str, ...], at_least: int
) -> None:
    with pytest.raises(errors.InvalidSetting):
        memory.promote(to=to, among=among, at_least=at_least)


@pytest.mark.parametrize("users", [[], "ada", ["team"], [3], None])
def test_an_imported_promotion_names_its_users(memory: Memory, users: object) -> None:
    body = {"request": "a", "text": "b", "users": users}
    event = Event(kind=EventKind.PROMOTED, user="team", task="t", body=body)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidSetting):
        memory.import_all([event])


def test_who_reads_the_wider_scope_hears_of_it_and_who_does_not_never() -> None:
    answers = ["parcels", "cards", "people"]
    with tta.wrap(None, embedder=EMBED) as chat:
        for user in AMONG:
            for number in range(4):
                said = f"item {number} is late"
                reply = chat.for_user(user)(said, task="desk", output=answers)
                reply.correct("people")
        alone = chat.for_user("kim")("item 2 is late", task="desk", output=answers)
        assert chat.memory.promote(to="team", among=AMONG, at_least=3)
        strict = chat.for_user("kim")("item 2 is late", task="desk", output=answers)
        assert [c.score for c in strict.candidates] == [c.score for c in alone.candidates]
        reader = chat.for_user("lou", reads=["team"])("item 2 is late", task="desk", output=answers)
        assert reader.text == "people"
