"""Opening from a snapshot: the same memory, and never a wrong one."""

import logging
import pickle
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memories import WEIGHER, answered, assert_consistent, correction, files_holding, rating
from numpy.typing import NDArray

from tta.memory import Memory
from tta.memory.snapfile import FileSnapshot
from tta.memory.snapshot import _Unpickler, code
from tta.testing import HashEmbedder
from tta.types import Event, RecordKind

EMBED = HashEmbedder()


class Counting(HashEmbedder):
    """Knows how many requests it has embedded (an opening embeds a text of its own)."""

    count = 0

    def embed(self, texts: Sequence[str]) -> NDArray[np.floating[Any]]:
        self.count += sum("question" in text for text in texts)
        return super().embed(texts)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "m.tta"


def open_memory(folder: Path, embedder: HashEmbedder = EMBED, *, cap: int | None = None) -> Memory:
    return Memory.open(
        folder, embedder=embedder, weigher=WEIGHER, cap=cap, flush_every=4, snapshot_every=10
    )


def teach(memory: Memory, number: int, *, user: str = "ada", text: str = "Ask.") -> Event:
    about = answered(
        f"{user}{number}",
        user=user,
        request=f"question number {number}",
        experts=("frozen", "kernel"),
        margin=0.5,
    )
    memory.record(about)
    memory.learn(correction(about, text, f"c-{user}{number}"))
    return about


@pytest.fixture
def kept(folder: Path) -> Path:
    """A closed memory of two users, with a snapshot."""
    with open_memory(folder) as memory:
        for number in range(12):
            teach(memory, number, text=f"answer {number}")
        teach(memory, 1, user="bob")
        memory.undo("c-ada3", user="ada")
    assert (folder / "snapshot.bin").exists()
    return folder


def near(memory: Memory, text: str, user: str = "ada") -> list[str]:
    found = memory.nearest(EMBED.embed([text])[0], 1, user=user, task="t", kind=RecordKind.CASE)
    return [record.answer for record, _ in found]


def refolded(folder: Path) -> Memory:
    """The memory of a copy without the snapshot."""
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    (copy / "snapshot.bin").unlink()
    return open_memory(copy)


def test_the_memory_is_the_same_with_it_and_without(kept: Path) -> None:
    embedder = Counting()
    with refolded(kept) as plain, open_memory(kept, embedder) as memory:
        assert list(memory.users()) == ["ada", "bob"]
        assert near(memory, "question number 7") == ["answer 7"]
        assert memory.state == plain.state
        assert_consistent(memory)
    assert embedder.count == 0, "vectors come from the snapshot"


def test_users_are_not_read_before_they_are_asked_for(kept: Path) -> None:
    with open_memory(kept) as memory:
        assert near(memory, "question number 1", "bob") == ["Ask."]
        held = memory.state.users._held  # type: ignore[attr-defined]
        assert held["ada"] is None
        assert held["bob"] is not None


def test_what_came_after_it_is_folded_on_top(kept: Path) -> None:
    shutil.copy(kept / "snapshot.bin", kept.with_name("old"))
    with open_memory(kept) as memory:
        about = teach(memory, 20, text="later")
        memory.learn(rating(about, -1.0, "g1"))
        memory.undo("c-ada5", user="ada")
        teach(memory, 1, user="eve")
    shutil.copy(kept.with_name("old"), kept / "snapshot.bin")
    with refolded(kept) as plain, open_memory(kept) as memory:
        assert near(memory, "question number 20") == ["later"]
        assert near(memory, "question number 1", "eve") == ["Ask."]
        assert memory.state == plain.state
        assert_consistent(memory)


def test_chroma_is_not_opened_before_it_is_written_to(kept: Path) -> None:
    (kept / "index" / "chroma.sqlite3").write_bytes(b"no database" * 1000)
    with open_memory(kept) as memory:
        assert near(memory, "question number 7") == ["answer 7"]


