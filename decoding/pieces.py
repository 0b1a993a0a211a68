"""Token ids, as they come, to pieces of text that nothing that follows can change.

Knows how ids are read back as text. Refuses to know models and rows. A character of which only the
first bytes are there is kept back, and so is what may become the mark that ends the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tta.errors import UnsupportedModel

UNREADABLE = "\ufffd"
"""What bytes read as that are no character, or not yet."""
_STEADY = 256
"""Tokens. Reading back takes time by the token: beyond so many, pieces grow by a token for each."""


class Pieces:
    """The text of one row. The pieces and `rest` together are what `read` makes of all its ids.

    `settled` says of a token id whether its text stands for itself: false of one that is a mere
    byte in a tokenizer that reads runs of those as a whole. `marks`: texts that end an answer
    and are no part of it.
    """

    def __init__(
        self,
        read: Callable[[list[int]], str],
        *,
        settled: Callable[[int], bool],
        marks: Sequence[str] = (),
    ) -> None:
        self._read, self._settled, self._marks = read, settled, marks
        self._text = ""
        self._tokens = 0

    def more(self, ids: Sequence[int]) -> str:
        """What the ids so far add for certain; often nothing."""
        if len(ids) - self._tokens <= self._tokens // _STEADY:
            return ""
        self._tokens = len(ids)
        end = len(ids)
        while end and not self._settled(ids[end - 1]):
            end -= 1
        text = self._read(list(ids[:end])).rstrip(UNREADABLE)
        text = text[: len(text) - max((_begun(text, mark) for mark in self._marks), default=0)]
        # Some tokenizers take back a space or two once they see what comes next.
        if not text.startswith(self._text):
            return ""
        piece, self._text = text[len(self._text) :], text
        return piece

    def rest(self, text: str) -> str:
        """What is left of the whole answer. `UnsupportedModel`: it begins otherwise."""
        if not text.startswith(self._text):
            raise UnsupportedModel(
                "The tokenizer reads the same tokens in different ways, so they cannot be streamed",
                value=self._text,
                hint="Call the chat instead of streaming",
            )
        return text[len(self._text) :]


def _begun(text: str, mark: str) -> int:
    """How many of the last characters may be the beginning of `mark`."""
    lengths = range(min(len(mark) - 1, len(text)), 0, -1)
    return next((n for n in lengths if text.endswith(mark[:n])), 0)
