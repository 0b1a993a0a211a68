"""The instruction pattern of a request: what is asked, without what it is asked of.

Knows only text. Which task a pattern belongs to is not known here.
"""

from __future__ import annotations

import re

MAX_CHARACTERS = 4_000
"""Only the head of a request is read: the instruction stands before its content."""

MAX_PATTERN = 400
"""Patterns are cut to this many characters, at a word."""

MARK = "_"
"""What stands for a masked span: a character that carries no meaning to an embedder."""

# Each alternative is linear: no nested or adjacent unbounded repeats over the same characters.
FENCE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)", re.DOTALL)
_PARAGRAPH = re.compile(r"(?<=\S)[^\S\n]*\n[^\S\n]*\n.*", re.DOTALL)
_SPANS = re.compile(
    r"""
      `[^`]*`                                      # code
    | "[^"]*" | “[^”]*” | «[^»]*»                  # quotations
    | (?<!\w)'[^']*'(?!\w) | (?<!\w)‘[^’]*’(?!\w)  # but not the apostrophe of don't
    | <[^<>]*>                                     # arguments and tags
    | \b(?:https?://|www\.)[^\s<>"]+               # addresses
    | [\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+
    | (?<!\w)[-+$€£\#]?\d(?:[\d.,:/-]*\d)?\w{0,3}\b%?  # numbers, dates, times, 3rd, 5km
    """,
    re.VERBOSE,
)
_COLON = re.compile(r":(?=\s)")
_MARKS = re.compile(rf"{MARK}(?:[\s,;.]*{MARK})+")
_SPACE = re.compile(r"\s+")
_LETTER = re.compile(r"[^\W\d_]")


def pattern(text: str) -> str:
    """`text` with its variable spans masked, lower-cased, white space squeezed to single spaces.

    Masked are code, quotations, <…>, addresses, numbers and dates, what follows the first colon
    ("Translate to French: good morning", later lines included) and what follows the first blank
    line. A text without a letter outside of its spans is its own pattern. Idempotent; linear in
    the first `MAX_CHARACTERS` characters, the rest is not read.

    Method: MemPrompt keys its memory by the question without its arguments (Madaan et al. 2022).
    """
    line = text[:MAX_CHARACTERS].lower()
    # A mask may bring together what forms another span; each round leaves less that is no mark.
    while (again := _masked(line)) != line:
        line = again
    return line


def _masked(text: str) -> str:
    body = FENCE.sub(MARK, text).strip()
    first = _PARAGRAPH.sub(f" {MARK}", body)
    lines = (_squeeze(_content(_SPANS.sub(MARK, _squeeze(part)))) for part in (first, body))
    return _cut(next((line for line in lines if _LETTER.search(line)), _squeeze(text)))


def _content(line: str) -> str:
    """`line` with all that follows the instruction's colon masked."""
    word = _LETTER.search(line)
    colon = _COLON.search(line, word.end()) if word else None
    return f"{line[: colon.end()]} {MARK}" if colon else line


def _squeeze(text: str) -> str:
    return _SPACE.sub(" ", _MARKS.sub(MARK, text)).strip()


def _cut(line: str) -> str:
    return line if len(line) <= MAX_PATTERN else line[:MAX_PATTERN].rsplit(" ", 1)[0]
