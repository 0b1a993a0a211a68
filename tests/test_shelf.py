"""One shelf against brute force: the sketch saves reading, and changes nothing that is found."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tta.memory.shelf import Place, Shelf
from tta.memory.sketch import Cells, Rows

DIM = 64
Vectors = NDArray[np.float32]


def clustered(count: int, seed: int = 0, *, clusters: int = 30, noise: float = 0.5) -> Vectors:
    """Unit vectors around a few directions of a low-dimensional space, as sentences lie."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(clusters, 12)) @ random.normal(size=(12, DIM))
    drawn = centres[random.integers(clusters, size=count)]
    drawn = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    drawn = drawn + noise * random.normal(size=drawn.shape) / np.sqrt(DIM)
    unit: Vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return unit


def label(number: int) -> str:
    return f"label {number % 3}"


def place(number: int) -> Place:
    return Place("", label(number), number)


def filled(held: Vectors, numbers: Sequence[int], *, sketched_from: int, step: int = 100) -> Shelf:
    """A shelf with the vectors of `numbers`; a vector's number is its name and its rank."""
    shelf = Shelf(DIM, sketched_from=sketched_from)
    for start in range(0, len(numbers), step):
        some = list(numbers[start : start + step])
        shelf.put([str(n) for n in some], held[some], [place(n) for n in some])
    return shelf


def best(held: Vectors, numbers: Sequence[int], vector: Vectors, k: int) -> list[int]:
    """Brute force: by score, then by rank."""
    scores = {n: float(np.vecdot(held[n], vector)) for n in numbers}
    return sorted(numbers, key=lambda n: (-scores[n], n))[:k]


def names(found: Sequence[tuple[str, float]]) -> list[int]:
    return [int(name) for name, _ in found]


@pytest.mark.parametrize("count", [10, 1500, 5000])
@pytest.mark.parametrize("sketched_from", [1200, 10**9])
def test_the_search_is_brute_force_with_a_sketch_and_without(
    count: int, sketched_from: int
) -> None:
    held = clustered(count + 20)
    shelf = filled(held, range(count), sketched_from=sketched_from)
    for query in held[count:]:
        found = shelf.search(query, 64)
        assert names(found) == best(held, range(count), query, 64)
        assert [s for _, s in found] == pytest.approx(
            [float(held[n] @ query) for n in names(found)]
        )


@pytest.mark.parametrize("labels", [["label 1"], ["label 0", "label 2"], ["label 1", "unknown"]])
def test_the_search_of_some_labels_is_brute_force_too(labels: list[str]) -> None:
    held = clustered(6000)
    shelf = filled(held, range(6000), sketched_from=1200)
    numbers = [n for n in range(6000) if label(n) in labels]
    for query in clustered(10, seed=1):
        assert names(shelf.search(query, 64, labels)) == best(held, numbers, query, 64)
        assert names(shelf.search(query, 64)) == best(held, range(6000), query, 64)
    assert shelf.search(held[0], 64, ["unknown"]) == []


@pytest.mark.parametrize("sketched_from", [1200, 10**9])
@pytest.mark.parametrize("labels", [None, ["label 1"]])
@pytest.mark.parametrize(("lost", "more"), [(1, 1), (7, 400), (2, 2000)])
def test_what_was_read_of_a_shelf_beside_changes_nothing_that_is_found(
    sketched_from: int, labels: list[str] | None, lost: int, more: int
) -> None:
    held = clustered(6000)
    numbers = [n for n in range(4000) if lost == 1 or n % lost] + list(range(6000 - more, 6000))
    beside = filled(held, range(4000), sketched_from=sketched_from)
    shelf = filled(held, numbers, sketched_from=sketched_from)
    alone = filled(held, numbers, sketched_from=sketched_from)
    for round_, query in enumerate(clustered(12, seed=1)):
        beside.search(query, 64)
        found = shelf.search(query, 64, labels, beside=beside)
        among = [n for n in numbers if labels is None or label(n) in labels]
        assert names(found) == best(held, among, query, 64)
        assert found == alone.search(query, 64, labels)
        gone, new = numbers.pop(), 4000 + round_
        if new not in numbers and new != gone:
            numbers.append(new)
        for one in (shelf, alone):
            one.remove(str(gone))
            one.put([str(numbers[-1])], held[[numbers[-1]]], [place(numbers[-1])])
        beside.put([str(new)], held[[new]], [place(new)])


def test_what_was_read_beside_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    held, read = clustered(3000), list[int]()
    beside = filled(held, range(3000), sketched_from=10**9)
    shelf = filled(held, range(1500, 3000), sketched_from=10**9)
    real = Rows.dot

    def dot(self: Rows, vector: Vectors, count: int) -> Vectors:
        read.append(count)
        return real(self, vector, count)

    monkeypatch.setattr(Rows, "dot", dot)
    beside.search(held[0], 9)
    found = shelf.search(held[0], 9, beside=beside)
    assert read == [3000]
    beside.put(["1500"], held[[0]], [place(1500)])
    assert shelf.search(held[1], 9, beside=beside) == shelf.search(held[1], 9)
    assert read == [3000, 1500]  # of another vector nothing was read beside
    assert names(found) == best(held, range(1500, 3000), held[0], 9)


