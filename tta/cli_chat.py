"""`tta chat`: a line is a request, a line with a slash is feedback on the last answer.

Every request stands alone: what was said before counts through the memory, not as a transcript.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

from tta.adapted import Adapted
from tta.cli_common import note, one_line, open_chat, say, say_json
from tta.errors import FeedbackError, InputError, InvalidSetting, ModelError, UnknownFeedback
from tta.response import Response
from tta.types import Learned

HELP = """\
/good            the answer is right        /rule TEXT       a standing instruction
/bad             the answer is wrong        /note TEXT       what this kind of request means
/correct TEXT    what it should have been   /undo [ID]       take back the last feedback, or ID's
/prefer TEXT     a better answer            /why             what decided
/help  /quit"""


def chat(args: argparse.Namespace) -> None:
    """Read requests and feedback from standard input until it ends."""
    with open_chat(args) as wrapped:
        if args.memory is None:
            note("without --memory, all is forgotten at the end")
        talk = Talk(wrapped, args)
        for line in _lines():
            if talk.take(line):
                break


def _lines() -> Iterator[str]:
    """The lines of standard input; with a prompt and line editing when it is a terminal."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    note("/help lists what can be said about an answer; Ctrl-D ends")
    _load_line_editing()
    while True:
        try:
            yield input("> ")
        except EOFError:
            note("")
            return


def _load_line_editing() -> None:
    from importlib.util import find_spec

    if find_spec("readline"):  # importing it is what gives input() a history
        import readline  # noqa: F401


class Talk:
    """One run of the command: the chat, the last reply and the feedback given so far."""

    def __init__(self, chat: Adapted, args: argparse.Namespace) -> None:
        self._chat = chat
        self._args = args
        self._reply: Response | None = None
        self._given: list[str] = []
        self._said: dict[str, Callable[[str], object]] = {
            "/good": lambda text: self._learned(self._last().good(text)),
            "/bad": lambda text: self._learned(self._last().bad(text)),
            "/correct": lambda text: self._learned(self._last().correct(text)),
            "/prefer": lambda text: self._learned(self._last().prefer(text)),
            "/note": lambda text: self._learned(self._last().note(text)),
            "/rule": lambda text: self._learned(self._chat.rule(text)),
            "/undo": self._undo,
            "/why": lambda text: self._why(),
            "/help": lambda text: note(HELP),
        }

    def take(self, line: str) -> bool:
        """Answer a line or learn from it; True to end. What was wrong with it goes to stderr."""
        if not line.strip():
            return False
        word, _, rest = line.strip().partition(" ")
        if word == "/quit":
            return True
        try:
            if word.startswith("/"):
                self._command(word)(rest.strip())
            else:
                self._ask(line)
        except (InputError, FeedbackError, ModelError) as error:
            note(f"tta: {error}")
        return False

    def _command(self, word: str) -> Callable[[str], object]:
        if word not in self._said:
            raise InvalidSetting(f"unknown command {word!r}", value=word, hint="Try /help")
        return self._said[word]

    def _ask(self, line: str) -> None:
        args = self._args
        choices = [c.strip() for c in args.choices.split(",")] if args.choices else None
        self._reply = reply = self._chat(
            line, task=args.task, output=choices, max_new_tokens=args.max_new_tokens
        )
        if args.json:
            say_json({"id": reply.id, "text": reply.text, "task": reply.task.name}, indent=None)
        else:
            say(reply.text)

    def _last(self) -> Response:
        if self._reply is None:
            raise InvalidSetting("there is no answer yet", value=None, hint="Ask something first")
        return self._reply

    def _learned(self, learned: Learned) -> None:
        self._given.append(learned.feedback)
        self._report(learned)

    def _undo(self, text: str) -> None:
        if not text and not self._given:
            raise UnknownFeedback("no feedback was given yet", hint="Or name its id: /undo ID")
        feedback = text or self._given[-1]
        self._report(self._chat.undo(feedback))
        if feedback in self._given:
            self._given.remove(feedback)

    def _report(self, learned: Learned) -> None:
        for one in (learned, *learned.led_to):
            note(f"{one.reason} (feedback {one.feedback})")

    def _why(self) -> None:
        reply = self._last()
        note(f"task {reply.task.name!r}, confidence {reply.confidence:.2f}")
        for name, weight in reply.why.weights.items():
            note(f"weight of {name}: {weight:.2f}")
        for recalled in reply.context.shown:
            record = recalled.record
            about = f"{one_line(record.request)} → " if record.request else ""
            note(f"shown, {record.kind}, {recalled.score:.2f}: {about}{one_line(record.answer)}")
        for title, group in (("for", reply.why.spoke_for), ("against", reply.why.spoke_against)):
            for recalled in group[:5]:
                note(f"{title}, {recalled.score:.2f}: {one_line(recalled.record.request)}")
