"""Candidates best first, each made when it is first looked at.

Of a closed set there may be hundreds, and most are never read. Knows places; refuses to know what
decided them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

from tta.types import Candidate


class Ranked(Sequence[Candidate]):
    """Compares, prints and pickles as the tuple of them.

    `make` gives the candidate of a place, from 0 to `count` - 1; each place is asked for once.
    """

    def __init__(self, make: Callable[[int], Candidate], count: int) -> None:
        self._make = make
        self._made: list[Candidate | None] = [None] * count

    def __len__(self) -> int:
        return len(self._made)

    @overload
    def __getitem__(self, place: int) -> Candidate: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Candidate, ...]: ...

    def __getitem__(self, place: int | slice) -> Candidate | tuple[Candidate, ...]:
        places = range(len(self._made))[place]
        if isinstance(places, range):
            return tuple(map(self._at, places))
        return self._at(places)

    def _at(self, place: int) -> Candidate:
        found = self._made[place]
        if found is None:
            found = self._made[place] = self._make(place)
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranked | tuple) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # no more than a candidate has one

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __reduce__(self) -> tuple[type[tuple[Candidate, ...]], tuple[tuple[Candidate, ...]]]:
        return tuple, (tuple(self),)
