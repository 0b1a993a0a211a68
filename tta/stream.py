"""An answer as it comes: pieces of text, and at the end the response.

Knows nothing but the pieces. No thread runs behind it: the model works while the next piece is
waited for, so whoever stops asking has stopped it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Self

from tta.errors import StreamClosed
from tta.response import Response


class Stream(Iterator[str]):
    """Made by `chat.stream`. Its pieces together are `response.text`.

    Nothing is recorded before the end: a stream that is closed, left (`with`) or dropped half-way
    leaves no trace.
    """

    def __init__(self, pieces: Generator[str, None, Response]) -> None:
        self._pieces = pieces
        self._response: Response | None = None

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except StopIteration as end:
            self._response = end.value or self._response
            raise

    @property
    def response(self) -> Response:
        """The whole answer, recorded like a call's; waits for what has not come yet. StreamClosed:
        the stream ended before its answer did."""
        for _ in self:
            pass
        if self._response is None:
            raise StreamClosed(
                "the stream ended before its answer did, so there is no response",
                hint="Read it to its end first",
            )
        return self._response

    def close(self) -> None:
        """Stop at once."""
        self._pieces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
