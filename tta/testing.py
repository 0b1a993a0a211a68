"""For the tests of those who build on tta: parts that are real, small and deterministic.

Nothing here is a mock: `HashEmbedder` really embeds, only with less sense than a trained model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.floating[Any]]

_WORD = re.compile(r"\w+")


class HashEmbedder:
    """A hashed bag of words: texts that share words are near, the same text is always the same.

    Feature hashing with signs (Weinberger et al., 2009); a text without words is one fixed vector.
    """

    def __init__(self, dim: int = 64, *, id: str = "words") -> None:
        self._dim = dim
        self._id = f"{id}-{dim}"

    @property
    def id(self) -> str:
        return self._id

    @property
    def dim(self) -> int:
        return self._dim

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Unit vectors, float32, shape (len(texts), dim)."""
        vectors = np.zeros((len(texts), self._dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in _WORD.findall(text.lower()):
                place, sign = self._place(word)
                vectors[row, place] += sign
            if not vectors[row].any():
                vectors[row, 0] = 1.0
        lengths: FloatArray = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / lengths

    def _place(self, word: str) -> tuple[int, float]:
        digest = blake2b(f"{self._id}\0{word}".encode(errors="surrogatepass"), digest_size=8)
        number = int.from_bytes(digest.digest(), "big")
        return number // 2 % self._dim, 1.0 if number % 2 else -1.0
