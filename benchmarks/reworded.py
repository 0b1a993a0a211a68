"""The same instruction in other words, by rules: no two requests of a stream are worded alike.

Knows English phrases that stand for each other and ways to lay out a request. Knows no tasks and
nothing of what a masker looks for; everything is drawn from one generator.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_LEADS = (
    r"in this task,? (?:you are|you're|you will be|you'll be) (?:given|presented with|shown)",
    r"(?:you are|you're|you will be|you'll be) (?:given|presented with|shown)",
    r"in this task,? you (?:need to|have to|should|will)",
    r"your (?:job|task) is to",
    r"you (?:need to|have to|should|must)",
    r"given(?= (?:a|an|the|some|two|real)\b)",
)
_SAID = (
    ("here you get", "you receive", "below there is", "i give you", "you'll see", "consider"),
    ("you get", "there is", "you receive", "i have", "below you find", "take"),
    ("please", "i'd like you to", "you are asked to", "your part is to"),
    ("you should", "i want you to", "the goal is to", "please", "what you do is"),
    ("please", "be sure to", "you are to", "you ought to", "it is up to you to"),
    ("here is", "take", "look at", "with", "i have"),
)
_SYNONYMS: tuple[tuple[str, ...], ...] = (
    ("generate", "write", "produce", "create", "come up with", "make"),
    ("determine", "decide", "find out", "figure out", "judge", "identify", "tell"),
    ("choose", "pick", "select"),
    ("indicate", "state", "say", "give"),
    ("answer", "reply", "respond"),
    ("suitable", "fitting", "appropriate", "good", "proper"),
    ("passage", "paragraph", "text", "excerpt"),
    ("short", "brief", "concise"),
    ("otherwise", "if not", "else"),
    ("label", "mark", "tag"),
    ("classify", "categorise", "sort"),
    ("based on", "going by", "from", "using"),
    ("contains", "includes", "holds", "has"),
    ("correct", "right", "true"),
    ("incorrect", "wrong", "faulty"),
    ("title", "headline", "heading"),
    ("provided", "supplied", "given"),
    ("describes", "expresses", "sums up"),
    ("main", "central", "key"),
    ("relationship", "relation", "connection"),
    ("should", "must", "is to", "has to"),
    ("whether", "if"),
    ("article", "piece", "report"),
    ("sentence", "statement", "line"),
    ("under", "below", "fewer than", "less than"),
    ("carefully", "closely", "with care"),
    ("task", "exercise", "assignment"),
    ("convert", "turn", "transform", "rewrite"),
    ("refers to", "stands for", "points to"),
    ("output", "result", "reply"),
)
_GROUP = {word: group for group in _SYNONYMS for word in group}
_WORDS = re.compile(
    r"\b(?:" + "|".join(sorted(map(re.escape, _GROUP), key=len, reverse=True)) + r")\b", re.I
)
_BEFORE = ("", "", "", "", "Hi! ", "Please help me with this. ", "Hello, ", "Next one. ", "OK. ")
_AFTER = ("", "", "", "", " Thanks!", " Thank you.", " Be exact.", " Take your time.")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
CHANGED = 0.6
"""Share of the words with a synonym that are replaced by one."""
KEPT = 0.75
"""Share of the sentences after the second that are kept."""


def reworded(instruction: str, rng: np.random.Generator) -> str:
    """`instruction` in other words: leads and words replaced, later sentences left out or moved."""
    sentences = [s for s in _SENTENCE.split(instruction.strip()) if s]
    later = [s for s in sentences[2:] if rng.random() < KEPT]
    if rng.random() < 0.5:
        later = [later[i] for i in rng.permutation(len(later))]
    text = " ".join(_said(s, rng) for s in [*sentences[:2], *later])
    return f"{_one(_BEFORE, rng)}{text}{_one(_AFTER, rng)}"


def laid_out(instruction: str, content: str, rng: np.random.Generator) -> str:
    """A request: the instruction first (four times of five) or last, set off in one of six ways."""
    before = (
        f"{instruction}\n\n{content}",
        f"{instruction}\n\nInput: {content}\nOutput:",
        f"{instruction}\n{content}",
        f"{instruction} Input: {content}",
        f"{instruction}\n---\n{content}",
        f'{instruction}\n\n"""{content}"""',
    )
    after = (f"{content}\n\n{instruction}", f"Input: {content}\n\n{instruction}")
    return _one(before if rng.random() < 0.8 else after, rng)


def _said(sentence: str, rng: np.random.Generator) -> str:
    lead = ""
    for pattern, others in zip(_LEADS, _SAID, strict=True):
        found = re.match(pattern, sentence, re.I)
        if found and rng.random() < 0.8:
            lead, sentence = _one(others, rng), sentence[found.end() :]
            break
    said = lead + _WORDS.sub(lambda found: _replaced(found.group(), rng), sentence)
    return said[0].upper() + said[1:]


def _replaced(word: str, rng: np.random.Generator) -> str:
    if rng.random() >= CHANGED:
        return word
    other = _one(_GROUP[word.lower()], rng)
    return other[0].upper() + other[1:] if word[0].isupper() else other


def _one(of: Sequence[str], rng: np.random.Generator) -> str:
    return of[int(rng.integers(len(of)))]
