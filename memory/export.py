"""The journal as lines of text: JSONL to move a memory, TRL rows to train on it elsewhere.

Knows the two formats. Knows nothing of databases or vectors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tta.errors import CorruptStore
from tta.memory.events import check, from_dict, to_dict
from tta.memory.memory import Memory
from tta.types import Event, Json, Record, RecordKind


def export_events(memory: Memory, user: str | None = None) -> Iterator[dict[str, Json]]:
    """Every event as a JSON object, oldest first: of one user, or (None) the whole journal."""
    return (to_dict(event) for event in memory.events(user))


def export_lines(memory: Memory, user: str | None = None) -> Iterator[str]:
    """The same as lines of ASCII JSON, without their newlines."""
    return (json.dumps(event) for event in export_events(memory, user))


def import_events(memory: Memory, lines: Iterable[str | Mapping[str, Any]]) -> int:
    """Append the events of an export, all or none; how many were new.

    Events that the memory has already are skipped. Events of a user whom this memory has forgotten
    are new again. That a user was forgotten is taken over where nothing is known of that user: it
    never erases anything here. Raises CorruptStore naming the first bad line, InvalidText,
    InvalidSetting, ConflictingId, UnknownResponse, WrongUser; then nothing was written.
    """
    events = [
        _parse(number, line) for number, line in enumerate(lines, start=1) if not _blank(line)
    ]
    return memory.import_all(events)


def _parse(number: int, line: str | Mapping[str, Any]) -> Event:
    try:
        event = from_dict(json.loads(line) if isinstance(line, str) else line)
    except (ValueError, CorruptStore) as problem:
        raise CorruptStore(f"Line {number}: {problem}", value=line) from problem
    check(event)
    return event


def trl_labels(memory: Memory, user: str) -> Iterator[dict[str, str | bool]]:
    """A user's live cases as rows `prompt`, `completion`, `label` (TRL's unpaired preference).

    The label is True for accepted answers and False for refused ones.
    """
    for record in memory.records(user=user):
        if record.kind in (RecordKind.CASE, RecordKind.REJECTED):
            yield {
                "prompt": record.request,
                "completion": record.answer,
                "label": record.kind is RecordKind.CASE,
            }


def trl_pairs(memory: Memory, user: str) -> Iterator[dict[str, str]]:
    """A user's live cases as rows `prompt`, `chosen`, `rejected` (TRL's preference format).

    Each accepted answer is paired with every answer refused for the same request and task.
    """
    cases: dict[tuple[str, str], Record] = {}
    for record in memory.records(user=user, kind=RecordKind.CASE):
        cases[record.task, record.request] = record
    for record in memory.records(user=user, kind=RecordKind.REJECTED):
        case = cases.get((record.task, record.request))
        if case is not None:
            yield {
                "prompt": record.request,
                "chosen": case.answer,
                "rejected": record.answer,
            }


def clean_rows(memory: Memory, user: str) -> Iterator[Mapping[str, Json]]:
    """See `Memory.export`."""
    yield from memory.export(user)


def _blank(line: str | Mapping[str, Any]) -> bool:
    return isinstance(line, str) and not line.strip()