@pytest.mark.parametrize("harm", ["lost", "another file", "a table gone", "older"])
def test_an_index_that_lacks_what_the_snapshot_says_is_put_right(
    kept: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    index = kept / "index"
    if harm == "lost":
        shutil.rmtree(index)
    elif harm == "another file":
        (index / "chroma.sqlite3").write_bytes(b"no database" * 1000)
    elif harm == "a table gone":
        with sqlite3.connect(index / "chroma.sqlite3") as db:
            db.execute("DROP TABLE embeddings")
        db.close()
    else:
        with open_memory(kept) as memory:
            shutil.copytree(index, kept.with_name("older"))
            for number in range(30, 42):
                teach(memory, number)
        shutil.rmtree(index)
        shutil.copytree(kept.with_name("older"), index)
    embedder = Counting()
    with caplog.at_level(logging.WARNING, "tta"), open_memory(kept, embedder) as memory:
        for number in range(50, 54):
            teach(memory, number)
    assert embedder.count == 4 * 1, "only what is new is embedded"
    (kept / "snapshot.bin").unlink()
    again = Counting()
    with open_memory(kept, again) as memory:
        assert_consistent(memory)
    assert again.count == 0, "Chroma held every vector"


@pytest.mark.parametrize("place", ["head", "state", "vectors", "contents", "end"])
def test_a_damaged_snapshot_is_as_good_as_none(kept: Path, place: str) -> None:
    path = kept / "snapshot.bin"
    data = bytearray(path.read_bytes())
    at = {
        "head": 2,
        "state": 40,
        "vectors": data.index(EMBED.embed(["question number 7"]).tobytes()) + 8,
        "contents": data.rindex(b'"users"'),
        "end": len(data) - 3,
    }[place]
    data[at] ^= 1
    path.write_bytes(data)
    assert FileSnapshot.open(path) is None
    with open_memory(kept) as memory:
        assert near(memory, "question number 7") == ["answer 7"]
        assert_consistent(memory)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_torn_snapshot_is_as_good_as_none(kept: Path, length: int) -> None:
    path = kept / "snapshot.bin"
    path.write_bytes(path.read_bytes()[:length])
    with open_memory(kept) as memory:
        assert near(memory, "question number 7") == ["answer 7"]
        assert_consistent(memory)


def test_another_journal_or_cap_or_embedder_does_not_read_it(kept: Path, folder: Path) -> None:
    other = folder.with_name("other")
    with open_memory(other) as memory:
        for number in range(30):
            teach(memory, number, text="of the other")
    shutil.copy(kept / "snapshot.bin", other / "snapshot.bin")
    with open_memory(other) as memory:
        assert near(memory, "question number 7") == ["of the other"]
        assert_consistent(memory)
    with open_memory(kept, cap=2) as memory:
        assert len(memory.records(user="ada", kind=RecordKind.CASE)) == 2
        assert_consistent(memory)
    with open_memory(kept, HashEmbedder(48, id="other")) as memory:
        assert_consistent(memory)


def test_a_journal_from_a_backup_does_not_read_it(kept: Path) -> None:
    """Its past is another, even where it is as long."""
    backup = kept.with_name("backup.sqlite")
    with open_memory(kept) as memory:
        memory._journal._engine.dispose()
        shutil.copy(kept / "journal.sqlite", backup)
        for number in range(60, 80):
            teach(memory, number, text="lost")
    for path in kept.glob("journal.sqlite*"):
        path.unlink()
    shutil.copy(backup, kept / "journal.sqlite")
    with Memory.open(kept, embedder=None) as journal_only:
        for number in range(60, 80):
            teach(journal_only, number, text="of another life")
    with open_memory(kept) as memory:
        assert near(memory, "question number 65") == ["of another life"]
        assert_consistent(memory)


@pytest.mark.parametrize("module", ["memory.fold", "decoding.mixture", "decoding.pool"])
def test_whatever_moves_the_weights_is_code_that_folds(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, other = code(WEIGHER), tmp_path / "other.py"
    other.write_text("of tomorrow")
    monkeypatch.setattr(f"tta.{module}.__file__", str(other))
    assert code(WEIGHER) != before


def test_other_code_does_not_read_it(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("tta.memory.cache.code", lambda *_: "of tomorrow")
        with open_memory(kept) as memory:
            assert memory._snapshot is None
            assert_consistent(memory)


def test_forgetting_leaves_no_byte_of_the_user_in_it(kept: Path) -> None:
    vector = EMBED.embed(["question number 7"])[0].tobytes()
    assert files_holding(kept, b"question number 7")
    with open_memory(kept) as memory:
        memory.forget("ada")
        assert files_holding(kept, b"question number 7") == []
        assert files_holding(kept, vector) == []
        assert near(memory, "question number 1", "bob") == ["Ask."]
        for number in range(12):
            teach(memory, 100 + number, user="bob")
    assert (kept / "snapshot.bin").exists()
    assert files_holding(kept, b"question number 7") == []
    with open_memory(kept) as memory:
        assert list(memory.users()) == ["bob"]
        assert_consistent(memory)


def test_forgetting_beside_an_open_memory_is_not_brought_back_by_its_closing(kept: Path) -> None:
    """The other process closes after the forgetting, with the user still in its hands."""
    with Memory.open(kept, embedder=None) as journal_only:
        memory = open_memory(kept)
        for number in range(12):
            teach(memory, 200 + number)
        # The embedded index is open elsewhere, so the journal alone is told.
        journal_only._journal.erase("ada")
        memory.close()
    assert files_holding(kept, b"question number 7") == []
    with open_memory(kept) as memory:
        assert list(memory.users()) == ["bob"]
        assert_consistent(memory)


def test_vectors_that_were_taken_out_may_be_changed_and_it_still_holds_them(kept: Path) -> None:
    before = (kept / "snapshot.bin").read_bytes()
    snapshot = FileSnapshot.open(kept / "snapshot.bin")
    assert snapshot is not None
    user = next(iter(snapshot.users()))
    _, held = snapshot.load(user)
    old = held.rows.copy()
    held.rows[:] = 0.0
    assert old.any()
    assert np.array_equal(snapshot.held(user).rows, old)
    assert snapshot.held(user).ids == held.ids
    assert (kept / "snapshot.bin").read_bytes() == before


def test_nothing_but_values_can_be_made_from_one() -> None:
    import io

    for bad in (print, shutil.rmtree, pickle.loads, Memory, eval):
        with pytest.raises(pickle.UnpicklingError):
            _Unpickler(io.BytesIO(pickle.dumps(bad))).load()
