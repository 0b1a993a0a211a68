"""A desk that sorts requests into teams: what is asked, and how it is corrected."""

from __future__ import annotations

import random
from typing import Any

import tta

TEAMS = ["amber", "coral", "indigo", "teal"]
THINGS = ("parcel", "password", "ticket", "refund")
ASKS = ("Where is my {}?", "The {} is late.", "I lost the {}!", "Is there a new {}?", "{} please")
TEAM_OF = dict(zip(THINGS, TEAMS, strict=True))
QUESTION = "Where is my parcel?"
ANSWER = "Ask for the tracking number first."


def requests(steps: int, seed: int = 0) -> list[tuple[str, str]]:
    """Texts with the team that answers for them; what is numbered is new each time."""
    rng = random.Random(seed)
    made = []
    for number in range(steps):
        thing = rng.choice(THINGS)
        made.append((f"{rng.choice(ASKS).format(thing)} No. {number}", TEAM_OF[thing]))
    return made


def ask(chat: tta.Adapted, text: str, **options: Any) -> tta.Response:
    return chat(text, output=TEAMS, task="team", **options)


def corrected(chat: tta.Adapted, steps: int, seed: int = 0) -> list[bool]:
    """Whether each answer was right, while each is corrected."""
    right = []
    for text, team in requests(steps, seed):
        reply = ask(chat, text)
        right.append(reply.text == team)
        reply.correct(team)
    return right


def weights(chat: tta.Adapted) -> dict[str, float]:
    return dict(chat.health()[0].weights)
