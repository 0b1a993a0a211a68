"""Vectors in RAM and in a real Chroma: exact search, durability, and files that forget."""

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from memories import files_holding
from numpy.typing import NDArray

from tta import errors
from tta.memory.index import ChromaIndex, MemoryIndex
from tta.memory.shelf import Place

DIM = 32


def vectors(count: int, seed: int = 0) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    lengths: NDArray[np.float32] = np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn / lengths


def ids(count: int, start: int = 0) -> list[str]:
    return [f"id{i}" for i in range(start, start + count)]


def places(count: int, start: int = 0, *, label: str = "t") -> list[Place]:
    return [Place("case", label, rank) for rank in range(start, start + count)]


def put(
    index: MemoryIndex | ChromaIndex, user: str, names: list[str], held: NDArray[np.float32]
) -> None:
    """On one shelf, each with the number in its name for its rank."""
    where = [Place("case", "t", int(re.sub(r"\D", "", name) or 0)) for name in names]
    index.put(user, names, held, where)


def search(
    index: MemoryIndex | ChromaIndex, user: str, vector: NDArray[np.float32], k: int
) -> Sequence[tuple[str, float]]:
    return index.search(user, vector, k, shelf="case")


def by_name(_: str, name: str) -> Place | None:
    """Where what `put` has put belongs."""
    return Place("case", "t", int(name[2:])) if name.startswith("id") else None


def chroma(folder: Path, *, embedder: str = "e", flush_every: int = 8) -> ChromaIndex:
    return ChromaIndex(
        folder / "index",
        memory="m",
        embedder=embedder,
        dim=DIM,
        place=by_name,
        flush_every=flush_every,
    )