@pytest.mark.parametrize("sketched_from", [1200, 10**9])
def test_what_was_read_is_forgotten_when_something_is_put_or_removed(sketched_from: int) -> None:
    held, others = clustered(3001), list(range(1, 3000))
    beside = filled(held, others, sketched_from=sketched_from)
    shelf = filled(held, others, sketched_from=sketched_from)
    query = held[3000]
    there = set(others)
    for number in (best(held, others, query, 1)[0], 7, 0):
        for one in (beside, shelf):
            one.search(query, 9, beside=beside)
            one.remove(str(number))
        there.discard(number)
        for among in (shelf, beside):
            found = among.search(query, 9, beside=beside)
            assert names(found) == best(held, sorted(there), query, 9)
        held[number] = query  # it comes back as the nearest
        for one in (beside, shelf):
            one.put([str(number)], held[[number]], [place(number)])
        there.add(number)
        for among in (shelf, beside):
            found = among.search(query, 9, beside=beside)
            assert names(found) == best(held, sorted(there), query, 9)


def test_a_vector_that_changed_its_contents_in_place_is_another() -> None:
    held = clustered(3000)
    shelf = filled(held, range(2998), sketched_from=10**9)
    query = held[2998].copy()
    shelf.search(query, 9)
    query[:] = held[2999]
    assert names(shelf.search(query, 9)) == best(held, range(2998), held[2999], 9)


def test_the_sketch_is_read_and_leaves_most_rows_alone() -> None:
    held = clustered(5000)
    shelf = filled(held, range(5000), sketched_from=1200)
    left = [len(shelf._candidates(query, 64, None)) for query in clustered(10, seed=1)]
    assert shelf._sketch is not None
    assert max(left) < 1250


def test_vectors_of_no_structure_are_found_too() -> None:
    drawn = np.random.default_rng(0).normal(size=(3000, DIM)).astype(np.float32)
    held: Vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    shelf = filled(held, range(2990), sketched_from=1200)
    for query in held[2990:]:
        assert names(shelf.search(query, 64)) == best(held, range(2990), query, 64)


def test_what_was_put_and_removed_before_does_not_show() -> None:
    held = clustered(4000)
    left = [n for n in range(4000) if n % 4]
    plain = filled(held, left, sketched_from=1200, step=4000)
    order = [int(n) for n in np.random.default_rng(0).permutation(4000)]
    shuffled = filled(held, order, sketched_from=1200, step=37)
    for n in range(0, 4000, 4):
        shuffled.remove(str(n))
    for query in clustered(20, seed=1):
        assert shuffled.search(query, 64) == plain.search(query, 64)
        assert names(plain.search(query, 64)) == best(held, left, query, 64)
    assert plain._sketch is not None
    assert shuffled._sketch is not None


def test_more_equal_ones_than_asked_for_come_in_the_order_of_their_ranks() -> None:
    held = np.concatenate([np.repeat(clustered(1), 3000, axis=0), clustered(1000, seed=1)])
    order = [int(n) for n in np.random.default_rng(0).permutation(4000)]
    shelf = filled(held, order, sketched_from=1200)
    assert names(shelf.search(held[0], 64)) == list(range(64))


def test_a_shelf_that_was_emptied_can_be_filled_again() -> None:
    held = clustered(3000)
    shelf = filled(held, range(1500), sketched_from=1200)
    for n in range(1500):
        shelf.remove(str(n))
    assert shelf.search(held[0], 5) == []
    assert not any(part.any() for part in shelf.matrix.parts(1500))
    shelf.put(["1"], held[1:2], [Place("", "new", 1)])
    assert names(shelf.search(held[0], 5)) == [1]
    assert names(shelf.search(held[0], 5, ["new"])) == [1]


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(0, 3)), max_size=60),
    st.integers(1, 8),
)
def test_any_puts_and_removals_leave_what_brute_force_finds(
    steps: list[tuple[bool, int, int]], k: int
) -> None:
    # Few directions, so that scores tie all the time.
    directions = np.eye(4, 8, dtype=np.float32)
    shelf, held = Shelf(8, sketched_from=5), dict[int, int]()
    for keep, number, direction in steps:
        if keep:
            held[number] = direction
            place = Place("", label(number), number)
            shelf.put([str(number)], directions[direction][None], [place])
        else:
            held.pop(number, None)
            shelf.remove(str(number))
    query = np.full(8, 0.5, np.float32) * [1, 1, 2, 3, 0, 0, 0, 0]
    for labels in (None, ["label 1"]):
        among = [n for n in held if labels is None or label(n) in labels]
        wanted = sorted(among, key=lambda n: (-float(directions[held[n]] @ query), n))
        assert names(shelf.search(query, k, labels)) == wanted[:k]


