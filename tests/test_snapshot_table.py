"""A snapshot in the journal's database: the same memory for everyone who opens it, nothing of a
user whom anybody has forgotten, and never a wrong one."""

import json
import logging
import random
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from memories import EMBED, WEIGHER, assert_consistent, files_holding, near, rule, teach
from test_reopening import Retrained
from test_snapshot import Counting

from tta import errors
from tta.memory import Memory, snaptable
from tta.memory.journal import FORMAT, NEWEST, SNAPSHOT, Journal
from tta.memory.snapshot import Written
from tta.memory.snaptable import TablePlace, TableSnapshot
from tta.memory.users import Users
from tta.testing import HashEmbedder

AMONG = ("ada", "bob")


def open_memory(url: str, embedder: HashEmbedder = EMBED, **how: Any) -> Memory:
    how = {"snapshot_every": 10, **how}
    return Memory.open(url, embedder=embedder, weigher=WEIGHER, flush_every=4, **how)


def fill(url: str, **how: Any) -> None:
    with open_memory(url, **how) as memory:
        for number in range(12):
            teach(memory, number, text=f"answer {number}")
        teach(memory, 1, user="bob")
        memory.undo("c-ada3", user="ada")


@pytest.fixture
def kept(url: str) -> str:
    """The URL of a closed memory of two users, with a snapshot."""
    fill(url)
    assert rows(url)
    return url


def sql(url: str, statement: str, **values: object) -> Any:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        found = connection.execute(sa.text(statement), values)
        return [tuple(row) for row in found] if found.returns_rows else None


def rows(url: str) -> list[tuple[str, int, bytes]]:
    if not sa.inspect(sa.create_engine(url, poolclass=sa.NullPool)).has_table("snapshots"):
        return []
    found = sql(url, "SELECT name, part, data FROM snapshots ORDER BY name, part")
    return [(name, part, bytes(data)) for name, part, data in found]


def written(memory: Memory) -> bool:
    """Whether it began with a snapshot."""
    return isinstance(memory._snapshot, TableSnapshot)


def asleep(memory: Memory) -> list[str]:
    users = memory.state.users
    return [user for user in users if isinstance(users, Users) and users.asleep(user)]


def test_the_memory_is_the_same_with_it_and_without(kept: str) -> None:
    embedder = Counting()
    with open_memory(kept, embedder) as memory:
        assert written(memory)
        assert asleep(memory) == ["ada", "bob"]
        assert near(memory, "question number 1", user="bob") == ["Ask."]
        assert asleep(memory) == ["ada"]
        assert near(memory, "question number 7") == ["answer 7"]
        assert_consistent(memory)
    assert embedder.count == 0, "vectors come from the snapshot"


def test_what_came_after_it_is_folded_on_top(kept: str) -> None:
    with open_memory(kept, snapshot_every=1000) as memory:
        teach(memory, 20, text="later")
        memory.undo("c-ada5", user="ada")
        teach(memory, 1, user="eve")
    with open_memory(kept, snapshot_every=1000) as memory:
        assert written(memory)
        assert near(memory, "question number 20") == ["later"]
        assert near(memory, "question number 1", user="eve") == ["Ask."]
        assert_consistent(memory)


def test_the_next_one_keeps_what_nobody_asked_for_and_brings_the_rest(kept: str) -> None:
    before = {name for name, _, _ in rows(kept)}
    with open_memory(kept) as memory:
        for number in range(30, 42):
            teach(memory, number)
        assert asleep(memory) == ["bob"]
    after = {name for name, _, _ in rows(kept)}
    assert len(before) == len(after) == 3, "two users and the contents"
    assert len(before & after) == 1, "bob's"
    with open_memory(kept) as memory:
        assert written(memory)
        assert_consistent(memory)


def test_who_has_no_vector_is_read_from_it_too(url: str) -> None:
    with open_memory(url) as memory:
        for number in range(6):
            teach(memory, number)
            memory.learn(rule(f"rule {number}", user="bob", id=f"rule{number}"))
    with open_memory(url) as memory:
        assert [r.answer for r in memory.records(user="bob")][:2] == ["rule 0", "rule 1"]
        assert asleep(memory) == ["ada"]
        assert_consistent(memory)


