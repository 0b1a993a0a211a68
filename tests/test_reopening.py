"""A memory that is closed and opened again: all is there, or the way out is said."""

import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from memories import (
    EMBED,
    WEIGHER,
    answered,
    assert_consistent,
    correction,
    near,
    note,
    rule,
    teach,
)

from tta import errors
from tta.memory import Memory
from tta.memory.chroma import _GRAPH
from tta.memory.journal import FORMAT
from tta.testing import HashEmbedder
from tta.types import RecordKind


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "m.tta"


def test_all_is_there_after_reopening(folder: Path) -> None:
    with Memory.open(folder, embedder=EMBED) as memory:
        about = teach(memory)
        memory.learn(note(about, "a note"))
        memory.learn(rule("Be brief."))
        state, patterns = memory.state, memory.sightings(user="ada")
    with Memory.open(str(folder), embedder=EMBED, create=False) as memory:
        assert memory.state == state
        assert memory.sightings(user="ada") == patterns
        assert near(memory, "question number 1") == ["Ask."]
        assert_consistent(memory)


def test_without_an_embedder_all_but_searching_works(folder: Path) -> None:
    with Memory.open(folder, embedder=None) as memory:
        teach(memory, 1)
        teach(memory, 2)
        memory.undo("c-ada2", user="ada")
        assert len(memory.records(user="ada")) == 2
        with pytest.raises(errors.InvalidSetting, match="embedder"):
            near(memory, "question number 1")
        with pytest.raises(errors.InvalidSetting, match="embedder"):
            memory.rebuild()
    with Memory.open(folder, embedder=EMBED) as memory:
        assert near(memory, "question number 1", k=9) == ["Ask."]


def test_a_lost_index_is_made_again(folder: Path) -> None:
    import shutil

    with Memory.open(folder, embedder=EMBED) as memory:
        teach(memory)
    shutil.rmtree(folder / "index")
    with Memory.open(folder, embedder=EMBED) as memory:
        assert near(memory, "question number 1") == ["Ask."]


