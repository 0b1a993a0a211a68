"""Candidates that are made when they are looked at: each once, and like a tuple in all else."""

import copy
import pickle

import pytest

import tta
from tta.decoding.ranked import Ranked
from tta.testing import HashEmbedder
from tta.types import Candidate


def ranked(made: list[int], count: int = 5) -> Ranked:
    def make(place: int) -> Candidate:
        made.append(place)
        return Candidate(text=f"answer {place}", parts={"frozen": 0.1 * place})

    return Ranked(make, count)


def test_each_is_made_once_and_only_when_it_is_looked_at() -> None:
    made: list[int] = []
    candidates = ranked(made)
    assert (len(candidates), made) == (5, [])
    assert candidates[3] is candidates[-2]
    assert made == [3]
    assert [c.text for c in candidates[:2]] == ["answer 0", "answer 1"]
    assert [c.text for c in reversed(candidates)] == [f"answer {i}" for i in range(4, -1, -1)]
    assert sorted(made) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("place", [5, -6])
def test_there_is_none_beyond_the_last(place: int) -> None:
    with pytest.raises(IndexError):
        ranked([])[place]


def test_it_compares_prints_copies_and_pickles_as_a_tuple() -> None:
    candidates, plain = ranked([]), tuple(ranked([]))
    assert candidates == ranked([]) == plain
    assert candidates != ranked([], 4)
    assert repr(candidates) == repr(plain)
    assert pickle.loads(pickle.dumps(candidates)) == copy.deepcopy(candidates) == plain
    with pytest.raises(TypeError, match="unhashable"):
        hash(candidates)


def test_a_step_makes_no_more_candidates_than_are_read() -> None:
    answers = [f"answer {n}" for n in range(50)]
    with tta.wrap(None, embedder=HashEmbedder()) as chat:
        reply = chat("Which one?", output=answers)
    assert isinstance(reply.candidates, Ranked)
    assert sum(c is not None for c in reply.candidates._made) < 10
    assert sorted(c.text for c in reply.candidates) == sorted(answers)
    assert sum(c.score for c in reply.candidates) == pytest.approx(1)
    assert reply.text == reply.candidates[0].text
