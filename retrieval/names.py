"""What answers are called, as vectors: the reader that knows no memory.

Zero-shot classification by embeddings; it stands where a frozen model's own opinion goes when there
is none. Knows names and descriptions of answers; remembers nothing but their vectors.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tta.protocols import Embedder
from tta.retrieval.readers import normalised

if TYPE_CHECKING:
    from tta.protocols import FloatArray

_Called = tuple[tuple[str, ...], tuple[tuple[str, str], ...]]
KEPT = 32
"""How many sets of answers keep their vectors at hand."""


class Names:
    """How near a request is to what each answer is called: softmax(temperature * cosine).

    Underscores in names are read as spaces; a description, where there is one, instead of the name.
    """

    def __init__(self, embedder: Embedder, *, temperature: float = 20.0) -> None:
        self._embedder = embedder
        self._temperature = temperature
        self._sets: OrderedDict[_Called, FloatArray] = OrderedDict()

    def vectors(self, answers: Sequence[str], descriptions: Mapping[str, str]) -> FloatArray:
        """Unit vectors, float64, shape (len(answers), dim)."""
        called = tuple(answers), tuple(descriptions.items())
        known = self._sets.pop(called, None)
        if known is None:
            texts = [descriptions.get(a) or a.replace("_", " ") for a in answers]
            known = np.asarray(self._embedder.embed(texts), dtype=np.float64)
        self._sets[called] = known
        if len(self._sets) > KEPT:
            self._sets.popitem(last=False)
        return known

    def of(self, vector: FloatArray, titles: FloatArray) -> FloatArray:
        """Log-probabilities (nats), shape (K,), of answers with the vectors `titles` (K, dim)."""
        return normalised(self._temperature * (titles @ vector))

    def opinion(
        self, request: str, answers: Sequence[str], descriptions: Mapping[str, str]
    ) -> FloatArray:
        """Log-probabilities (nats) of `answers` for a request's text, shape (len(answers),)."""
        vector = self._embedder.embed([request])[0].astype(np.float64)
        return self.of(vector, self.vectors(answers, descriptions))