def test_an_index_damaged_inside_is_made_again_loudly(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Memory.open(folder, embedder=EMBED) as memory:
        teach(memory)
    with sqlite3.connect(folder / "index" / "chroma.sqlite3") as db:
        db.execute("DROP TABLE embeddings")
    db.close()
    with (
        caplog.at_level(logging.WARNING, "tta"),
        Memory.open(folder, embedder=EMBED) as memory,
    ):
        assert near(memory, "question number 1") == ["Ask."]
        assert_consistent(memory)
    assert "made anew" in caplog.text


@pytest.mark.parametrize("size", [0, 20, 50])
@pytest.mark.parametrize("vectors_in", ["the queue", "the graph"])
@pytest.mark.parametrize("erasing", [False, True])
def test_a_header_cut_off_by_a_kill_costs_nothing(
    folder: Path, size: int, vectors_in: str, erasing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if vectors_in == "the graph":
        monkeypatch.setitem(_GRAPH, "sync_threshold", 2)
    with Memory.open(folder, embedder=EMBED, flush_every=2) as memory:
        teach(memory)
    (header,) = (folder / "index").glob("*/header.bin")
    assert header.with_name("index_metadata.pickle").exists() == (vectors_in == "the graph")
    header.write_bytes(header.read_bytes()[:size])
    if erasing:
        (folder / "index.scrub").touch()
    for _ in range(2):
        with Memory.open(folder, embedder=EMBED) as memory:
            assert near(memory, "question number 1") == ["Ask."]
            assert_consistent(memory)


def test_another_embedder_embeds_all_again_and_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Memory.open(folder, embedder=EMBED) as memory:
        teach(memory)
    other = HashEmbedder(48, id="other")
    with (
        caplog.at_level(logging.WARNING, "tta"),
        Memory.open(folder, embedder=other) as memory,
    ):
        assert_consistent(memory)
        vector = other.embed(["question number 1"])[0]
        found = memory.nearest(vector, 1, user="ada", task="t", kind=RecordKind.CASE)
        assert found[0][1] == pytest.approx(1.0)
    assert "other-48" in caplog.text


class Faulty(HashEmbedder):
    """Embeds, until it is told to fail."""

    broken = False

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        if self.broken:
            raise errors.ModelError("the embedder is out of order")
        return super().embed(texts)


def test_feedback_that_cannot_be_embedded_is_not_written(folder: Path) -> None:
    faulty = Faulty()
    with Memory.open(folder, embedder=faulty) as memory:
        about = answered()
        memory.record(about)
        faulty.broken = True
        with pytest.raises(errors.ModelError):
            memory.learn(correction(about, "Ask."))
        assert [e.id for e in memory.events()] == ["r1"]
        faulty.broken = False
        assert memory.learn(correction(about, "Ask.")).added
        assert_consistent(memory)


def test_a_second_opening_gets_the_journal_but_not_the_index(folder: Path) -> None:
    with Memory.open(folder, embedder=EMBED) as memory:
        teach(memory)
        with pytest.raises(errors.IndexInUse, match="chroma run"):
            Memory.open(folder, embedder=EMBED)
        with Memory.open(folder, embedder=None) as other:
            assert len(other.records(user="ada")) == 2
            with pytest.raises(errors.IndexInUse):
                other.forget("ada")
            assert len(list(other.events())) == 2, "erased before it was refused"
            other.undo("c-ada1", user="ada")
        assert memory.sync() == 1
        assert near(memory, "question number 1") == []
        assert_consistent(memory)


def test_a_memory_that_is_not_there_is_not_made_unless_asked(folder: Path) -> None:
    with pytest.raises(errors.CorruptStore, match=r"no memory at .*m\.tta"):
        Memory.open(folder, embedder=None, create=False)
    assert not folder.exists()


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    with pytest.raises(errors.CorruptStore, match="is a file"):
        Memory.open(tmp_path / "file", embedder=None)
    with pytest.raises(errors.StoreReadOnly):
        Memory.open(tmp_path / "file" / "below", embedder=None)


def test_a_newer_memory_is_refused(folder: Path) -> None:
    with Memory.open(folder, embedder=None) as memory:
        memory._journal.set("format", "99")
    with pytest.raises(errors.NewerFormat):
        Memory.open(folder, embedder=EMBED)


def test_an_index_that_is_no_address_is_refused(folder: Path) -> None:
    with pytest.raises(errors.InvalidSetting):
        Memory.open(folder, embedder=EMBED, index="localhost")


@pytest.mark.parametrize("pragma", ["max_page_count=1", "query_only=1"])
def test_a_store_that_cannot_be_written_loses_nothing(folder: Path, pragma: str) -> None:
    name, value = pragma.split("=")
    error = errors.StoreFull if name == "max_page_count" else errors.StoreReadOnly
    with Memory.open(folder, embedder=EMBED) as memory:
        about = teach(memory)
        with memory._journal._engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA {name}={value}")
        with pytest.raises(error):
            memory.learn(correction(about, "x" * 1_000_000, "c2"))
        assert near(memory, "question number 1") == ["Ask."]
        assert_consistent(memory)
    with Memory.open(folder, embedder=EMBED) as memory:
        assert_consistent(memory)
        assert len(list(memory.events())) == 2


class Retrained(HashEmbedder):
    """Has the id of another embedder, and other vectors."""

    @property
    def id(self) -> str:
        return EMBED.id

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return super().embed([f"{text} {text[::-1]}" for text in texts])


@pytest.mark.parametrize("snapshot_every", [1, 1000])
def test_an_embedder_that_changed_under_its_name_embeds_all_again_and_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture, snapshot_every: int
) -> None:
    def opened(embedder: HashEmbedder) -> Memory:
        return Memory.open(
            folder, embedder=embedder, weigher=WEIGHER, snapshot_every=snapshot_every
        )

    with opened(EMBED) as memory:
        teach(memory)
    other = Retrained()
    with caplog.at_level(logging.WARNING, "tta"), opened(other) as memory:
        found = memory.vectors(memory.records(user="ada"))
        assert np.array_equal(found[0], other.embed(["question number 1"])[0])
        assert_consistent(memory)
    assert "other vectors than before" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "tta"), opened(other) as memory:
        assert_consistent(memory)
    assert caplog.text == ""


@pytest.mark.parametrize("older", ["1", "2"])
def test_a_memory_of_an_older_format_is_read_and_no_older_tta_opens_it_again(
    folder: Path, older: str
) -> None:
    with Memory.open(folder, embedder=EMBED) as memory:
        teach(memory)
        memory._journal.set("format", older)
    with Memory.open(folder, embedder=EMBED) as memory:
        assert near(memory, "question number 1") == ["Ask."]
        assert memory._journal.setting("format") == str(FORMAT)


def test_another_model_is_told_of_and_what_was_taught_stays(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Memory.open(folder, embedder=EMBED) as memory:
        memory.answered_by("one")
        teach(memory)
    with caplog.at_level(logging.WARNING, "tta"), Memory.open(folder, embedder=EMBED) as memory:
        memory.answered_by("one")
        assert caplog.text == ""
        memory.answered_by("two")
        assert near(memory, "question number 1") == ["Ask."]
    assert "'one'" in caplog.text
    assert "'two'" in caplog.text
