"""`tta memory`: look into a memory, take back, erase, move.

Opens the journal alone wherever that will do, so that it works beside a running chat. Function
names end in an underscore: `list`, `import` and others are taken.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tta.cli_common import facts, note, one_line, open_memory, say, say_json, table
from tta.errors import InvalidSetting, UnknownResponse
from tta.request import check_name
from tta.types import Event, Json, Learned, Record, RecordKind

if TYPE_CHECKING:
    from tta.memory import Memory


def list_(args: argparse.Namespace) -> None:
    """Every live record of the user, oldest first."""
    kind = RecordKind(args.kind) if args.kind else None
    with open_memory(args) as memory:
        records = memory.records(user=check_name("user", args.user), task=args.task, kind=kind)
    if args.json:
        say_json([asdict(record) for record in records])
    elif records:
        say(table(["feedback", "when", "kind", "task", "request", "answer"], _rows(records)))
    else:
        note(f"nothing is remembered of {args.user!r}")


def _rows(records: Sequence[Record]) -> list[list[str]]:
    return [
        [r.source, _when(r.created), r.kind, r.task or "(all)", r.request, r.answer]
        for r in records
    ]


def show_(args: argparse.Namespace) -> None:
    """The event or record of an id; for an answer, with the feedback it was given."""
    with open_memory(args) as memory:
        found = list(_about(memory, args.id, check_name("user", args.user)))
    if not found:
        raise UnknownResponse(
            f"nothing of user {args.user!r} has the id {args.id!r}",
            value=args.id,
            hint="`tta memory list` and `tta memory export` print ids",
        )
    if args.json:
        say_json(found)
    else:
        say("\n\n".join(facts({k: _shown(k, v) for k, v in _flat(d)}) for d in found))


def _about(memory: Memory, id_: str, user: str) -> Iterator[dict[str, Json]]:
    from tta.memory.events import to_dict

    def matches(event: Event) -> bool:
        return id_ in (event.id, event.response, event.body.get("feedback"))

    yield from (to_dict(event) for event in memory.events(user) if matches(event))
    yield from (asdict(r) for r in memory.records(user=user) if id_ in (r.id, r.source))


def _flat(found: dict[str, Json]) -> list[tuple[str, Json]]:
    body = found.get("body")
    rest = [(key, value) for key, value in found.items() if key != "body"]
    return rest + (list(body.items()) if isinstance(body, dict) else [])


def _shown(key: str, value: Json) -> str:
    if key in ("time", "created") and isinstance(value, float):
        return _when(value)
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 200)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def undo_(args: argparse.Namespace) -> None:
    """Take back one piece of feedback."""
    with open_memory(args) as memory:
        _report(memory.undo(args.id, user=check_name("user", args.user)), args)


def _report(learned: Learned, args: argparse.Namespace) -> None:
    if args.json:
        say_json(asdict(learned))
        return
    say(learned.reason)
    for sign, records in (("+", learned.added), ("-", learned.removed)):
        for record in records:
            about = f"{one_line(record.request)} → " if record.request else ""
            say(f"{sign} {record.kind}: {about}{one_line(record.answer)}")


def forget_(args: argparse.Namespace) -> None:
    """Erase a user."""
    with open_memory(args) as memory:
        erased = memory.forget(check_name("user", args.user))
    if args.json:
        say_json({"user": args.user, "erased": erased})
    else:
        say(f"{erased} events of {args.user!r} erased")


def export_(args: argparse.Namespace) -> None:
    """Print the user's events, or the cases learned from them: clean, or for TRL; one a line."""
    from tta.memory.export import clean_rows, export_events, trl_labels, trl_pairs

    forms: Mapping[str, Callable[[Memory, str], Iterable[object]]] = {
        "events": export_events,
        "clean": clean_rows,
        "ratings": trl_labels,
        "preferences": trl_pairs,
    }
    with open_memory(args) as memory:
        for row in forms[args.format](memory, check_name("user", args.user)):
            # ASCII, so that no terminal and no pipe can spoil it.
            sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


def import_(args: argparse.Namespace) -> None:
    """Append exported events, all or none."""
    from tta.memory.export import import_events

    lines = [line for line in _read(args.file).split("\n") if line.strip()]
    if args.user != "*":
        lines = [line for line in lines if _user_of(line) == args.user]
    with open_memory(args, create=True) as memory:
        fresh = import_events(memory, lines)
    if args.json:
        say_json({"events": len(lines), "new": fresh})
    else:
        say(f"{fresh} new of {len(lines)} events")


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"{file!r} cannot be read: {error}", value=file) from error


def _user_of(line: str) -> str | None:
    """Whose event a line is; a line that is none is left for `import_events` to refuse."""
    try:
        event = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidSetting(f"not a line of JSON: {one_line(line)!r}", value=line) from error
    return event.get("user") if isinstance(event, dict) else None


def rebuild_(args: argparse.Namespace) -> None:
    """Embed every record again."""
    with open_memory(args, index=True) as memory:
        count = memory.rebuild()
    if args.json:
        say_json({"vectors": count})
    else:
        say(f"{count} vectors made anew")
