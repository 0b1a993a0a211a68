"""Which patterns were answered in which task: as it was said, and as tasks are by now.

Knows sightings and moves. Knows nothing of events beyond how they tell a sighting.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tta.memory.moves import Moves
from tta.protocols import Sighting, Sightings
from tta.types import Event


@dataclass(slots=True)
class Sighted:
    """Of one user. `now` has the tasks as they are by now, `asked` under the names that they came
    with; as long as nothing was merged or split both are one, and `asked` is None. `distinct` and
    `moved` are the sets of their sightings."""

    now: Sightings = field(default_factory=Sightings)
    asked: Sightings | None = None
    distinct: set[Sighting] = field(default_factory=set)
    moved: set[Sighting] = field(default_factory=set)

    def see(self, seen: Sighting, moves: Moves) -> None:
        """One more, under the name that it came with."""
        if self.asked is None:
            _count(self.now, self.distinct, seen)
        else:
            _count(self.asked, self.distinct, seen)
            _count(self.now, self.moved, moves.sighting(seen))

    def again(self, moves: Moves) -> None:
        """All of them under the names of now: another object, so that who has read the old one
        starts over."""
        asked, self.moved = self.asked or self.now, set()
        if not moves:
            self.now, self.asked = asked, None
            return
        self.asked = asked
        self.now = Sightings(repeats=dict(asked.repeats), gone=moves.gone())
        for seen in asked.distinct:
            _count(self.now, self.moved, moves.sighting(seen))
        self.now.patterns = {
            pattern: moves.home(task, pattern=pattern) for pattern, task in asked.patterns.items()
        }

    def name(self, pattern: str) -> str | None:
        """The name that a pattern came with last."""
        return (self.asked or self.now).patterns.get(pattern)


def sighting(event: Event, pattern: str) -> Sighting:
    """What an answer tells."""
    form, width = event.body.get("form"), event.body.get("width")
    return Sighting(
        pattern=pattern,
        task=event.task,
        bare=bool(event.body.get("bare")),
        form=form if isinstance(form, str) else None,
        width=width if isinstance(width, int) else 0,
    )


def _count(sightings: Sightings, known: set[Sighting], seen: Sighting) -> None:
    sightings.patterns[seen.pattern] = seen.task
    if seen in known:
        sightings.repeats[seen.bare] = sightings.repeats.get(seen.bare, 0) + 1
    else:
        known.add(seen)
        sightings.distinct.append(seen)
