"""A second process on a shared memory, for the two-process tests: does what it is told on its
standard input, one JSON list a line, and answers with one JSON value a line."""

from __future__ import annotations

import json
import sys

from memories import answered, correction

from tta.errors import TTAError
from tta.memory import Memory
from tta.testing import HashEmbedder
from tta.types import RecordKind

EMBED = HashEmbedder(16)


def nearest(memory: Memory, request: str, user: str) -> list[str]:
    """What a step does first: take in what others wrote, then look."""
    memory.sync()
    vector = EMBED.embed([request])[0]
    found = memory.nearest(vector, 1, user=user, task="t", kind=RecordKind.CASE)
    return [record.answer for record, _ in found]


def teach(memory: Memory, name: str, request: str, text: str, user: str) -> str:
    about = answered(name, user=user, request=request)
    memory.record(about)
    return memory.learn(correction(about, text, f"c-{name}")).feedback


def obey(memory: Memory, command: str, *args: str) -> object:
    if command == "nearest":
        return nearest(memory, *args)
    if command == "teach":
        return teach(memory, *args)
    if command == "forget":
        return memory.forget(*args)
    return [record.answer for record in memory.records(user=args[0])]


def main() -> None:
    where, index, embeds = sys.argv[1:]
    embedder = EMBED if embeds == "embed" else None
    try:
        memory = Memory.open(where, embedder=embedder, index=index or None)
    except TTAError as problem:
        print(json.dumps([type(problem).__name__, str(problem)]), flush=True)
        return
    print(json.dumps("open"), flush=True)
    with memory:
        for line in sys.stdin:
            try:
                said = obey(memory, *json.loads(line))
            except TTAError as problem:
                said = [type(problem).__name__, str(problem)]
            print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
