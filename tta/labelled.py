"""Labelled examples from a file: csv or jsonl, one example a row, and the set of answers.

Knows the two formats and what can be wrong with them; knows no chat and no model.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tta.errors import InvalidSetting, InvalidText

LINES = {".jsonl", ".ndjson"}
TABLES = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A text and the answer that is right for it."""

    text: str
    target: str


def read_examples(path: Path, *, text: str, target: str) -> tuple[Example, ...]:
    """The examples of a .csv, .tsv, .jsonl or .ndjson file, in its order.

    `text` and `target` name the columns. Raises InvalidSetting for a file or column that is not
    there, InvalidText, with the line, for one that cannot be read.
    """
    rows = _rows(path)
    examples = tuple(
        Example(text=_cell(path, line, row, text), target=_cell(path, line, row, target))
        for line, row in rows
    )
    if not examples:
        raise InvalidText(f"{str(path)!r} holds no examples", value=str(path))
    return examples


def read_answers(path: Path) -> dict[str, str]:
    """The answer set of a JSON file, a list of names or an object of name -> description.

    Gives name -> description, "" where there is none. Raises InvalidSetting for a missing file,
    InvalidText for one that holds something else.
    """
    try:
        found = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise InvalidText(
            f"{str(path)!r} is not JSON: line {error.lineno}: {error.msg}", value=str(path)
        ) from error
    answers = dict.fromkeys(found, "") if _is_names(found) else found
    if not isinstance(answers, dict) or not answers or not _is_names([*answers.values()]):
        raise InvalidText(
            f"{str(path)!r} must hold names of answers",
            value=found,
            hint='Write a JSON list ["a", "b"] or an object {"a": "what a means"}',
        )
    return answers


def answers_of(examples: tuple[Example, ...]) -> dict[str, str]:
    """The distinct targets, in alphabetical order, without descriptions."""
    return dict.fromkeys(sorted({example.target for example in examples}), "")


def check_targets(examples: tuple[Example, ...], answers: Mapping[str, str]) -> None:
    """Raises InvalidSetting when an example's target is not among the answers."""
    unknown = sorted({e.target for e in examples} - set(answers))
    if unknown:
        raise InvalidSetting(
            f"target {unknown[0]!r} is not among the {len(answers)} answers",
            value=unknown,
            hint="Add it to the labels file, or leave --labels out to use the distinct targets",
        )


def _is_names(found: object) -> bool:
    return isinstance(found, list) and all(isinstance(name, str) for name in found)


def _text(path: Path) -> str:
    try:
        # Decoded by hand: reading as text would rewrite the line breaks within quoted cells.
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidText(
            f"{str(path)!r} is not UTF-8 (byte {error.start})", value=str(path)
        ) from error
    except OSError as error:
        raise InvalidSetting(
            f"{str(path)!r} cannot be read: {error.strerror}", value=str(path)
        ) from error


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line number, columns) of every row that is not blank."""
    if path.suffix in LINES:
        return _json_rows(path)
    if path.suffix in TABLES:
        return _table_rows(path)
    raise InvalidSetting(
        f"{str(path)!r} has the ending {path.suffix!r}",
        value=path.suffix,
        hint=f"Use one of {sorted(LINES | set(TABLES))}",
    )


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    # Not splitlines(): it also cuts at characters that may stand within a JSON string.
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise _bad_line(path, number, error.msg) from error
        if not isinstance(row, dict):
            raise _bad_line(path, number, "not a JSON object")
        yield number, row


def _table_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    lines = io.StringIO(_text(path), newline="")  # a quoted cell may hold line breaks
    reader = csv.DictReader(lines, delimiter=TABLES[path.suffix], strict=True)
    try:
        for row in reader:
            if None in row:
                raise _bad_line(path, reader.line_num, "more cells than columns")
            yield reader.line_num, row
    except csv.Error as error:
        raise _bad_line(path, reader.line_num, str(error)) from error


def _cell(path: Path, line: int, row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        raise InvalidSetting(
            f"{str(path)!r}, line {line}: no column {column!r}",
            value=column,
            hint=f"The columns are {', '.join(map(repr, row))}",
        )
    cell = row[column]
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        return str(cell)
    if not isinstance(cell, str) or not cell.strip():
        raise _bad_line(path, line, f"column {column!r} holds {cell!r}")
    return cell


def _bad_line(path: Path, line: int, what: str) -> InvalidText:
    return InvalidText(f"{str(path)!r}, line {line}: {what}", value=line)
