"""Patterns: the same instruction about different things is one pattern."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta.tasks.mask import MAX_PATTERN, pattern

PIECES = st.sampled_from(
    ['"', "'", "`", "```", "<", ">", ":", ": ", "\n", "\n\n", " ", "_", "12", "3.5%", "a@b.c",
     "https://x.y/z", "don't", "Sum up", "Wörter", "«", "»", "İ", ",", ".", "~~~", "5km"]
)  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is akin to < ship > ?", "what is akin to < two words > ?"),
        ('Translate "good morning" into French', "Translate 'thanks' into French"),
        ("Translate to French: good morning", "Translate to French:\nsee you\n\ntomorrow: noon"),
        ("Sum of 12 and 7", "sum  of 1,200.50 and -3"),
        ("Explain `f(x)` briefly", "Explain `for i in y: pass` briefly"),
        ("Fix this:\n```\nx = 1\n```", "Fix this:\n```python\ndef f():\n\n  return 'a'\n```"),
        ("Open https://a.b/c?d=1", "Open http://www.example.org"),
        ("Write to ada@example.org", "Write to bob.b@mail.example.com"),
        ("Book it for 2024-05-01 at 10:30", "Book it for 3/12/2025 at 9:05"),
        ("Is this spam?\n\nBuy now", "Is this spam?\n\nDear Ada,\n\nsee you."),
    ],
)
def test_what_varies_is_masked(one: str, other: str) -> None:
    assert pattern(one) == pattern(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Translate to French: good morning", "Translate to German: good morning"),
        ("What is akin to < ship > ?", "What is unlike < ship > ?"),
        ("I don't know what's wrong", "I don't see who's here"),
    ],
)
def test_what_is_asked_is_kept(one: str, other: str) -> None:
    assert pattern(one) != pattern(other)


def test_a_text_that_is_all_content_is_its_own_pattern() -> None:
    assert pattern('"Hello  World"') == '"hello world"'
    assert pattern("12 + 7") == "12 + 7"


@given(st.one_of(st.text(max_size=300), st.lists(PIECES, max_size=40).map("".join)))
def test_masking_is_idempotent(text: str) -> None:
    once = pattern(text)
    assert pattern(once) == once


@pytest.mark.parametrize("piece", ["'a'b", '"', "<", "1.", "- ", "a@", ":", "`", "x: 'y' ", "a-b."])
def test_a_very_long_text_is_masked_by_its_beginning(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    assert pattern(text) == pattern(text[:4_000])
    assert len(pattern(text)) <= MAX_PATTERN


@pytest.mark.parametrize("group", ["linguistic", "hin", "pun"])
def test_memprompt_questions_fall_into_their_published_templates(group: str) -> None:
    if "TTA_DATA" not in os.environ:
        pytest.skip("TTA_DATA is not set")
    lines = Path(os.environ["TTA_DATA"], "memprompt", f"{group}.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    templates = {(pattern(row["question"]), row["template_id"]) for row in rows}
    assert len({p for p, _ in templates}) == len({t for _, t in templates}) == len(templates)
