"""The journal against real SQLite: durability, identity, erasure, and every way it can fail."""

import dataclasses
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from memories import answered, correction, files_holding, rule

from tta import errors
from tta.memory import database
from tta.memory.journal import Journal
from tta.types import Event, EventKind


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'journal.sqlite'}"


@pytest.fixture
def journal(url: str) -> Iterator[Journal]:
    journal = Journal.open(url, timeout=0.1)
    yield journal
    journal.close()


def events(journal: Journal) -> list[Event]:
    return [event for _, event in journal.since(0)]


def test_events_come_back_as_they_were_and_in_order(journal: Journal) -> None:
    written = [answered(), correction(answered(), "Ask."), rule("Be brief.")]
    assert [journal.append(event) for event in written] == [True, True, True]
    assert events(journal) == written
    assert [seq for seq, _ in journal.since(1)] == [2, 3]
    assert journal.get("c1") == written[1]
    assert journal.get("nothing") is None


def test_events_are_there_after_the_process_is_gone(url: str) -> None:
    first = Journal.open(url)
    first.append(answered())
    # Not closed: a second connection sees only what is durable.
    second = Journal.open(url)
    assert [e.id for e in events(second)] == ["r1"]
    first.close()
    second.close()


def test_feedback_waits_for_the_disk_and_an_answer_does_not(url: str) -> None:
    full, normal = 2, 1
    engine = database.connect(url, 5.0)
    seen: list[int] = []

    def note(connection: sqlite3.Connection, *_: object) -> None:
        seen.append(connection.execute("PRAGMA synchronous").fetchone()[0])

    journal = Journal(engine)
    journal._prepare()
    sa.event.listen(engine, "checkin", note)
    journal.append(answered())
    after_answer = seen[-1]
    journal.append(correction(answered(), "Ask."))
    assert (after_answer, seen[-1]) == (normal, full)
    journal.close()


def test_more_events_than_a_page_are_all_read(journal: Journal) -> None:
    journal.append_all([answered(f"r{i}") for i in range(2001)])
    assert [e.id for e in events(journal)] == [f"r{i}" for i in range(2001)]


def test_what_is_written_alone_is_told_as_it_will_be_read(journal: Journal) -> None:
    first, second = (
        answered("r1"),
        dataclasses.replace(answered("r2"), body={**answered().body, "n": (1, 2)}),
    )
    assert journal.append_all([first, answered("r0")]).alone == ()
    written = journal.append_all([second])
    assert (written.fresh, list(written.alone)) == (1, list(journal.since(2)))
    assert journal.append_all([second]) == (0, ())
    # Of two of which one is known, too.
    mixed = journal.append_all([second, correction(second, "Ask.")])
    assert (mixed.fresh, list(mixed.alone)) == (1, list(journal.since(3)))


def test_one_users_events_are_read_without_the_others(journal: Journal) -> None:
    journal.append(answered("r1", user="ada"))
    journal.append(answered("r2", user="bob"))
    assert [event.id for _, event in journal.since(0, user="bob")] == ["r2"]


def test_the_same_event_twice_is_one_event(journal: Journal) -> None:
    event = answered()
    assert journal.append(event)
    assert not journal.append(event)
    assert not journal.append(dataclasses.replace(event, time=event.time + 5))
    assert events(journal) == [event]


def test_the_same_id_with_other_content_is_refused(journal: Journal) -> None:
    event = answered()
    journal.append(event)
    with pytest.raises(errors.ConflictingId):
        journal.append(dataclasses.replace(event, user="bob"))
    assert events(journal) == [event]


def test_feedback_of_an_unknown_response_is_refused(journal: Journal) -> None:
    with pytest.raises(errors.UnknownResponse, match="'r1'"):
        journal.append(correction(answered("r1"), "Ask."))
    assert events(journal) == []


def test_feedback_of_another_users_response_is_refused(journal: Journal) -> None:
    journal.append(answered("r1", user="ada"))
    with pytest.raises(errors.WrongUser):
        journal.append(correction(answered("r1", user="bob"), "Ask."))
    assert len(events(journal)) == 1


def test_all_events_of_a_batch_are_written_or_none(journal: Journal) -> None:
    with pytest.raises(errors.UnknownResponse):
        journal.append_all([answered("r1"), correction(answered("r2"), "Ask.")])
    assert events(journal) == []


@pytest.mark.parametrize(
    "text", ["nul \0 inside", "שלום עליכם", "🙂\u202e x", "line\nline", "x" * 1_000_000]
)
def test_any_text_that_utf8_can_write_survives(journal: Journal, text: str) -> None:
    event = answered(request=text, user=text[:20], task=text[:20])
    journal.append(event)
    journal.append(correction(event, text))
    assert events(journal)[1].body["text"] == text
    assert [e.user for _, e in journal.since(0, user=text[:20])] == [text[:20]] * 2


