"""Moving a memory as lines of JSON, and handing it on as training rows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from memories import answered, assert_consistent, correction, note, preference, rating, rule

from tta import errors
from tta.memory import Memory
from tta.memory.export import (
    export_events,
    export_lines,
    import_events,
    trl_labels,
    trl_pairs,
)
from tta.testing import HashEmbedder

EMBED = HashEmbedder()


@pytest.fixture
def memory() -> Iterator[Memory]:
    with Memory.open(None, embedder=EMBED) as memory:
        ada, bob = answered("r1"), answered("r2", user="bob", request="שלום \0 🙂")
        for about in (ada, bob):
            memory.record(about)
        memory.learn(correction(ada, "Ask.", "c1"))
        memory.learn(correction(ada, "Wait.", "c2"))
        memory.learn(preference(bob, "B", "A", "p1"))
        memory.learn(note(ada, "a note"))
        memory.learn(rule("Be brief."))
        memory.undo("c2", user="ada")
        yield memory


@pytest.fixture
def empty() -> Iterator[Memory]:
    with Memory.open(None, embedder=EMBED) as memory:
        yield memory


def test_a_memory_survives_the_journey_as_text(memory: Memory, empty: Memory) -> None:
    lines = list(export_lines(memory))
    assert all(line.isascii() and "\n" not in line for line in lines)
    assert import_events(empty, lines) == len(lines) == 8
    assert list(empty.events()) == list(memory.events())
    assert list(export_lines(empty)) == lines
    assert empty.state == memory.state
    assert_consistent(empty)


def test_response_ids_are_in_the_export(memory: Memory) -> None:
    about = {event["id"]: event["response"] for event in export_events(memory)}
    assert about["r1"] == "r1"
    assert about["c1"] == "r1"


def test_one_users_export_holds_nothing_of_another(memory: Memory, empty: Memory) -> None:
    events = list(export_events(memory, "bob"))
    assert {event["user"] for event in events} == {"bob"}
    assert import_events(empty, events) == 2
    assert empty.users() == ("bob",)


def test_importing_again_changes_nothing(memory: Memory) -> None:
    before = list(memory.events())
    assert import_events(memory, export_lines(memory)) == 0
    assert list(memory.events()) == before


def test_a_forgotten_user_does_not_erase_at_the_other_end(memory: Memory, empty: Memory) -> None:
    whole = list(export_lines(memory))
    memory.forget("ada")
    after = list(export_lines(memory))
    import_events(empty, whole)
    assert import_events(empty, after) == 0
    assert set(empty.users()) == {"ada", "bob"}


def cut(line: str) -> str:
    return line[: len(line) // 2]


def without_task(line: str) -> str:
    data = json.loads(line)
    del data["task"]
    return json.dumps(data)


def other_text(line: str) -> str:
    data = json.loads(line)
    data["body"]["text"] = "something else"
    return json.dumps(data)


def with_body(**fields: Any) -> Any:
    """A line whose event has these fields, too."""

    def change(line: str) -> str:
        data = json.loads(line)
        data["body"].update(fields)
        return json.dumps(data)

    return change


OPINIONS = {"experts": {"a": "-1"}, "answers": ["x"], "of": 1, "closed": True, "passes": []}
HEARD = {"likelihood": {"frozen": [0.5]}, "outcomes": 2, "right": 1.0, "frozen": None}

BROKEN: dict[str, tuple[Any, type[errors.TTAError]]] = {
    "cut": (cut, errors.CorruptStore),
    "a missing field": (without_task, errors.CorruptStore),
    "an unknown kind": (lambda x: x.replace('"correction"', '"magic"'), errors.CorruptStore),
    "a list": (lambda _: "[1, 2]", errors.CorruptStore),
    "a number as text": (lambda x: x.replace('"Wait."', "17"), errors.InvalidSetting),
    "a lone surrogate": (lambda x: x.replace("Wait.", "\\ud800"), errors.InvalidText),
    "nothing of what is heard": (with_body(heard={"said": 1}), errors.InvalidSetting),
    "heard impossible": (
        with_body(heard={**HEARD, "likelihood": {"frozen": [0.0]}}),
        errors.InvalidSetting,
    ),
    "a slope in words": (
        with_body(heard={**HEARD, "slopes": {"lda": "up"}}),
        errors.InvalidSetting,
    ),
    "a slope without end": (
        with_body(heard={**HEARD, "slopes": {"lda": 1e200}}),
        errors.InvalidSetting,
    ),
    "reached nothing": (with_body(heard={**HEARD, "reached": ""}), errors.InvalidSetting),
    "a power in words": (
        with_body(opinions={**OPINIONS, "powers": {"lda": "much"}}),
        errors.InvalidSetting,
    ),
    "opinions of nobody": (with_body(opinions={"closed": True}), errors.InvalidSetting),
    "instead a list": (with_body(instead=["amber"]), errors.InvalidSetting),
    "an unknown response": (lambda x: x.replace('"r1"', '"r9"'), errors.UnknownResponse),
}


@pytest.mark.parametrize("name", BROKEN)
def test_one_bad_line_and_nothing_is_imported(memory: Memory, empty: Memory, name: str) -> None:
    breaks, error = BROKEN[name]
    lines = list(export_lines(memory))
    lines[3] = breaks(lines[3])
    with pytest.raises(error) as caught:
        import_events(empty, lines)
    if error is errors.CorruptStore:
        assert "Line 4" in str(caught.value)
    assert list(empty.events()) == []
    assert_consistent(empty)


def test_a_line_that_contradicts_the_memory_is_refused(memory: Memory) -> None:
    lines = list(export_lines(memory))
    with pytest.raises(errors.ConflictingId):
        import_events(memory, [other_text(lines[2])])


def test_an_export_can_be_read_from_a_file(memory: Memory, empty: Memory, tmp_path: Path) -> None:
    path = tmp_path / "memory.jsonl"
    path.write_text("\n".join(export_lines(memory)) + "\n\n")
    with path.open() as lines:
        assert import_events(empty, lines) == 8
    assert empty.state == memory.state


def test_training_rows_hold_what_is_live(memory: Memory) -> None:
    assert list(trl_labels(memory, "ada")) == [
        {"prompt": "Where is my parcel?", "completion": "Ask.", "label": True},
        {"prompt": "Where is my parcel?", "completion": "No idea.", "label": False},
    ]
    assert list(trl_pairs(memory, "ada")) == [
        {"prompt": "Where is my parcel?", "chosen": "Ask.", "rejected": "No idea."}
    ]
    assert list(trl_pairs(memory, "eve")) == []


def test_a_refusal_without_an_accepted_answer_makes_no_pair(empty: Memory) -> None:
    about = answered()
    empty.record(about)
    empty.learn(rating(about, -1))
    assert list(trl_pairs(empty, "ada")) == []
    assert len(list(trl_labels(empty, "ada"))) == 1