def harmed(url: str, harm: str) -> None:
    told = sql(url, "SELECT value FROM manifest WHERE key = 'snapshot'")[0][0]
    contents = json.loads(told)["name"]
    if harm == "manifest":
        sql(url, "UPDATE manifest SET value = '{' WHERE key = 'snapshot'")
    elif harm == "no contents":
        sql(url, "DELETE FROM snapshots WHERE name = :name", name=contents)
    elif harm == "no user":
        sql(url, "DELETE FROM snapshots WHERE name != :name", name=contents)
    else:
        for name, part, data in rows(url):
            kind = "contents" if name == contents else "vectors" if part == 0 else "state"
            if kind == harm:
                turned = bytes([data[0] ^ 1, *data[1:]]) if kind != "state" else data[:-1] + b"?"
                sql(
                    url,
                    "UPDATE snapshots SET data = :data WHERE name = :name AND part = :part",
                    data=turned,
                    name=name,
                    part=part,
                )


@pytest.mark.parametrize(
    "harm", ["manifest", "no contents", "no user", "contents", "vectors", "state"]
)
def test_a_damaged_one_is_as_good_as_none(kept: str, harm: str) -> None:
    harmed(kept, harm)
    with open_memory(kept) as memory:
        assert near(memory, "question number 7") == ["answer 7"]
        assert_consistent(memory)
        for number in range(30, 42):
            teach(memory, number)
    with open_memory(kept) as memory:
        assert_consistent(memory)


