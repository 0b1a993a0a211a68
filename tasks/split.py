"""Which part of a request says what to do, and which part it is to be done to.

Knows the layout of a request and the words that instructions are made of. Knows nothing of other
requests: which of the parts recur is for `infer` to see.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tta.tasks import mask
from tta.tasks.words import VERBS

_BREAK = re.compile(r"\n(?:[^\w`\n]*\n)+")
_QUOTED = re.compile(r'"""[\s\S]*?(?:"""|\Z)|"(?=[^"\n]*\n)(?:[^"\n]|\n(?!\s*\n))*"')
_LETTER = re.compile(r"[^\W\d_]")
_LABEL = re.compile(r"^[^\W\d_]\w*(?: ?\w{1,12}){0,2} ?:(?=\s|$)")
_TAIL = re.compile(
    rf"\s*\b(?:input|output|text|answer|response|question):(?:\s*{mask.MARK})?(?:\s*output:)?$"
)
_DELIMITED = re.compile(r"[`\"“«<]|:(?=\s)|(?<!\w)['‘]")
_MARKED = re.compile(r"[<\n]|:(?=\s)")
_SENTENCE = re.compile(r"(?:^|(?<=[.!?:,])\s+|\n)(?:please,? |then |now |first,? |and )?(\w+)")
_ADDRESS = re.compile(
    r"\b(?:you(?:'re|'ll|r)?|please|i(?:'d like| want| need)|"
    r"(?:the|this) (?:following|task|exercise|assignment|output|answer)|"
    r"task|given|following|below|above|otherwise|respectively|whether|answer|output|respond|reply)"
    r"\b"
)
_COURTESY = re.compile(
    r"^(?:(?:hi|hello|hey|okay|ok|next one|please help me with this)\b(?: there)?[!,.]*\s+)+"
    r"|\s*(?:thanks|thank you)[!.]*$"
)
HEAD, TAIL = 2_000, 1_000
_JUDGED = 600
"""Characters of a part by which it is judged."""
_FIRST = 0.06
"""How much the first of several parts is preferred: instructions mostly stand before content."""
_CLEAR = 0.04
_SURE, _SURE_CLOSED = 0.12, 0.5
_SHARE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The instruction of a request, its variable spans masked; `bare` if there is none to be told
    from the content: then the pattern is the whole text."""

    pattern: str
    bare: bool = False


def split(text: str, *, closed: bool = False) -> Split:
    """The instruction of a request, before or after its content.

    Parts are divided by blank lines and by rules. A part is an instruction as far as its sentences
    begin with what can be asked for ("translate", "list") and address whoever answers; of a part,
    lines that do so much less than the others are content. Of a long request only the first
    `HEAD` and the last `TAIL` characters are read. What has one part, no colon and no quotation is
    bare unless it sounds like an instruction; where the answers are `closed`, it has to sound much
    more like one: "Name a river" is a question to be sorted then.
    """
    parts = _parts(text)
    judged = parts[:1] + parts[1:][-1:]
    likeness = [instructs(part) for part in judged]
    preferred = likeness.copy()
    if judged and not _LABEL.match(judged[0]):
        preferred[0] += _FIRST
    for best in sorted(range(len(judged)), key=lambda i: -preferred[i]):
        if pattern := _instruction(judged[best]):
            marks, sure = (_MARKED, _SURE_CLOSED) if closed else (_DELIMITED, _SURE)
            whole = len(parts) == 1 and not marks.search(judged[best])
            return Split(pattern=pattern, bare=whole and likeness[best] < sure)
    return Split(pattern=mask.pattern(text[:_JUDGED]), bare=True)


def _parts(text: str) -> list[str]:
    if len(text) > HEAD + TAIL:
        text = f"{text[:HEAD]}\n\n\n{text[-TAIL:]}"
    plain = _QUOTED.sub(f" {mask.MARK} ", mask.FENCE.sub(mask.MARK, text.lower()))
    return [part for part in (p.strip() for p in _BREAK.split(plain)) if part]


def instructs(part: str) -> float:
    """How much of a lower-cased part is instruction: 0 to about 1."""
    head = part[:_JUDGED]
    words = head.split()
    if not _LETTER.search(head):
        return -1.0
    verbs = sum(word in VERBS for word in _SENTENCE.findall(head))
    said = 3 * verbs + len(_ADDRESS.findall(head))
    return said / (len(words) + 8) * (0.2 if _LABEL.match(part) else 1.0)


def _instruction(part: str) -> str:
    """The lines of a part that instruct, masked; the whole part if none stands out."""
    lines = [line for line in part.split("\n") if line.strip()]
    if len(lines) > 1:
        likeness = [instructs(line.strip()) for line in lines]
        top = max(likeness)
        if top >= _CLEAR:
            lines = [li for li, s in zip(lines, likeness, strict=True) if s >= _SHARE * top]
    pattern = mask.pattern("\n".join(lines)[:_JUDGED])
    return _COURTESY.sub("", _TAIL.sub("", pattern))