@pytest.mark.parametrize("field", ["user", "task", "id", "response"])
def test_a_lone_surrogate_is_refused_before_anything_is_written(
    journal: Journal, field: str
) -> None:
    with pytest.raises(errors.InvalidText, match=f"{field} holds a lone surrogate"):
        journal.append(dataclasses.replace(answered(), **{field: "a\ud800"}))  # type: ignore[arg-type]
    assert events(journal) == []


def test_a_lone_surrogate_deep_in_the_body_is_refused(journal: Journal) -> None:
    body = {**answered().body, "messages": [{"role": "user", "content": "\udfff"}]}
    with pytest.raises(errors.InvalidText, match=r"body\.messages\.content"):
        journal.append(dataclasses.replace(answered(), body=body))


@pytest.mark.parametrize(
    "event",
    [
        rule(" "),
        rule("Be brief.", user=""),
        correction(answered(), ""),
    ],
)
def test_empty_texts_are_refused(journal: Journal, event: Event) -> None:
    journal.append(answered())
    with pytest.raises(errors.InvalidText):
        journal.append(event)


@pytest.mark.parametrize("value", [2.0, -1.1, float("nan"), True, "1", None])
def test_a_reward_out_of_range_is_refused(journal: Journal, value: object) -> None:
    about = answered()
    journal.append(about)
    bad = Event(
        kind=EventKind.RATING,
        user="ada",
        response="r1",
        body={**about.body, "value": value},  # type: ignore[dict-item]
    )
    with pytest.raises(errors.InvalidSetting):
        journal.append(bad)


def test_an_event_that_a_fold_could_not_read_is_refused(journal: Journal) -> None:
    with pytest.raises(errors.InvalidSetting, match="'text'"):
        journal.append(Event(kind=EventKind.RULE, user="ada", body={}))
    with pytest.raises(errors.InvalidSetting, match="JSON"):
        journal.append(dataclasses.replace(answered(), body={**answered().body, "x": {1, 2}}))  # type: ignore[dict-item]


def test_erasing_leaves_no_byte_of_the_text_in_any_file(journal: Journal, tmp_path: Path) -> None:
    secret, kept = "my secret is plover", "bob's own words"
    for number in range(50):
        journal.append(answered(f"r{number}", request=f"{secret} {number}" * 20))
    journal.append(answered("b1", user="bob", request=kept))
    assert files_holding(tmp_path, secret.encode())
    assert journal.erase("ada") == 50
    assert files_holding(tmp_path, secret.encode()) == []
    assert files_holding(tmp_path, kept.encode())
    left = events(journal)
    assert [e.kind for e in left] == [EventKind.ANSWERED, EventKind.FORGOTTEN]
    assert left[1].user == "ada"
    assert left[1].body == {"events": 50}


def test_a_sequence_number_is_never_used_again_after_an_erasure(journal: Journal) -> None:
    journal.append(answered("r1"))
    journal.append(answered("r2"))
    journal.erase("ada")
    assert [seq for seq, _ in journal.since(0)] == [3]