def celled(held: Vectors, numbers: Sequence[int], *, limit: int = 3000) -> Shelf:
    shelf = Shelf(DIM, sketched_from=1200, exact_limit=limit)
    for start in range(0, len(numbers), 500):
        some = list(numbers[start : start + 500])
        shelf.put([str(n) for n in some], held[some], [Place("", label(n), n) for n in some])
    return shelf


def share(shelf: Shelf, held: Vectors, numbers: Sequence[int], labels: list[str] | None) -> float:
    """How much of the 20 best is found."""
    among = [n for n in numbers if labels is None or label(n) in labels]
    found = 0
    for query in clustered(20, seed=1):
        wanted = best(held, among, query, 20)
        found += len({*names(shelf.search(query, 20, labels))} & {*wanted})
    return found / 400


@pytest.mark.parametrize("labels", [None, ["label 1"]])
def test_beyond_its_limit_a_search_reads_a_part_and_finds_nearly_all(
    labels: list[str] | None,
) -> None:
    held = clustered(15000, clusters=300)
    shelf = celled(held, range(15000))
    assert share(shelf, held, range(15000), labels) > 0.95
    assert isinstance(shelf._sketch, Cells)
    read = [len(shelf._sketch.near(query, 20, None)[0]) for query in clustered(10, seed=1)]
    assert max(read) < 12500


def test_what_is_put_replaced_and_removed_beyond_the_limit_is_found_as_it_is() -> None:
    held = clustered(9000, clusters=300)
    shelf = celled(held, range(6000))
    shelf.search(held[0], 1)
    for n in range(0, 6000, 3):
        shelf.remove(str(n))
    left = [n for n in range(6000) if n % 3] + list(range(6000, 9000))
    for start in range(6000, 9000, 7):
        some = list(range(start, min(9000, start + 7)))
        shelf.put([str(n) for n in some], held[some], [Place("", label(n), n) for n in some])
    moved = [n for n in left if n % 5 == 0]
    held[moved] = held[moved[::-1]]
    shelf.put([str(n) for n in moved], held[moved], [Place("", label(n), n) for n in moved])
    assert isinstance(shelf._sketch, Cells)
    for n in (1, 2, 6001, 8999, *moved[:50]):
        assert names(shelf.search(held[n], 1)) == [n]
    assert share(shelf, held, left, None) > 0.9


def test_rows_that_are_few_among_many_are_all_read_beyond_the_limit() -> None:
    held = clustered(5000, clusters=300)
    shelf = celled(held, range(5000))
    some = list(range(0, 5000, 3))
    shelf.put([str(n) for n in some], held[some], [Place("", "rare", n) for n in some])
    for query in clustered(10, seed=1):
        assert names(shelf.search(query, 20, ["rare"])) == best(held, some, query, 20)


def test_a_shelf_that_shrinks_below_its_limit_and_grows_again_stays_right() -> None:
    held = clustered(5000, clusters=300)
    shelf = celled(held, range(5000))
    shelf.search(held[0], 1)
    for n in range(4500):
        shelf.remove(str(n))
    assert names(shelf.search(held[4700], 20)) == best(held, range(4500, 5000), held[4700], 20)
    shelf.put([str(n) for n in range(4000)], held[:4000], [Place("", "", n) for n in range(4000)])
    for n in (0, 3999, 4999):
        assert names(shelf.search(held[n], 1)) == [n]


@pytest.mark.parametrize("there", [0, 40])
@pytest.mark.parametrize("whole", [0, 100, 10_000])
def test_rows_are_the_same_in_one_block_and_in_many(
    monkeypatch: pytest.MonkeyPatch, there: int, whole: int
) -> None:
    monkeypatch.setattr("tta.memory.sketch._WHOLE", whole)
    held, random = clustered(400), np.random.default_rng(3)
    first = held[:there].copy()
    first.flags.writeable = False  # as a snapshot's are
    rows, expected = Rows(DIM, first if there else None), held.copy()
    for start in range(there, 400, 24):
        stop = min(400, start + 24)
        rows.reserve(stop)
        rows.put(np.arange(start, stop), held[start:stop])
    rows.put(np.array([3, 399]), held[[7, 8]])
    expected[[3, 399]] = held[[7, 8]]
    rows.move(399, 5)
    expected[5], expected[399] = expected[399], 0.0
    asked = random.integers(0, 400, 50)
    assert np.array_equal(rows.take(asked), expected[asked])
    np.testing.assert_allclose(rows.dot(held[0], 390), expected[:390] @ held[0], atol=1e-6)
    assert (len(rows.parts(400)) > 2) == (whole < 400)
    assert np.array_equal(first, held[:there])
