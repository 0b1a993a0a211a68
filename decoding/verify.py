"""The user's verifier: asked once for each answer, in a thread of its own, for a limited time.

Knows a function and what it said. Refuses to know what follows from it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from tta.errors import InvalidSetting, VerifierFailed, VerifierTimeout

PASSED = 1.0
"""The best score there is."""
ACCEPTABLE = 0.5
"""From here on an answer is rather right than wrong."""


@dataclass(slots=True)
class Judge:
    """Scores (0 to 1) by key, in the order in which they were given.

    An answer that hangs ends it: nothing more is asked, and its thread, which nobody can stop, is
    the only thing left behind.
    """

    verify: Callable[[Any], bool | float]
    seconds: float
    scores: dict[str, float] = field(default_factory=dict)
    late: VerifierTimeout | None = None

    @property
    def passed(self) -> bool:
        return PASSED in self.scores.values()

    @property
    def graded(self) -> bool:
        """Whether its scores are more than yes and no."""
        return any(0.0 < score < PASSED for score in self.scores.values())

    def ask(self, key: str, value: object) -> None:
        """Raises VerifierFailed when it raises, InvalidSetting for a score outside 0 to 1."""
        if key in self.scores or self.late is not None:
            return
        try:
            self.scores[key] = self._asked(value)
        except VerifierTimeout as late:
            self.late = late

    def score(self, key: str, value: object) -> float:
        """What it says of one value; raises also VerifierTimeout."""
        self.ask(key, value)
        if self.late is not None:
            raise self.late
        return self.scores[key]

    def check(self) -> None:
        """Raises VerifierTimeout if it took too long and nothing acceptable was found before."""
        if self.late is not None and max(self.scores.values(), default=0.0) < ACCEPTABLE:
            raise self.late

    def _asked(self, value: object) -> float:
        said: list[bool | float] = []
        raised: list[BaseException] = []
        context = copy_context()
        # Not `self`: a thread that hangs would keep all that led here alive, keys and values too.
        verify = self.verify

        def ask() -> None:
            try:
                said.append(context.run(verify, value))
            except BaseException as error:  # it crosses to the thread that asked
                raised.append(error)

        # A daemon: a verifier that hangs must not keep the process from ending.
        thread = threading.Thread(target=ask, name="tta-verify", daemon=True)
        thread.start()
        thread.join(self.seconds)
        if raised:
            raise VerifierFailed(
                f"verify raised {type(raised[0]).__name__} for {value!r}: {raised[0]}",
                value=value,
                hint="Return False for an answer that cannot be judged",
            ) from raised[0]
        if not said:
            raise VerifierTimeout(
                f"verify took longer than {self.seconds:g} s for {value!r}",
                value=value,
                hint="Raise verify_seconds, or let it give up by itself",
            )
        return _score(said[0], value)


def _score(verdict: bool | float, value: object) -> float:
    try:
        score = float(verdict)
    except (TypeError, ValueError):
        score = -1.0
    if not 0 <= score <= PASSED:
        raise InvalidSetting(
            f"verify gave {verdict!r} for {value!r}", value=verdict, hint="Give 0 to 1 or a bool"
        )
    return score