def test_another_cap_or_embedder_or_code_does_not_read_it(
    kept: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with open_memory(kept, cap=2) as memory:
        assert not written(memory)
        assert_consistent(memory)
    with open_memory(kept, HashEmbedder(48, id="other")) as memory:
        assert_consistent(memory)
    with monkeypatch.context() as patch:
        patch.setattr("tta.memory.cache.code", lambda *_: "of tomorrow")
        with open_memory(kept) as memory:
            assert not written(memory)
            assert_consistent(memory)
        with open_memory(kept) as memory:
            assert written(memory), "of the code of tomorrow, though nothing came since"
    with caplog.at_level(logging.WARNING, "tta"), open_memory(kept, Retrained()) as memory:
        assert_consistent(memory)


def test_an_embedder_that_changed_under_its_name_embeds_all_again(
    kept: str, caplog: pytest.LogCaptureFixture
) -> None:
    other = Retrained()
    with caplog.at_level(logging.WARNING, "tta"), open_memory(kept, other) as memory:
        found = memory.vectors(memory.records(user="bob"))
        assert np.array_equal(found[0], other.embed(["question number 1"])[0])
        assert_consistent(memory)
    assert "other vectors than before" in caplog.text


def test_one_who_holds_an_older_one_reads_on_when_it_was_replaced(kept: str) -> None:
    with open_memory(kept, snapshot_every=1000) as older:
        with open_memory(kept) as newer:
            for number in range(30, 42):
                teach(newer, number, text="newer")
            near(newer, "question number 1", user="bob")
        assert asleep(older) == ["ada", "bob"], "and both are elsewhere by now"
        assert near(older, "question number 1", user="bob") == ["Ask."]
        assert near(older, "question number 7") == ["answer 7"]
        assert len(older.records(user="ada")) == 2 * 11, "what came since is not read yet"
        older.sync()
        assert near(older, "question number 30") == ["newer"]
        assert_consistent(older)


def test_nobody_who_holds_an_older_one_brings_back_whom_another_has_forgotten(kept: str) -> None:
    with open_memory(kept) as older:
        with open_memory(kept) as other:
            other.forget("ada")
        assert rows(kept) == []
        assert near(older, "question number 7") == []
        assert older.records(user="ada") == ()
        for number in range(30, 42):
            teach(older, number, user="bob")
        assert list(older.users()) == ["bob"]
        assert_consistent(older)
    with open_memory(kept) as memory:
        assert list(memory.users()) == ["bob"]
        assert_consistent(memory)
    assert not any(b"question number 7" in data for _, _, data in rows(kept))


@pytest.mark.parametrize("awake", [False, True])
def test_what_was_promoted_because_a_forgotten_one_agreed_is_gone_for_everyone(
    url: str, awake: bool
) -> None:
    with open_memory(url) as memory:
        for user in AMONG:
            for number in range(3):
                teach(memory, number, user=user, text=f"said by {number}")
        teach(memory, 9, user="bob", text="of bob")
        teach(memory, 9, user="eve", text="of eve")
        memory.promote(to="team", among=AMONG, at_least=2)
        memory.promote(to="others", among=("bob", "eve"), at_least=1)
    with open_memory(url) as older:
        assert written(older)
        if awake:
            assert len(older.records(user="team")) == 3
        with open_memory(url) as other:
            assert other.forget("ada")
            assert asleep(other) == ["bob", "eve", "others"], "nobody else is woken for that"
            assert_consistent(other)
        older.sync()
        assert "eve" in asleep(older)
        assert "team" not in older.users()
        assert older.records(user="team") == ()
        assert len(older.records(user="others")) > 0
        assert_consistent(older)


def test_forgetting_leaves_no_byte_of_the_user(kept: str, tmp_path: Path) -> None:
    text, vector = b"question number 7", EMBED.embed(["question number 7"])[0].tobytes()
    assert any(text in data for _, _, data in rows(kept))
    assert any(vector in data for _, _, data in rows(kept))
    with Memory.open(kept, embedder=None) as memory:
        memory.forget("ada")
    assert rows(kept) == []
    assert sql(kept, "SELECT value FROM manifest WHERE key = 'snapshot'") == []
    assert files_holding(tmp_path, text) == files_holding(tmp_path, vector) == []
    with open_memory(kept) as memory:
        for number in range(100, 112):
            teach(memory, number, user="bob")
    assert rows(kept)
    assert not any(text in data for _, _, data in rows(kept))


def test_whoever_is_forgotten_while_it_is_written_is_not_in_it(
    kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snaptable, "_ROWS", 1)
    with open_memory(kept, snapshot_every=1000) as memory, closing(Journal.open(kept)) as other:
        for number in range(100, 112):
            teach(memory, number, user="bob", text="newer")
        near(memory, "question number 7")
        assert memory._follower.index is not None
        halves = list(memory._written(memory._follower.index))

        def users() -> Iterator[Written]:
            yield halves[0]
            yield halves[1]
            other.erase("ada")
            yield from halves

        assert memory._cache is not None
        memory._cache.write(memory._journal, users(), seq=memory._seq)
        assert rows(kept) == []


def test_a_writer_who_was_overtaken_leaves_the_newer_one_and_nothing_of_its_own(
    kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snaptable, "_ROWS", 1)
    with open_memory(kept, snapshot_every=1000) as slow:
        teach(slow, 50)
        assert slow._follower.index is not None
        parts = list(slow._written(slow._follower.index))

        def users() -> Iterator[Written]:
            yield from parts
            with open_memory(kept) as fast:
                for number in range(30, 42):
                    teach(fast, number)
                near(fast, "question number 1", user="bob")

        assert slow._cache is not None
        slow._cache.write(slow._journal, users(), seq=slow._seq)
    assert len({name for name, _, _ in rows(kept)}) == 3, "two users and the contents"
    with open_memory(kept) as memory:
        assert written(memory)
        assert_consistent(memory)


def test_a_writer_who_is_overtaken_before_it_cleans_up_deletes_nothing_of_the_newer_one(
    kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = TablePlace._sweep

    def late(place: TablePlace, *how: Any, **named: Any) -> None:
        monkeypatch.setattr(TablePlace, "_sweep", sweep)
        with open_memory(kept) as fast:
            for number in range(30, 42):
                teach(fast, number)
        sweep(place, *how, **named)

    with open_memory(kept) as slow:
        for number in range(50, 60):
            teach(slow, number)
        monkeypatch.setattr(TablePlace, "_sweep", late)
    with open_memory(kept) as memory:
        assert written(memory)
        assert near(memory, "question number 35") == ["Ask."]
        assert memory._follower.index is not None
        assert not memory._follower._doubted
        assert_consistent(memory)


def test_what_a_killed_writer_leaves_goes_with_the_next_one_and_with_forgetting(
    kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snaptable, "_ROWS", 1)

    def killed(memory: Memory) -> None:
        index = memory._follower.index
        assert index is not None
        assert memory._cache is not None

        def users() -> Iterator[Written]:
            yield from memory._written(index)
            raise KeyboardInterrupt

        near(memory, "question number 7")
        with pytest.raises(KeyboardInterrupt):
            memory._cache.write(memory._journal, users(), seq=memory._seq)

    with open_memory(kept) as memory:
        teach(memory, 50)
        killed(memory)
        assert len({name for name, _, _ in rows(kept)}) > 3
        for number in range(30, 42):
            teach(memory, number)
    assert len({name for name, _, _ in rows(kept)}) == 3
    with open_memory(kept) as memory:
        assert written(memory)
        assert_consistent(memory)
        teach(memory, 51)
        killed(memory)
        memory.forget("ada")
        assert rows(kept) == []


def test_a_journal_with_one_is_of_a_format_that_an_older_tta_refuses(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_memory(url, snapshot_every=1000) as memory:
        teach(memory, 99)
        assert memory._journal.setting("format") == str(FORMAT)
    assert rows(url) == []
    fill(url)
    with open_memory(url) as memory:
        assert memory._journal.setting("format") == str(NEWEST)
        assert_consistent(memory)
    monkeypatch.setattr("tta.memory.journal.NEWEST", FORMAT)
    with pytest.raises(errors.NewerFormat):
        Journal.open(url)


def test_one_that_an_older_tta_left_when_it_forgot_is_deleted_when_that_is_read(kept: str) -> None:
    """It was open before the journal's format was raised."""
    told = sql(kept, "SELECT value FROM manifest WHERE key = 'snapshot'")[0][0]
    left = rows(kept)
    with closing(Journal.open(kept)) as journal:
        journal.erase("ada")
    sql(kept, "INSERT INTO manifest VALUES (:key, :told)", key=SNAPSHOT, told=told)
    for name, part, data in left:
        sql(kept, "INSERT INTO snapshots VALUES (:n, :p, :d)", n=name, p=part, d=data)
    with open_memory(kept, snapshot_every=1000) as memory:
        assert rows(kept) == []
        assert list(memory.users()) == ["bob"]
        assert_consistent(memory)


def test_a_journal_in_ram_keeps_none() -> None:
    with open_memory("sqlite://", snapshot_every=1) as memory:
        teach(memory)
        assert memory._cache is None
        assert_consistent(memory)


def test_a_folders_journal_has_no_such_table_and_keeps_its_format(tmp_path: Path) -> None:
    fill(str(tmp_path / "m"))
    assert (tmp_path / "m" / "snapshot.bin").exists()
    journal = f"sqlite:///{tmp_path / 'm' / 'journal.sqlite'}"
    assert rows(journal) == []
    assert sql(journal, "SELECT value FROM manifest WHERE key = 'format'") == [(str(FORMAT),)]


def test_a_journal_that_can_only_be_read_is_read_with_it(tmp_path: Path) -> None:
    path = tmp_path / "shared.db"
    fill(f"sqlite:///{path}")
    only = f"sqlite:///file:{path}?mode=ro&uri=true"
    with open_memory(only, snapshot_every=0) as memory:
        assert written(memory)
        assert near(memory, "question number 7") == ["answer 7"]
        with pytest.raises(errors.StoreReadOnly):
            teach(memory, 60)


@pytest.mark.parametrize("seed", range(4))
def test_three_who_open_close_teach_and_forget_at_random_know_the_same(
    url: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snaptable, "_ROWS", 2)
    draw = random.Random(seed)
    count = 0
    with ExitStack() as stack:
        at: list[Memory | None] = [None, None, None]
        for step in range(120):
            who = draw.randrange(3)
            memory = at[who]
            if memory is None:
                memory = at[who] = stack.enter_context(open_memory(url, snapshot_every=3))
            user = draw.choice(["ada", "bob", "eve", "team"])
            what = draw.choices(["teach", "ask", "undo", "forget", "promote", "close"],
                                [8, 6, 2, 1, 1, 4])[0]  # fmt: skip
            if what == "teach":
                count += 1
                teach(memory, count, user=user, text=f"answer {count % 3}")
            elif what == "ask":
                found = near(memory, f"question number {draw.randrange(count + 1)}", user=user)
                assert len(found) <= 1
            elif what == "undo":
                known = [r for r in memory.records(user=user) if r.source.startswith("c-")]
                if memory.sync() == 0 and known:
                    memory.undo(draw.choice(known).source, user=user)
            elif what == "forget":
                memory.forget(user)
            elif what == "promote":
                memory.promote(to="team", among=("ada", "bob", "eve"), at_least=1)
            else:
                memory.close()
                at[who] = None
            if step % 10 == 0 and at[who] is not None:
                memory.sync()
                assert_consistent(memory)
        for memory in at:
            if memory is not None:
                memory.sync()
                assert_consistent(memory)