@pytest.fixture(params=["ram", "chroma"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MemoryIndex | ChromaIndex]:
    made = MemoryIndex(DIM) if request.param == "ram" else chroma(tmp_path)
    yield made
    made.close()


def test_the_nearest_are_found_best_first(index: MemoryIndex | ChromaIndex) -> None:
    held = vectors(50)
    put(index, "ada", ids(50), held)
    found = search(index, "ada", held[7], 5)
    best = np.argsort(-(held @ held[7]))[:5]
    assert [name for name, _ in found] == [f"id{i}" for i in best]
    assert [score for _, score in found] == pytest.approx((held @ held[7])[best], abs=1e-5)


def test_only_the_shelf_and_the_labels_asked_for_are_searched(
    index: MemoryIndex | ChromaIndex,
) -> None:
    held = vectors(50)
    index.put("ada", ids(20), held[:20], places(20, label="one"))
    index.put("ada", ids(20, 20), held[20:40], places(20, 20, label="two"))
    index.put("ada", ids(10, 40), held[40:], [Place("rejected", "one", i) for i in range(10)])

    def found(shelf: str, *labels: str) -> set[str]:
        chosen = index.search("ada", held[7], 50, shelf=shelf, labels=labels or None)
        return {name for name, _ in chosen}

    assert found("case", "one") == set(ids(20))
    assert found("case", "one", "two", "three") == found("case") == set(ids(40))
    assert found("rejected", "one") == set(ids(10, 40))
    assert found("case", "three") == found("note") == set()
    assert len(search(index, "ada", held[7], 0)) == 0


def test_vectors_come_back_in_the_order_of_the_ids(index: MemoryIndex | ChromaIndex) -> None:
    held = vectors(60)
    put(index, "ada", ids(50), held[:50])
    index.put("ada", ids(10, 50), held[50:], [Place("note", "t", i) for i in range(10)])
    index.remove("ada", ["id4"])
    found = index.vectors("ada", ["id55", "id3", "unknown", "id4", "id20"])
    assert np.array_equal(found, np.stack([held[55], held[3], 0 * held[0], 0 * held[0], held[20]]))
    assert not index.vectors("eve", ["id3"]).any()
    assert index.vectors("ada", []).shape == (0, DIM)


def test_a_user_finds_only_what_is_theirs(index: MemoryIndex | ChromaIndex) -> None:
    held = vectors(30)
    put(index, "ada", ["a"], held[:1])
    put(index, "bob", ids(30), held)
    assert [name for name, _ in search(index, "ada", held[5], 10)] == ["a"]
    assert len(search(index, "eve", held[5], 10)) == 0
    assert list(index.known("eve")) == []


def test_what_is_removed_is_not_found_and_the_rest_is(index: MemoryIndex | ChromaIndex) -> None:
    held = vectors(50)
    put(index, "ada", ids(50), held)
    index.remove("ada", ["id7", "id49", "never there"])
    assert set(index.known("ada")) == set(ids(50)) - {"id7", "id49"}
    for i in (0, 8, 48):
        assert search(index, "ada", held[i], 1)[0][0] == f"id{i}"
    assert "id7" not in [name for name, _ in search(index, "ada", held[7], 48)]


def test_a_new_vector_of_a_known_id_replaces_the_old(index: MemoryIndex | ChromaIndex) -> None:
    held = vectors(30)
    put(index, "ada", ids(20), held[:20])
    put(index, "ada", ["id3"], held[25:26])
    name, score = search(index, "ada", held[25], 1)[0]
    assert (name, score > 0.9999) == ("id3", True)
    assert len(index.known("ada")) == 20


def test_a_dropped_user_is_gone_and_may_come_back(index: MemoryIndex | ChromaIndex) -> None:
    held = vectors(30)
    put(index, "ada", ids(20), held[:20])
    put(index, "bob", ids(20), held[:20])
    index.drop("ada")
    index.drop("never seen")
    assert list(index.known("ada")) == []
    assert len(search(index, "bob", held[0], 3)) == 3
    put(index, "ada", ["new"], held[:1])
    assert [name for name, _ in search(index, "ada", held[0], 3)] == ["new"]


def test_keeping_some_users_drops_the_others(index: MemoryIndex | ChromaIndex) -> None:
    for user in ("ada", "bob"):
        put(index, user, ids(20), vectors(20))
    index.flush()
    index.keep(["bob"])
    if isinstance(index, ChromaIndex):
        index.release("ada")
    assert list(index.known("ada")) == []
    assert len(index.known("bob")) == 20


def test_of_equal_ones_the_lower_rank_comes_first_wherever_they_lie() -> None:
    held = np.repeat(vectors(1), 40, axis=0)
    plain, shuffled = MemoryIndex(DIM), MemoryIndex(DIM)
    put(plain, "ada", ids(20, 20), held[20:])
    put(shuffled, "ada", ids(40)[::-1], held)
    shuffled.remove("ada", ids(20))
    put(shuffled, "ada", ["id5"], held[:1])
    shuffled.remove("ada", ["id5"])
    found = search(shuffled, "ada", held[0], 7)
    assert [name for name, _ in found] == ids(7, 20)
    assert found == search(plain, "ada", held[0], 7)


def test_the_search_does_not_depend_on_what_was_removed_before() -> None:
    held = vectors(200)
    plain, shuffled = MemoryIndex(DIM), MemoryIndex(DIM)
    put(plain, "ada", ids(100, 100), held[100:])
    put(shuffled, "ada", ids(200), held)
    shuffled.remove("ada", ids(100))
    assert search(plain, "ada", held[0], 100) == search(shuffled, "ada", held[0], 100)


# ------------------------------------------------------------------------- Chroma's files


def test_vectors_are_exactly_the_same_after_reopening(tmp_path: Path) -> None:
    held = vectors(30)
    with_all = chroma(tmp_path)
    put(with_all, "ada", ids(30), held)
    before = search(with_all, "ada", held[3], 30)
    with_all.close()
    again = chroma(tmp_path)
    assert set(again.known("ada")) == set(ids(30))
    assert search(again, "ada", held[3], 30) == before
    assert np.array_equal(again.vectors("ada", ids(30)), held)
    again.close()


def test_what_has_no_place_is_known_but_not_found(tmp_path: Path) -> None:
    index = chroma(tmp_path)
    put(index, "ada", ["id0", "stray1"], vectors(2))
    index.close()
    again = chroma(tmp_path)
    assert set(again.known("ada")) == {"id0", "stray1"}
    assert [name for name, _ in search(again, "ada", vectors(2)[1], 5)] == ["id0"]
    again.remove("ada", ["stray1"])
    assert list(again.known("ada")) == ["id0"]
    again.close()


def test_removals_are_durable_too(tmp_path: Path) -> None:
    index = chroma(tmp_path)
    put(index, "ada", ids(30), vectors(30))
    index.remove("ada", ids(10))
    index.close()
    again = chroma(tmp_path)
    assert set(again.known("ada")) == set(ids(20, 10))
    again.close()


def test_more_than_a_page_is_read_back(tmp_path: Path) -> None:
    index = chroma(tmp_path)
    put(index, "ada", ids(2500), vectors(2500))
    index.close()
    again = chroma(tmp_path)
    assert len(again.known("ada")) == 2500
    assert search(again, "ada", vectors(2500)[2400], 1)[0][0] == "id2400"
    again.close()


def test_writes_are_batched(tmp_path: Path) -> None:
    index = chroma(tmp_path, flush_every=8)
    name = index._name("ada")
    put(index, "ada", ids(7), vectors(7))
    assert list(index._client.read(name)) == []
    put(index, "ada", ["id7"], vectors(1))
    index._settle()
    assert len(next(index._client.read(name))[0]) == 8
    index.close()


def test_what_could_not_be_written_is_tried_again_and_newer_changes_win(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = chroma(tmp_path, flush_every=8)

    def full(*_: object) -> None:
        raise errors.StoreError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(index._client, "write", full)
        put(index, "ada", ids(8), vectors(8))
        with pytest.raises(errors.StoreError, match="no space"):
            index.flush()
    assert "tried again" in caplog.text
    index.remove("ada", ["id3"])
    put(index, "ada", ["id5"], vectors(9)[8:])
    index.close()
    again = chroma(tmp_path)
    assert set(again.known("ada")) == set(ids(8)) - {"id3"}
    assert np.array_equal(again.vectors("ada", ["id5", "id6"]), vectors(9)[[8, 6]])
    again.close()


def test_a_mistake_in_the_writing_thread_is_not_swallowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = chroma(tmp_path, flush_every=8)

    def wrong(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(index._client, "write", wrong)
        put(index, "ada", ids(8), vectors(8))
        with pytest.raises(ZeroDivisionError):
            index.flush()
    index.close()
    again = chroma(tmp_path)
    assert set(again.known("ada")) == set(ids(8))
    again.close()


def test_with_many_vectors_chroma_is_let_go_of_after_each_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tta.memory.index._LARGE", 20)
    index = chroma(tmp_path)
    put(index, "ada", ids(16), vectors(16))
    index.flush()
    assert index._client._client is not None
    put(index, "ada", ids(16, 16), vectors(16, seed=1))
    index.flush()
    assert index._client._client is None
    with pytest.raises(errors.IndexInUse):
        chroma(tmp_path)
    put(index, "ada", ["id2"], vectors(1, seed=2))
    index.remove("ada", ["id9"])
    index.close()
    again = chroma(tmp_path)
    assert set(again.known("ada")) == set(ids(32)) - {"id9"}
    assert np.array_equal(again.vectors("ada", ["id2"]), vectors(1, seed=2))
    again.close()


def test_dropping_a_user_leaves_no_byte_of_their_vectors(tmp_path: Path) -> None:
    # More than a thousand: Chroma then also writes its HNSW files.
    adas, bobs = vectors(2200, seed=1), vectors(50, seed=2)
    index = chroma(tmp_path)
    for start in range(0, 2200, 50):
        put(index, "ada", ids(50, start), adas[start : start + 50])
    put(index, "bob", ids(50), bobs)
    index.flush()
    probes = [adas[i].tobytes() for i in (0, 500, 1500, 2199)]
    assert any(files_holding(tmp_path, probe) for probe in probes)
    index.drop("ada")
    for probe in probes:
        assert files_holding(tmp_path, probe) == []
    assert files_holding(tmp_path, bobs[3].tobytes())
    assert search(index, "bob", bobs[3], 1)[0][0] == "id3"
    index.close()


def test_a_scrubbing_that_was_cut_off_is_finished_at_the_next_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = vectors(20)
    index = chroma(tmp_path)
    put(index, "ada", ids(20), held)
    index.flush()

    def killed(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tta.memory.chroma.scrub", killed)
        with pytest.raises(KeyboardInterrupt):
            index.drop("ada")
    index.close()
    assert any(files_holding(tmp_path, row.tobytes()) for row in held)
    chroma(tmp_path).close()
    assert not any(files_holding(tmp_path, row.tobytes()) for row in held)


def test_no_text_reaches_the_index_not_even_the_users_name(tmp_path: Path) -> None:
    index = chroma(tmp_path)
    put(index, "ada lovelace", ids(20), vectors(20))
    index.close()
    assert files_holding(tmp_path, b"lovelace") == []


def test_a_second_opening_of_the_embedded_index_names_the_way_out(tmp_path: Path) -> None:
    first = chroma(tmp_path)
    with pytest.raises(errors.IndexInUse, match=r"chroma run.*index=.*--index"):
        chroma(tmp_path)
    first.close()
    chroma(tmp_path).close()


def test_another_embedder_empties_the_index_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = chroma(tmp_path, embedder="old")
    put(first, "ada", ids(20), vectors(20))
    first.close()
    with caplog.at_level(logging.WARNING):
        second = chroma(tmp_path, embedder="new")
    assert "old" in caplog.text
    assert "new" in caplog.text
    assert list(second.known("ada")) == []
    second.close()


def test_a_damaged_index_is_begun_anew_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = chroma(tmp_path)
    put(first, "ada", ids(20), vectors(20))
    first.close()
    (tmp_path / "index" / "chroma.sqlite3").write_bytes(b"no database" * 1000)
    with caplog.at_level(logging.WARNING):
        second = chroma(tmp_path)
    assert "damaged" in caplog.text
    assert list(second.known("ada")) == []
    put(second, "ada", ids(20), vectors(20))
    assert len(search(second, "ada", vectors(1)[0], 3)) == 3
    second.close()


def test_a_closed_index_says_so(tmp_path: Path) -> None:
    index = chroma(tmp_path)
    index.close()
    index.close()
    with pytest.raises(errors.StoreClosed):
        put(index, "ada", ids(1), vectors(1))


def test_no_server_there_is_named() -> None:
    with pytest.raises(errors.StoreError, match="chroma run"):
        ChromaIndex("http://127.0.0.1:9", memory="m", embedder="e", dim=DIM, place=by_name)


def test_no_garbage_of_the_heap_stays_in_chromas_files(tmp_path: Path) -> None:
    """Chroma writes unused places of its files as malloc gave them."""
    for number in range(5):
        index = chroma(tmp_path / str(number), flush_every=2)
        put(index, "ada", ids(30), vectors(30, seed=number))
        put(index, "bob", ["id0"], vectors(1, seed=99))
        put(index, "eve", ["id0"], vectors(1, seed=98))
        index.close()
        data = [path.read_bytes() for path in (tmp_path / str(number)).rglob("data_level0.bin")]
        assert len(data) == 3
        assert not any(any(held) for held in data), "so few vectors are in the write-ahead log only"