def test_an_erasure_that_was_cut_off_is_finished_at_the_next_opening(
    journal: Journal, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.append(answered(request="plover plover plover"))

    def killed(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(database, "compact", killed)
        with pytest.raises(KeyboardInterrupt):
            journal.erase("ada")
    journal.close()
    again = Journal.open(url)
    assert files_holding(tmp_path, b"plover") == []
    assert again.setting("erasing") is None
    again.close()


def test_an_erasure_that_a_reader_blocks_says_so_and_can_be_repeated(
    journal: Journal, tmp_path: Path
) -> None:
    journal.append(answered(request="plover"))
    reader = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM events").fetchall()
    with pytest.raises(errors.StoreLocked):
        journal.erase("ada")
    reader.close()
    assert journal.erase("ada") == 1  # the first erasure's tombstone
    assert files_holding(tmp_path, b"plover") == []


def test_an_erasure_succeeds_while_other_threads_read(journal: Journal, tmp_path: Path) -> None:
    over = threading.Event()
    failed: list[BaseException] = []

    def read() -> None:
        try:
            while not over.is_set():
                events(journal)
                journal.get("b1")
        except BaseException as problem:
            failed.append(problem)

    journal.append(answered("b1", user="bob"))
    readers = [threading.Thread(target=read) for _ in range(6)]
    for reader in readers:
        reader.start()
    for round in range(5):
        for number in range(40):
            journal.append(answered(f"r{round}-{number}", request="plover " * 50))
        assert journal.erase("ada") >= 40
        assert files_holding(tmp_path, b"plover") == []
    over.set()
    for reader in readers:
        reader.join()
    assert failed == []
    assert [event.id for event in events(journal) if event.user == "bob"] == ["b1"]


def test_a_thread_reads_while_another_writes(journal: Journal) -> None:
    journal.append(answered("r1"))
    found: list[Event] = []
    reader = threading.Thread(target=lambda: found.extend(events(journal)), daemon=True)
    with journal.while_nobody_is_forgotten(0):
        reader.start()
        reader.join(60)
        assert [event.id for event in found] == ["r1"]


# ------------------------------------------------------------------------- when it fails


def test_more_readers_than_connections_are_told_so(url: str) -> None:
    engine = sa.create_engine(url, pool_size=1, max_overflow=0, pool_timeout=0.01)
    journal = Journal(engine)
    with engine.connect(), pytest.raises(errors.StoreError, match="QueuePool"):
        journal.get("r1")
    journal.close()


def test_a_locked_journal_is_named_so_and_loses_nothing(journal: Journal, tmp_path: Path) -> None:
    journal.append(answered("r1"))
    other = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(errors.StoreLocked):
        journal.append(answered("r2"))
    assert [e.id for e in events(journal)] == ["r1"]  # reading goes on
    other.execute("ROLLBACK")
    other.close()
    assert journal.append(answered("r2"))


def test_a_full_disk_is_named_so_and_loses_nothing(journal: Journal) -> None:
    journal.append(answered("r1"))
    with journal._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(errors.StoreFull):
        journal.append(answered("r2", request="x" * 100_000))
    assert [e.id for e in events(journal)] == ["r1"]
    with journal._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")
    assert journal.append(answered("r2", request="x" * 100_000))


def test_a_journal_that_may_not_be_written_can_be_read(journal: Journal, url: str) -> None:
    journal.append(answered("r1"))
    path = url.removeprefix("sqlite:///")
    reader = Journal.open(f"sqlite:///file:{path}?mode=ro&uri=true")
    assert [e.id for e in events(reader)] == ["r1"]
    with pytest.raises(errors.StoreReadOnly):
        reader.append(answered("r2"))
    with pytest.raises(errors.StoreReadOnly):
        reader.erase("ada")
    assert [e.id for e in events(reader)] == ["r1"]
    reader.close()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.StoreReadOnly, match="nowhere"):
        Journal.open(f"sqlite:///{tmp_path / 'nowhere' / 'journal.sqlite'}")


def test_a_file_that_is_no_database_is_called_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"this is a text, and no database at all\n" * 100)
    with pytest.raises(errors.CorruptStore):
        Journal.open(f"sqlite:///{path}")
    assert path.read_bytes().startswith(b"this is a text")


def test_a_damaged_page_is_called_corrupt(url: str, tmp_path: Path) -> None:
    journal = Journal.open(url)
    journal.append_all([answered(f"r{i}", request="x" * 2000) for i in range(50)])
    journal.close()
    path = tmp_path / "journal.sqlite"
    whole = bytearray(path.read_bytes())
    whole[4096:] = b"\xff" * (len(whole) - 4096)
    path.write_bytes(whole)
    with pytest.raises(errors.CorruptStore):
        Journal.open(url)


def test_a_newer_format_is_refused_and_left_alone(journal: Journal, url: str) -> None:
    journal.append(answered())
    journal.set("format", "99")
    with pytest.raises(errors.NewerFormat) as caught:
        Journal.open(url)
    assert caught.value.value == 99
    assert len(events(journal)) == 1


def test_a_manifest_without_a_format_is_called_corrupt(journal: Journal, url: str) -> None:
    journal.set("format", "banana")
    with pytest.raises(errors.CorruptStore):
        Journal.open(url)


def test_a_damaged_body_is_called_corrupt(journal: Journal, tmp_path: Path) -> None:
    journal.append(answered())
    other = sqlite3.connect(tmp_path / "journal.sqlite")
    other.execute("UPDATE events SET body = ?", (json.dumps({"a": 1})[:-3],))
    other.commit()
    other.close()
    with pytest.raises(errors.CorruptStore, match="'r1'"):
        journal.get("r1")


def test_a_closed_journal_says_so(journal: Journal) -> None:
    journal.close()
    journal.close()
    with pytest.raises(errors.StoreClosed):
        journal.append(answered())
    with pytest.raises(errors.StoreClosed):
        list(journal.since(0))


@pytest.mark.parametrize("bad", ["no url at all", "klingon://host/db", "postgresql+nodriver://h/d"])
def test_a_url_that_cannot_be_used_is_named(bad: str) -> None:
    with pytest.raises(errors.InvalidSetting):
        Journal.open(bad)


def test_a_journal_in_ram_is_its_own() -> None:
    one, two = Journal.open(database.IN_MEMORY), Journal.open(database.IN_MEMORY)
    one.append(answered())
    assert len(events(one)) == 1
    assert events(two) == []
    one.close()
    two.close()
