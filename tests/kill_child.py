"""The process that the kill test kills. Started once, it imports everything and then forks a child
for each line `FOLDER SEED` on its standard input, printing the child's process id, and when the
child has ended, the signal or the exit code that it ended by.

The child opens the memory, compares it with what the log says was acknowledged, and then answers,
learns, undoes and forgets without end, writing to the log `try ...` before and `ack ...` after
each. Whatever it finds wrong it writes to the log as `FAIL ...`.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from memories import WEIGHER, answered, assert_consistent, correction, note, rating, rule

from tta.memory import Memory
from tta.testing import HashEmbedder
from tta.types import EventKind

EMBED = HashEmbedder(16)
USERS = ("ada", "bob")
Doing = tuple[str, Callable[[], object]]
_SILENT = (EventKind.UNDONE, EventKind.FORGOTTEN)


@dataclass
class Expected:
    """What the log says: the events acknowledged and not forgotten, by id, with their user."""

    events: dict[str, str] = field(default_factory=dict)
    undone: dict[str, str] = field(default_factory=dict)
    open: tuple[str, str, str] | None = None
    count: int = 0

    def happened(self, what: str, user: str, name: str) -> None:
        if what == "forget":
            self.events = {k: u for k, u in self.events.items() if u != user}
            self.undone = {k: u for k, u in self.undone.items() if u != user}
        elif what == "undo":
            self.undone[name] = user
        else:
            self.events[name] = user


def read_log(path: Path) -> Expected:
    expected = Expected()
    for line in path.read_text().splitlines() if path.exists() else ():
        verb, *rest = line.split(" ")
        if verb == "try":
            expected.open = (rest[0], rest[1], rest[2])
            expected.count += 1
        elif verb in ("ack", "found", "lost"):
            if verb != "lost":
                expected.happened(*rest)
            expected.open = None
    return expected


def check(memory: Memory, expected: Expected) -> str:
    """Compare; what became of the operation that was cut off: "found" or "lost"."""
    assert_consistent(memory)
    there = {e.id: e.user for e in memory.events() if e.kind not in _SILENT}
    undone = {i: name for name, user in memory.state.users.items() for i in user.undone}
    found = (there, undone)
    if found == (expected.events, expected.undone):
        return "lost"
    assert expected.open is not None, f"journal {there} but log {expected.events}"
    expected.happened(*expected.open)
    assert found == (expected.events, expected.undone), f"half-applied: {expected.open}"
    return "found"


def work(memory: Memory, say: Callable[[str], None], seed: int, count: int) -> None:
    draw = random.Random(seed)
    while True:
        count += 1
        user = draw.choice(USERS)
        theirs = [e for e in memory.events(user) if e.kind is EventKind.ANSWERED]
        if not theirs or draw.random() < 0.3:
            event = answered(f"r{count}", user=user, request=f"question {draw.randrange(20)}")
            task: Doing = (f"answer {user} {event.id}", partial(memory.record, event))
        else:
            task = feedback(memory, draw, user, f"f{count}")
        what, do = task
        say(f"try {what}")
        do()
        say(f"ack {what}")


def feedback(memory: Memory, draw: random.Random, user: str, name: str) -> Doing:
    about = draw.choice([e for e in memory.events(user) if e.kind is EventKind.ANSWERED])
    dice = draw.random()
    made = memory.state.users[user].made
    if dice < 0.05:
        return f"forget {user} -", partial(memory.forget, user)
    if dice < 0.2 and made:
        old = draw.choice(list(made))
        return f"undo {user} {old}", partial(memory.undo, old, user=user)
    event = draw.choice(
        [
            correction(about, f"answer {draw.randrange(5)}", name),
            rating(about, draw.choice([-1.0, 1.0]), name),
            note(about, f"note {name}", name),
            rule(f"rule {draw.randrange(3)}", user=user, id=name),
        ]
    )
    return f"learn {user} {name}", partial(memory.learn, event)


def child(folder: Path, seed: int) -> None:
    log = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def say(line: str) -> None:
        os.write(log, f"{line}\n".encode())

    try:
        expected = read_log(folder / "log")
        # Flushes of three: many kills land inside a write to Chroma.
        memory = Memory.open(
            folder / "memory", embedder=EMBED, weigher=WEIGHER, flush_every=3, snapshot_every=30
        )
        cut_off = expected.open
        became = check(memory, expected)
        if cut_off is not None:
            say(f"{became} {' '.join(cut_off)}")
        say("open")
        work(memory, say, seed, expected.count)
    except BaseException:
        say("FAIL " + traceback.format_exc().replace("\n", " | "))


def main() -> None:
    import chromadb.api.rust  # noqa: F401  (so that no child has to)
    import filelock  # noqa: F401

    print("ready", flush=True)
    for line in sys.stdin:
        folder, seed = line.rsplit(" ", 1)
        pid = os.fork()
        if pid == 0:
            child(Path(folder), int(seed))
            os._exit(1)
        print(pid, flush=True)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(signal.Signals(-code).name if code < 0 else code, flush=True)


if __name__ == "__main__":
    main()
