"""`tta demo`: a frozen model, corrected, before your eyes; then what that adds up to.

Knows a handful of requests that the bundled model cannot answer by itself, since what is right is
made up here. What it prints is what the model said.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tta.adapted import Adapted
from tta.cli_common import note, open_chat, say, say_json
from tta.cli_evaluate import curve, progress_bar
from tta.evaluate import Report, evaluate
from tta.labelled import Example
from tta.types import Learned

TEAMS = ("amber", "coral", "indigo", "olive", "teal", "violet")
"""Invented: no model can know which of them answers for what."""
TOPICS: Sequence[Sequence[str]] = (
    ("parcel", "delivery", "package", "courier"),
    ("password", "login", "account", "user name"),
    ("train", "flight", "ticket", "seat"),
    ("printer", "desk", "meeting", "badge"),
    ("refund", "return", "receipt", "credit note"),
    ("phone", "battery", "screen", "charger"),
)
ASKS = (
    "Where is my {}?",
    "I need help with the {}.",
    "Please tell me about the {}.",
    "Is there a problem with the {}?",
    "There is something odd about this {}",
    "I want to ask about the {} from last week.",
    "who can look at the {} today",
    "Can someone explain how the {} works?",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One thing shown: what was asked, the answer before, what was said about it, and after."""

    title: str
    asked: str
    before: str
    said: str
    then: str
    after: str


def demo(args: argparse.Namespace) -> None:
    """Show the scenes, then the curve."""
    scenes: list[Scene] = []
    with open_chat(args) as chat:
        open_ended = chat.model is not None
        if not open_ended:
            note("without a language model there is nothing but closed sets to show")
        for scene in OPEN_AND_CLOSED if open_ended else CLOSED:
            scenes.append(scene(chat))
            if not args.json:
                _print(scenes[-1])
        report = _curve(chat.for_user("demo curve"), args)
    if args.json:
        say_json({"scenes": [asdict(scene) for scene in scenes], "curve": report.to_dict()})
    else:
        say(curve(report))


def _print(scene: Scene) -> None:
    say(scene.title)
    say(f"  you    {scene.asked}")
    say(f"  model  {scene.before}")
    say(f"  you    {scene.said}")
    say(f"  you    {scene.then}")
    say(f"  model  {scene.after}")
    say()


def _corrected(
    chat: Adapted, title: str, asked: str, right: str, then: str, task: str | None = None
) -> Scene:
    reply = chat(asked, task=task)
    reply.correct(right)
    return Scene(
        title=title,
        asked=asked,
        before=reply.text,
        said=f"/correct {right}",
        then=then,
        after=chat(then, task=task).text,
    )


def _answer(chat: Adapted) -> Scene:
    title, asked = "A correction is in force at once.", "Where is my parcel?"
    return _corrected(chat, title, asked, "Ask for the tracking number first.", asked)


def _convention(chat: Adapted) -> Scene:
    title = "It carries over to other requests of its task."
    return _corrected(chat, title, "Greet Ada.", "Dear Ada,", "Greet Bob.", task="greet")


def _label(chat: Adapted) -> Scene:
    asked, then, teams = "My debit card was stolen.", "I lost my debit card.", list(TEAMS[:3])
    reply = chat(asked, output=teams)
    right = next(team for team in reversed(teams) if team != reply.text)
    reply.correct(right)
    return Scene(
        title=f"One of a closed set ({', '.join(teams)}): scored exactly, never sampled.",
        asked=asked,
        before=reply.text,
        said=f"/correct {right}",
        then=then,
        after=chat(then, output=teams).text,
    )


REPEATED = "Repeat: quiet river stone"
LINKED = "Write words joined by hyphens."


def _rule(chat: Adapted) -> Scene:
    before = chat(REPEATED, task="repeat").text
    chat.rule(LINKED, task="repeat")
    return Scene(
        title="A rule holds until it is taken back.",
        asked=REPEATED,
        before=before,
        said=f"/rule {LINKED}",
        then=REPEATED,
        after=chat(REPEATED, task="repeat").text,
    )


def _preference(chat: Adapted) -> Scene:
    asked, choices = "Which room is better for the meeting?", ["Room Oslo", "Room Lima"]
    reply = chat(asked, output=choices)
    other = next(choice for choice in choices if choice != reply.text)
    reply.prefer(other)
    return Scene(
        title="A preference between two answers.",
        asked=asked,
        before=reply.text,
        said=f"/prefer {other}",
        then=asked,
        after=chat(asked, output=choices).text,
    )


def _undo(chat: Adapted) -> Scene:
    before = chat(REPEATED, task="repeat").text
    rules = chat.memory.records(user=chat.user, task="repeat")
    taken_back: Learned = chat.undo(next(r.source for r in rules if r.answer == LINKED))
    return Scene(
        title="Undo is exact: as if the rule had never been given.",
        asked=REPEATED,
        before=before,
        said=f"/undo {taken_back.feedback}",
        then=REPEATED,
        after=chat(REPEATED, task="repeat").text,
    )


OPEN_AND_CLOSED = (_answer, _convention, _label, _rule, _preference, _undo)
CLOSED = (_label, _preference)


def _curve(chat: Adapted, args: argparse.Namespace) -> Report:
    say_or_note = note if args.json else say
    say_or_note(
        f"{args.steps} requests for one of {len(TEAMS)} teams; each mistake is corrected once."
    )
    return evaluate(
        chat,
        _stream(args.steps),
        TEAMS,
        task="team",
        progress=progress_bar(args.steps) if sys.stderr.isatty() else None,
    )


def _stream(steps: int, seed: int = 0) -> list[Example]:
    """Requests about the topics, each with the team that happens to answer for it."""
    rng = random.Random(seed)
    teams = rng.sample(TEAMS, len(TEAMS))
    made = []
    for _ in range(steps):
        topic = rng.randrange(len(TOPICS))
        text = rng.choice(ASKS).format(rng.choice(TOPICS[topic]))
        made.append(Example(text=text, target=teams[topic]))
    return made
