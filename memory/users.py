"""Users by name, of whom some are asleep in a snapshot until they are asked for.

Knows who is asleep, and who need not be woken. Knows nothing of how a snapshot is read, nor
of what a state means beyond who agreed on what was promoted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from typing import Generic, TypeVar

State = TypeVar("State")


class Users(MutableMapping[str, State], Generic[State]):
    """`asleep`: those a snapshot knows, with the users who agreed on what was promoted to them, or
    None where that is not known. `wake`: reads one of them."""

    def __init__(
        self, asleep: Mapping[str, Collection[str] | None], wake: Callable[[str], State]
    ) -> None:
        self._held: dict[str, State | None] = dict.fromkeys(asleep)
        self._promoters = dict(asleep)
        self._wake = wake

    def __getitem__(self, name: str) -> State:
        state = self._held[name]
        if state is None:
            state = self._held[name] = self._wake(name)
        return state

    def __setitem__(self, name: str, state: State) -> None:
        self._held[name] = state

    def __delitem__(self, name: str) -> None:
        del self._held[name]

    def __contains__(self, name: object) -> bool:
        return name in self._held

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def asleep(self, name: str) -> bool:
        """Whether nobody has asked for this user yet."""
        return self._held[name] is None

    def owes(self, user: str, name: str) -> bool:
        """Whether anything may have been promoted to a user because `name` agreed."""
        promoters = self._promoters[user] if self.asleep(user) else None
        return promoters is None or name in promoters


def may_owe(users: Mapping[str, State], name: str) -> list[str]:
    """All but those asleep to whom nothing was promoted because `name` agreed."""
    if isinstance(users, Users):
        return [user for user in users if users.owes(user, name)]
    return list(users)
