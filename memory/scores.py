"""What every row of a shelf was found to score against the vector asked for last.

What feedback accepts and what it refuses are two records of one text on two shelves, and a step
searches both: what was read of one shelf need not be read of the other. Knows numpy. Knows nothing
of shelves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]
    IntArray = NDArray[np.integer[Any]]

_SPREAD = 4
"""Times as many ranks as rows: of more, writing them side by side costs what it saves."""


class Scores(NamedTuple):
    """`found[i]` is of the row of rank `ranks[i]`: its dot product with `vector`, or if not `exact`
    what that is at most."""

    vector: FloatArray
    ranks: IntArray
    found: FloatArray
    exact: bool

    def tell_of(self, vector: FloatArray, *, exact: bool) -> bool:
        """Whether they are of that vector, and exact if they must be."""
        return (self.exact or not exact) and np.array_equal(self.vector, vector)

    def by_rank(self, ranks: IntArray) -> FloatArray | None:
        """Those of the rows of these ranks, NaN where there is none; None if that is no gain."""
        size = 1 + max(int(self.ranks.max(initial=0)), int(ranks.max(initial=0)))
        if size > _SPREAD * len(ranks):
            return None
        side_by_side = np.full(size, np.nan, dtype=np.float32)
        side_by_side[self.ranks] = self.found
        return side_by_side[ranks]
