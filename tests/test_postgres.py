"""The journal in a real PostgreSQL, and two processes that share a memory through it.

Skipped where there is no server program or no driver: `.ci/run` installs both.
"""

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from memories import answered, assert_consistent, correction, note, rating, rule
from postgres_server import database, free_port
from shared_child import EMBED, nearest, teach
from test_two_processes import Colleague, chroma_server

from benchmarks import memory as benchmark
from benchmarks.places import disk, fresh
from tta import errors
from tta.memory import Memory
from tta.memory.chroma import Chroma
from tta.memory.journal import Journal
from tta.types import Event


@pytest.fixture
def url(cluster: str) -> str:
    """A database of the test's own."""
    return database(cluster)


def events(journal: Journal) -> list[Event]:
    return [event for _, event in journal.since(0)]


def test_events_come_back_as_they_were_and_in_order(url: str) -> None:
    about = answered(request="שלום 🙂")
    told = [
        about,
        correction(about, "Ask."),
        note(about, "a note"),
        rating(about, 1),
        rule("Short."),
    ]
    journal = Journal.open(url)
    assert [journal.append(event) for event in told] == [True] * 5
    assert journal.append(told[1]) is False
    assert events(journal) == told
    journal.close()
    again = Journal.open(url)
    assert events(again) == told
    again.close()


def test_what_cannot_be_written_is_refused_whole(url: str) -> None:
    journal = Journal.open(url)
    about = answered()
    journal.append(about)
    with pytest.raises(errors.UnknownResponse):
        journal.append_all([correction(about, "Ask."), correction(answered("r9"), "No.", "c9")])
    with pytest.raises(errors.WrongUser):
        journal.append(correction(answered(user="bob"), "Ask."))
    journal.append(correction(about, "Ask."))
    with pytest.raises(errors.ConflictingId):
        journal.append(correction(about, "Wait."))
    assert [event.id for event in events(journal)] == ["r1", "c1"]
    journal.close()


def test_an_erased_user_leaves_a_tombstone_and_no_row(url: str) -> None:
    journal = Journal.open(url)
    for event in (answered(), correction(answered(), "plover egg"), answered("r2", user="bob")):
        journal.append(event)
    assert journal.erase("ada") == 2
    assert [(event.user, event.kind) for event in events(journal)] == [
        ("bob", "answered"),
        ("ada", "forgotten"),
    ]
    with journal._engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT body FROM events").scalars().all()
    assert not any("plover" in row for row in rows)
    journal.close()


def test_numbers_appear_in_the_order_of_commits(url: str) -> None:
    """Who tails by number misses nothing that a slower writer commits later."""
    writers = [Journal.open(url) for _ in range(4)]
    reader, seq = Journal.open(url), 0
    seen: list[str] = []

    def write(number: int) -> None:
        for n in range(25):
            writers[number].append(answered(f"r{number}-{n}"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    writing = True
    while writing:
        writing = any(thread.is_alive() for thread in threads)
        for number, event in reader.since(seq):
            seen.append(event.id)
            seq = number
    assert len(seen) == len(set(seen)) == 100
    for journal in (*writers, reader):
        journal.close()


def test_two_processes_share_a_memory_through_it_and_a_chroma_server(
    url: str, tmp_path: Path
) -> None:
    with (
        chroma_server(tmp_path / "chroma") as server,
        Memory.open(url, embedder=EMBED, index=server) as memory,
        Colleague(url, server) as colleague,
    ):
        teach(memory, "r1", "is it red", "yes", "ada")
        assert colleague("nearest", "is it red", "ada") == ["yes"]
        colleague("teach", "r2", "is it blue", "no", "ada")
        assert nearest(memory, "is it blue", "ada") == ["no"]
        memory.undo("c-r2", user="ada")
        assert colleague("forget", "ada") == 5
        assert nearest(memory, "is it red", "ada") == []
        assert_consistent(memory)


def test_the_benchmark_of_memory_measures_through_servers_and_leaves_nothing(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "TIMES", 5)
    monkeypatch.setattr(benchmark, "SECONDS", 0.1)
    with chroma_server(tmp_path / "chroma") as server, closing(Chroma(server)) as chroma:
        with fresh(journal=cluster + "postgres", index=server) as place:
            found: dict[str, Any] = {**benchmark.fill(place, 100, 2)}
            assert len(chroma.collections("tta-")) == 2
            assert disk(place)["journal"] > 100 * 500
            found |= benchmark.measure(place, 100, 2) | benchmark.reopen(place)
        assert chroma.collections("tta-") == {}
    assert found["found"] == 1.0
    assert found["threads ms"]["recalls"] > 0
    measured = {"fill s", "open s", "recall ms", "learn ms", "sync ms", "record ms", "rebuild s"}
    assert measured <= found.keys()
    with pytest.raises(errors.StoreError, match="does not exist"):
        Journal.open(place.where)


def test_a_server_that_is_not_there_is_named(cluster: str) -> None:
    with pytest.raises(errors.StoreError, match=r"database failed|refused"):
        Journal.open(f"postgresql+psycopg://tta@127.0.0.1:{free_port()}/none")
    with pytest.raises(errors.StoreError):
        Journal.open(cluster + "there_is_no_such_database")


def test_without_a_password_in_any_message(cluster: str) -> None:
    where = cluster.replace("tta@", "tta:secret@") + "there_is_no_such_database"
    with pytest.raises(errors.StoreError) as caught:
        Journal.open(where)
    assert "secret" not in str(caught.value)
