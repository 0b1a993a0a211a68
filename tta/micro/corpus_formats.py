"""Families that turn one text into another: formats, JSON, arithmetic, edits and tool calls.

Same contract as corpus_families: a seeded generator and a number of demonstrations give an episode.
Refuses to know how often it is drawn or what is held out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random

from tta.micro.corpus_episode import UNKNOWN, Episode, System, Turn
from tta.micro.corpus_words import (
    CITIES,
    COLOURS,
    DAYS,
    MONTHS,
    NAMES,
    SURNAMES,
    listed,
    nonce,
    request,
    thing,
    word,
    words,
)

Family = Callable[[Random, int], Episode]
Parts = tuple[str, ...]
Writer = Callable[[Parts], str]


# ---- formats -----------------------------------------------------------------------------------

_DATES: tuple[Writer, ...] = (  # parts: day, month, year, month name
    lambda p: f"{p[0]}/{p[1]}/{p[2]}",
    lambda p: f"{p[2]}-{p[1]}-{p[0]}",
    lambda p: f"{p[3][:3]} {int(p[0])}, {p[2]}",
    lambda p: f"{int(p[0])} {p[3]} {p[2]}",
    lambda p: f"{p[1]}.{p[0]}.{p[2][2:]}",
    lambda p: f"{p[0]}-{p[3][:3]}-{p[2]}",
    lambda p: f"{p[3]} {p[2]}",
)
_PEOPLE: tuple[Writer, ...] = (  # parts: first name, surname
    lambda p: f"{p[0]} {p[1]}",
    lambda p: f"{p[1]}, {p[0]}",
    lambda p: f"{p[1].upper()} {p[0]}",
    lambda p: f"{p[0].lower()}.{p[1].lower()}",
    lambda p: f"{p[0].lower()}_{p[1].lower()}",
    lambda p: f"{p[1]} {p[0]}",
)
_MONEY: tuple[Writer, ...] = (  # parts: whole, cents, code, sign
    lambda p: f"{p[0]}.{p[1]} {p[2]}",
    lambda p: f"{p[3]}{p[0]}.{p[1]}",
    lambda p: f"{p[2]} {p[0]},{p[1]}",
    lambda p: f"{p[0]} {p[2]}",
    lambda p: f"{p[0]}.{p[1]}{p[3]}",
)
_TIMES: tuple[Writer, ...] = (  # parts: hour, minute
    lambda p: f"{p[0]}:{p[1]}",
    lambda p: f"{p[0]}h{p[1]}",
    lambda p: f"{p[0]}.{p[1]}",
    lambda p: f"{p[0]} hours {p[1]} minutes",
    lambda p: f"at {p[0]}:{p[1]}",
)
_LISTS: tuple[Writer, ...] = (  # parts: any words
    lambda p: ", ".join(p),
    lambda p: " | ".join(p),
    lambda p: "; ".join(p),
    lambda p: " and ".join(p),
    lambda p: "-".join(p),
    lambda p: "/".join(p),
    lambda p: "\n".join(f"- {x}" for x in p),
    lambda p: "[" + ", ".join(p) + "]",
    lambda p: ",".join(f'"{x}"' for x in p),
)
_PAIRS: tuple[Writer, ...] = (  # parts: key, value
    lambda p: f"{p[0]}: {p[1]}",
    lambda p: f"{p[0]}={p[1]}",
    lambda p: f"{p[1]} ({p[0]})",
    lambda p: f"<{p[0]}>{p[1]}</{p[0]}>",
    lambda p: f"{p[0]} is {p[1]}",
    lambda p: f'{{"{p[0]}": "{p[1]}"}}',
)


def _date(rng: Random) -> Parts:
    month = rng.randint(1, 12)
    return (
        f"{rng.randint(1, 28):02d}",
        f"{month:02d}",
        str(rng.randint(1950, 2049)),
        MONTHS[month - 1],
    )


def _money(rng: Random) -> Parts:
    code, sign = rng.choice((("EUR", "€"), ("USD", "$"), ("GBP", "£")))
    return (str(rng.randint(1, 999)), f"{rng.randint(0, 99):02d}", code, sign)


FORMATS: tuple[tuple[tuple[Writer, ...], Callable[[Random], Parts]], ...] = (
    (_DATES, _date),
    (_PEOPLE, lambda rng: (rng.choice(NAMES), rng.choice(SURNAMES))),
    (_MONEY, _money),
    (_TIMES, lambda rng: (str(rng.randint(1, 23)), f"{rng.randint(0, 59):02d}")),
    (_LISTS, lambda rng: tuple(word(rng) for _ in range(rng.randint(2, 4)))),
    (_PAIRS, lambda rng: (word(rng), word(rng))),
)
# No source may lack what a target needs: month and year alone do, and euros without cents.
_LOSSY = {_DATES: (4, 6), _PEOPLE: (2, 3, 4), _MONEY: (3,)}


def formats(rng: Random, shots: int) -> Episode:
    """Convert a format; the target is shown by examples and named nowhere."""
    writers, draw = rng.choices(FORMATS, (4, 2, 2, 2, 3, 2))[0]
    sources = [i for i in range(len(writers)) if i not in _LOSSY.get(writers, ())]
    source = rng.choice(sources)
    target = rng.choice([i for i in range(len(writers)) if i != source])
    form = rng.choice(("{}", "{}", "{}", "Convert: {}", "Convert {}"))
    turns = []
    for i in range(shots + 1 + (rng.random() < 0.4)):
        parts = draw(rng)
        turns.append(Turn(form.format(writers[source](parts)), writers[target](parts), i > 0))
    if shots == 0:
        turns = [Turn(turns[0].user, UNKNOWN)]
    return Episode(tuple(turns))


# ---- JSON --------------------------------------------------------------------------------------

_JSON_ASKS = (
    "Return JSON with keys {}.",
    "Answer in JSON with the keys {}.",
    "Extract as JSON: {}.",
)
_PHRASES = {
    "name": ("{} called", "{} wrote", "message from {}", "{} here,"),
    "item": ("wants {}", "ordered {}", "asks for {}", "needs {}"),
    "amount": ("pays {}", "for {} euros", "owes {}"),
    "city": ("in {}", "from {}", "lives in {}"),
    "colour": ("in {} colour", "the {} one", "painted {}"),
    "day": ("on {}", "before {}", "by {}"),
    "code": ("code {}", "reference {}"),
}


def _fields(rng: Random) -> dict[str, str | int]:
    return {
        "name": rng.choice(NAMES),
        "item": rng.choice((nonce(rng), thing(rng), word(rng))),
        "amount": rng.randint(1, 999),
        "city": rng.choice((nonce(rng).capitalize(), rng.choice(CITIES))),
        "colour": rng.choice(COLOURS),
        "day": rng.choice(DAYS),
        "code": nonce(rng).upper()[:3] + str(rng.randint(10, 999)),
    }


def extraction(rng: Random, shots: int) -> Episode:
    """Extract to JSON: the keys stand in the system text, in a rule, or only in demonstrations."""
    keys = rng.sample(tuple(_PHRASES), rng.randint(2, 4))
    ask = rng.choice(_JSON_ASKS).format(", ".join(keys))
    where = rng.randrange(4) if shots else rng.randrange(3)
    system = (System(own=ask), System(own=ask), System(rules=(ask,)), System())[where]
    turns = []
    for i in range(shots + 1 + (rng.random() < 0.3)):
        have = _fields(rng)
        named = [k for k in _PHRASES if k in keys or rng.random() < 0.3]
        text = " ".join(rng.choice(_PHRASES[k]).format(have[k]) for k in named)
        answer = json.dumps({k: have[k] for k in keys})
        turns.append(Turn(text, answer, where < 3 or i > 0))
    if rng.random() < 0.06:
        return Episode((Turn(turns[0].user, UNKNOWN),))
    return Episode(tuple(turns), system)


# ---- arithmetic --------------------------------------------------------------------------------

_SUMS = (
    "{a}{o}{b}=",
    "{a}{o}{b}=",
    "{a} {o} {b} =",
    "What is {a} {o} {b}?",
    "{a} {o} {b}",
    "Calculate {a} {o} {b}.",
    "How much is {a} {o} {b}?",
)


def _problem(rng: Random) -> tuple[int, str, int, int]:
    kind = rng.choices(("small", "two", "three", "minus", "times"), (2, 4, 2, 3, 2))[0]
    if kind == "small":
        a, b = rng.randint(0, 20), rng.randint(0, 20)
    elif kind == "three":
        a, b = rng.randint(100, 999), rng.randint(10, 999)
    elif kind == "times":
        a, b = rng.randint(2, 99), rng.randint(2, 9)
        return a, "*", b, a * b
    else:
        a, b = rng.randint(10, 99), rng.randint(10, 99)
    if kind == "minus":
        a, b = max(a, b), min(a, b)
        return a, "-", b, a - b
    return a, "+", b, a + b


def arithmetic(rng: Random, shots: int) -> Episode:
    """Short arithmetic: needs nothing from the prompt, and stays hard for a small model."""
    form, turns = rng.choice(_SUMS), []
    for _ in range(shots + 1):
        a, o, b, result = _problem(rng)
        turns.append(Turn(form.format(a=a, o=o, b=b), str(result), key=f"{a}{o}{b}"))
    return Episode(tuple(turns))


def sum_form(rng: Random) -> str:
    """A way to ask for a sum: a template of ``a``, ``o`` and ``b``."""
    return rng.choice(_SUMS)


def sum_or_difference(rng: Random, form: str, limit: int) -> Turn:
    """A sum or a difference of two numbers up to ``limit``."""
    a, b = rng.randint(0, limit), rng.randint(0, limit)
    o = "+" if rng.random() < 0.65 else "-"
    a, b = (a, b) if o == "+" else (max(a, b), min(a, b))
    result = a + b if o == "+" else a - b
    return Turn(form.format(a=a, o=o, b=b), str(result), key=f"{a}{o}{b}")


def sums(rng: Random, shots: int) -> Episode:
    """Shorter arithmetic: sums and differences of at most two digits."""
    form, turns = sum_form(rng), []
    for _ in range(shots + 1):
        turns.append(sum_or_difference(rng, form, 20 if rng.random() < 0.5 else 99))
    return Episode(tuple(turns))


# ---- copy with an edit -------------------------------------------------------------------------


def _one_edit(rng: Random, kind: int) -> Turn:
    text = rng.choice((words(rng, 3, 7), request(rng)))
    parts = text.split(" ")
    if kind == 0:
        old, new = rng.choice(parts), word(rng)
        done = " ".join(new if p == old else p for p in parts)
        return Turn(f"Replace {old} with {new}: {text}", done)
    if kind == 1:
        old = rng.choice(parts)
        return Turn(f"Delete {old}: {text}", " ".join(p for p in parts if p != old))
    if kind == 2:
        new = words(rng, 1, 2)
        return Turn(f"Append {new}: {text}", f"{text} {new}")
    if kind == 3:
        new = words(rng, 1, 2)
        return Turn(f"Put {new} before: {text}", f"{new} {text}")
    if kind == 4:
        done = " ".join([parts[-1], *parts[1:-1], parts[0]])
        return Turn(f"Swap the first and last word: {text}", done)
    return Turn(f"Repeat: {text}", text)


def edits(rng: Random, shots: int) -> Episode:
    """Copy with an edit: replace, delete, append, put before, swap, or nothing at all."""
    kind = rng.randrange(6)
    return Episode(tuple(_one_edit(rng, kind) for _ in range(shots + 1)))


# ---- tools -------------------------------------------------------------------------------------

_VERBS = listed("get find send open book check order play show start stop call read set look_up")
_NOUNS = listed(
    "weather price mail door room status pizza song page timer light name file map stock"
)
_ARGS = listed("city name item day text code place id to query")


def _tool(rng: Random) -> tuple[str, str, str, str]:
    """A tool as (name, argument, how one asks for it, what fills the argument)."""
    p = rng.random()
    verb, noun = rng.choice(_VERBS), rng.choice(_NOUNS)
    if p < 0.3:
        verb = nonce(rng)
    name = f"{verb}_{noun}"
    ask = f"{verb.replace('_', ' ')} the {noun} {rng.choice(('for', 'of', 'in', 'with'))} {{}}"
    return name, rng.choice(_ARGS), ask, ""


def tools(rng: Random, shots: int) -> Episode:
    """Call a named tool from the list in the system text."""
    listed = {t[0]: t for t in (_tool(rng) for _ in range(rng.randint(1, 4)))}
    dash = rng.choice(("- ", "- ", ""))
    head = rng.choice(("Tools:", "You can call these tools:", "Tools:"))
    own = head + "\n" + "\n".join(f"{dash}{name}({arg})" for name, arg, _, _ in listed.values())
    turns = []
    for _ in range(shots + 1 + (rng.random() < 0.3)):
        name, arg, ask, _ = rng.choice(list(listed.values()))
        x = rng.choice((rng.choice(NAMES), rng.choice(CITIES), words(rng, 1, 2), thing(rng)))
        user = ask.format(x)
        user = rng.choice(
            (user, user[0].upper() + user[1:] + ".", f"Please {user}", f"Can you {user}?")
        )
        turns.append(Turn(user, f'{name}({arg}="{x}")'))
    if rng.random() < 0.06:
        return Episode((Turn(turns[-1].user, UNKNOWN),))
    return Episode(tuple(turns), System(own=own))


FAMILIES: dict[str, Family] = {
    "formats": formats,
    "json": extraction,
    "arithmetic": arithmetic,
    "edits": edits,
    "tools": tools,
    "sums": sums,
}
