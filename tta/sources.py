"""What was read, and what an answer cites, as values. Imports nothing of tta and no third party.

`tta.types`, where the other values are, has these names as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A passage that the model was shown, and the `document` it is from; `score` as in
    `Recalled`."""

    document: str
    text: str
    score: float
    id: str

    def __str__(self) -> str:
        return f"{self.document}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Reading:
    """What `chat.read` found: names of documents; `skipped` says of those that could not be read
    why; `passages` counts what the new and the changed ones were split into."""

    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    passages: int = 0

    def __repr__(self) -> str:
        return (
            f"<Reading {len(self.new)} new, {len(self.changed)} changed, {len(self.removed)}"
            f" removed, {len(self.unchanged)} unchanged, {len(self.skipped)} skipped:"
            f" {self.passages} passages>"
        )
