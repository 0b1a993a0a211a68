"""Families whose answer comes from labels, facts, rules, notes or conventions met in the prompt.

Each family is a function of a seeded generator and a number of demonstrations. It draws the labels,
facts and conventions anew every time, so that only the prompt can tell the answer. Refuses to know
how often it is drawn or what is held out.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tta.micro.corpus_edits import FIXED, Edit, apply_all, draw_edit, draw_edits
from tta.micro.corpus_episode import UNKNOWN, Episode, System, Turn
from tta.micro.corpus_words import (
    CITIES,
    COLOURS,
    COMMON,
    LABELS,
    NAMES,
    TOPICS,
    listed,
    nonce,
    reply,
    request,
    thing,
    value,
    word,
    words,
)

Family = Callable[[Random, int], Episode]


# ---- labels ------------------------------------------------------------------------------------


def _label(rng: Random) -> str:
    p = rng.random()
    if p < 0.3:
        return nonce(rng)
    if p < 0.6:
        return rng.choice(LABELS)
    if p < 0.9:
        parts = [rng.choice((rng.choice(COMMON), rng.choice(LABELS))) for _ in range(2)]
        return rng.choice(("_", "_", "-", " ")).join(parts)
    return rng.choice(
        (nonce(rng).upper(), nonce(rng).capitalize(), rng.choice(LABELS).capitalize())
    )


def _labels(rng: Random, count: int) -> list[str]:
    made: list[str] = []
    while len(made) < count:
        label = _label(rng)
        if label not in made:
            made.append(label)
    return made


def _writers(rng: Random, count: int) -> list[Callable[[], str]]:
    """For each class a way to write requests that share words with no other class."""
    if rng.random() < 0.55:
        topics = rng.sample(tuple(TOPICS.values()), count)
        narrow = rng.random() < 0.5
        pools = [rng.sample(t, 2) if narrow else list(t[:3]) for t in topics]
        return [lambda p=p: request(rng, rng.choice(p)) for p in pools]  # type: ignore[misc]
    fill = listed("please my the help with how do I about can you a is was it this of not very")
    marks = [[word(rng) for _ in range(rng.randint(1, 3))] for _ in range(count)]

    def write(mark: list[str]) -> str:
        parts = [rng.choice(fill) for _ in range(rng.randint(1, 4))]
        parts += [rng.choice(mark) for _ in range(rng.randint(1, 2))] + [word(rng)]
        rng.shuffle(parts)
        return " ".join(parts)

    return [lambda m=m: write(m) for m in marks]  # type: ignore[misc]


_LABEL_FORMS = (
    "{}",
    "{}",
    "{}",
    "{}",
    "Text: {}\nLabel:",
    "Classify: {}",
    "Label this: {}",
    '"{}"',
)
_LABEL_OWN = (
    "",
    "",
    "",
    "Label the text.",
    "Pick the label.",
    "Classify each message.",
    "Answer with the label only.",
)


def labels(rng: Random, shots: int) -> Episode:
    """Label by example: 1 to 8 classes whose names mean nothing by themselves."""
    count = max(1, min(shots, rng.choice((2, 2, 3, 3, 4, 5, 6, 8))))
    names, writers = _labels(rng, max(count, 2)), _writers(rng, max(count, 2))
    form, prefix = rng.choice(_LABEL_FORMS), rng.choice(("",) * 9 + ("label: ",))
    own = rng.choice(_LABEL_OWN)
    order = list(range(count)) + [rng.randrange(count) for _ in range(max(0, shots - count))]
    rng.shuffle(order)
    if shots == 0:
        return _label_guess(rng, names, form.format(writers[0]()), own)
    turns, seen = [], set[int]()
    for index in order:
        turns.append(Turn(form.format(writers[index]()), prefix + names[index], index in seen))
        seen.add(index)
    asked = rng.choice(order)
    if rng.random() < 0.5:  # memory puts the most similar demonstration last
        where = max(i for i, index in enumerate(order) if index == asked)
        turns.append(turns.pop(where))
        first = {t.answer: i for i, t in reversed(list(enumerate(turns)))}
        turns = [Turn(t.user, t.answer, i != first[t.answer]) for i, t in enumerate(turns)]
    for _ in range(rng.choice((0, 0, 1, 2))):
        index = rng.choice(order)
        turns.append(Turn(form.format(writers[index]()), prefix + names[index]))
    turns.append(Turn(form.format(writers[asked]()), prefix + names[asked]))
    answers = tuple(names) if rng.random() < 0.3 else ()
    return Episode(tuple(turns), System(own=own, answers=answers))


def _label_guess(rng: Random, names: list[str], text: str, own: str) -> Episode:
    """No example: with a closed answer set a guess among it, otherwise an honest answer."""
    if rng.random() < 0.4:
        return Episode((Turn(text, rng.choice(names)),), System(own=own, answers=tuple(names)))
    return Episode((Turn(text, UNKNOWN),), System(own=own))


# ---- facts -------------------------------------------------------------------------------------

# A fact as it is told, and the ways to ask for it: {a} is what it is about, {v} what it says.
_RELATIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    *(
        (
            f"{{a}}'s {what} is {{v}}",
            (
                f"What is {{a}}'s {what}?",
                f"{{a}}'s {what}?",
                f"Tell me the {what} of {{a}}.",
                f"{what} of {{a}}?",
            ),
        )
        for what in (
            "desk",
            "favourite colour",
            "badge number",
            "home town",
            "manager",
            "team",
            "phone extension",
            "start month",
            "password",
            "dog",
            "room",
            "hobby",
        )
    ),
    *(
        (
            f"The {what} of {{a}} is {{v}}",
            (
                f"What is the {what} of {{a}}?",
                f"The {what} of {{a}}?",
                f"Tell me the {what} of {{a}}.",
            ),
        )
        for what in ("capital", "colour", "code", "price", "owner", "size", "name", "opening time")
    ),
    ("{a} lives in {v}", ("Where does {a} live?", "In which place does {a} live?")),
    ("{a} opens at {v}", ("When does {a} open?", "What time does {a} open?")),
    ("{a} costs {v}", ("How much does {a} cost?", "What does {a} cost?", "Price of {a}?")),
    ("{a} likes {v}", ("What does {a} like?", "Tell me what {a} likes.")),
    ("{a} means {v}", ("What does {a} mean?", "Meaning of {a}?")),
    ("{a} was made by {v}", ("Who made {a}?", "{a} was made by whom?")),
    ("The {a} is in {v}", ("Where is the {a}?", "Where can I find the {a}?")),
    ("The {a} is {v}", ("What is the {a}?", "Tell me the {a}.", "the {a}?")),
    ("Order {a} ships on {v}", ("When does order {a} ship?", "When will order {a} ship?")),
)


def _subject(rng: Random) -> str:
    p = rng.random()
    if p < 0.45:
        return rng.choice(NAMES)
    if p < 0.75:
        return nonce(rng).capitalize()
    return rng.choice(
        (thing(rng), nonce(rng), str(rng.randint(1, 999)), f"the {rng.choice(COMMON)}")
    )


def _facts(rng: Random, count: int) -> list[tuple[str, tuple[str, ...], str, bool]]:
    """Facts as (told, ways to ask, value, a full sentence ends it); no question has two answers."""
    few = rng.sample(_RELATIONS, min(len(_RELATIONS), rng.randint(1, 4)))
    stop, seen = rng.random() < 0.4, set[tuple[str, str]]()
    out: list[tuple[str, tuple[str, ...], str, bool]] = []
    people = [_subject(rng) for _ in range(rng.randint(2, 6))]
    while len(out) < count:
        told, asks = rng.choice(few)
        about = rng.choice(people) if rng.random() < 0.7 else _subject(rng)
        if (told, about) in seen:
            continue
        seen.add((told, about))
        v = value(rng)
        line = told.format(a=about, v=v) + ("." if stop else "")
        out.append((line, tuple(ask.format(a=about) for ask in asks), v, stop))
    return out


def facts(rng: Random, shots: int) -> Episode:
    """Look up a fact: told in the system text, or learned from an earlier question and answer."""
    if rng.random() < 0.35:
        return _facts_from_turns(rng, shots)
    known = _facts(rng, rng.randint(1, 9) + shots)
    asked = rng.sample(known, min(len(known), shots + 1))
    turns = [Turn(rng.choice(asks), v) for _, asks, v, _ in asked]
    if rng.random() < 0.1 and len(known) > 1:
        told = tuple(line for line, _, v, _ in known if v != asked[-1][2])
        turns[-1] = Turn(turns[-1].user, UNKNOWN)
        return Episode(tuple(turns), System(facts=told))
    return Episode(tuple(turns), System(facts=tuple(line for line, *_ in known)))


def _facts_from_turns(rng: Random, shots: int) -> Episode:
    if shots == 0:
        line, asks, _, _ = _facts(rng, 1)[0]
        other = tuple(f[0] for f in _facts(rng, rng.randint(0, 4)) if f[0].split()[0] not in line)
        return Episode((Turn(rng.choice(asks), UNKNOWN),), System(facts=other))
    known = _facts(rng, shots)
    turns = [Turn(rng.choice(asks), v, False) for _, asks, v, _ in known]
    for _, asks, v, _ in rng.sample(known, min(len(known), rng.randint(1, 2))):
        turns.append(Turn(rng.choice(asks), v))
    return Episode(tuple(turns))


# ---- rules and notes ---------------------------------------------------------------------------

_BASES = (
    "Repeat: {}",
    "Repeat: {}",
    "Say: {}",
    "Echo: {}",
    "Repeat after me: {}",
    "Write: {}",
    'Repeat "{}"',
    "Say {}",
    "Copy this: {}",
)


def _content(rng: Random) -> str:
    return words(rng, 1, 5)


def rules(rng: Random, shots: int) -> Episode:
    """Follow rules: one, several at once, or two that contradict each other and the later wins."""
    count = rng.choice((0, 1, 1, 1, 1, 1, 2, 2, 2, 3))
    edits = draw_edits(rng, count)
    if count == 2 and rng.random() < 0.4:
        again = [e for e in FIXED if e.kind == edits[0].kind and e != edits[0]]
        edits[1] = rng.choice(again or list(FIXED))
    told = tuple(rng.choice(edit.rules) for edit in edits)
    if rng.random() < 0.15:
        return _rules_on_facts(rng, shots, edits, told)
    base, many = rng.choice(_BASES), range(shots + 1 + (rng.random() < 0.3))
    turns = [Turn(base.format(c), apply_all(edits, c)) for c in (_content(rng) for _ in many)]
    return Episode(tuple(turns), System(rules=told))


def _rules_on_facts(rng: Random, shots: int, edits: list[Edit], told: tuple[str, ...]) -> Episode:
    known = _facts(rng, rng.randint(1, 5) + shots)
    asked = rng.sample(known, shots + 1)
    turns = tuple(Turn(rng.choice(asks), apply_all(edits, v)) for _, asks, v, _ in asked)
    return Episode(turns, System(rules=told, facts=tuple(line for line, *_ in known)))


_NOTE_FORMS = (
    "when asked to {w}, {d}",
    "if asked to {w} something, {d}",
    "to {w} means: {d}",
    "when the user says {w}, {d}",
    '"{w}" means: {d}',
)
_ASK_FORMS = ("{w} '{x}'.", "{w} '{x}'", '{w} "{x}"', "{w}: {x}", "{w} {x}", "Please {l} '{x}'.")
_VERBS = listed(
    "bless frame polish echo double crown seal dress stamp flip plant paint launch fold shake "
    "rank mirror announce tag treat handle process transform prepare mark"
)


def notes(rng: Random, shots: int) -> Episode:
    """A note says what an instruction word means; several words, one is used."""
    count = rng.randint(1, 4)
    verbs: list[str] = []
    while len(verbs) < count:
        verb = rng.choice((nonce(rng), rng.choice(_VERBS)))
        if verb not in verbs:
            verbs.append(verb)
    edits = [_noted(rng) for _ in verbs]
    form, ask = rng.choice(_NOTE_FORMS), rng.choice(_ASK_FORMS)
    told = tuple(form.format(w=v, d=e.note) for v, e in zip(verbs, edits, strict=True))
    turns = []
    for _ in range(shots + 1 + (rng.random() < 0.3)):
        i, x = rng.randrange(count), words(rng, 1, 4)
        user = ask.format(w=verbs[i].capitalize(), l=verbs[i], x=x)
        turns.append(Turn(user, apply_all([edits[i]], x)))
    if rng.random() < 0.08:
        told = tuple(line for line in told if verbs[i] not in line)
        turns = [Turn(user, UNKNOWN)]
    return Episode(tuple(turns), System(notes=told))


def _noted(rng: Random) -> Edit:
    if rng.random() < 0.12:
        plain = rng.choice((thing(rng), nonce(rng), rng.choice(CITIES)))
        return Edit("pick", (), f'say "{plain}"', lambda _: plain)
    return draw_edit(rng)


# ---- conventions and repeated requests ---------------------------------------------------------

_ORDERS = (
    "Greet",
    "Thank",
    "Invite",
    "Describe",
    "Name",
    "Introduce",
    "Call",
    "Write to",
    "Tell me about",
    "What about",
    "Convert",
    "Mention",
    "Announce",
    "Wish",
    "Help",
    "Order",
    "Find",
    "Show",
)
_OPENERS = (
    "Dear",
    "Hello",
    "Hi",
    "Welcome,",
    "Good morning,",
    "Thank you,",
    "To",
    "Re:",
    "Note:",
    "The",
    "My dear",
    "Greetings,",
    "Here is",
    "I like",
    "About",
    "Please meet",
    "Ahoy",
    "Oh,",
)
_CLOSERS = (
    ",",
    "!",
    ".",
    "",
    "",
    " please.",
    ", welcome!",
    " is here.",
    ", thanks.",
    " (done)",
    " and friends",
    ", how are you?",
    " - end",
    " again.",
    ", see you soon.",
    ";",
)


def _slot(rng: Random) -> Callable[[], str]:
    kind = rng.randrange(5)
    if kind == 0:
        return lambda: rng.choice(NAMES)
    if kind == 1:
        return lambda: rng.choice(CITIES)
    if kind == 2:
        return lambda: thing(rng)
    return (lambda: words(rng, 1, 3)) if kind == 3 else (lambda: word(rng))


def _template(rng: Random) -> Callable[[str], str]:
    """A way to answer around a slot: opening and closing, with an edit in the middle at times."""
    p = rng.random()
    edits = draw_edits(rng, 1) if p < 0.4 else []
    if p < 0.25:
        return lambda x: apply_all(edits, x)
    opener = rng.choice(
        (rng.choice(_OPENERS), word(rng), word(rng).capitalize(), words(rng, 1, 3), "")
    )
    closer = rng.choice((rng.choice(_CLOSERS), rng.choice(_CLOSERS), f" {word(rng)}"))
    gap = rng.choice((" ", " ", " ", ": ", "-")) if opener else ""
    return lambda x: f"{opener}{gap}{apply_all(edits, x)}{closer}"


def conventions(rng: Random, shots: int) -> Episode:
    """A way of answering shown by demonstrations and carried over to something new."""
    slot, answer = _slot(rng), _template(rng)
    p = rng.random()
    if p < 0.6:
        ask = rng.choice(_ORDERS) + " {}" + rng.choice((".", ".", "", "!"))
    elif p < 0.8:
        ask = rng.choice(("{}", "{}:", "{}?", "-> {}", "{} =>"))
    else:
        ask = f"{words(rng, 1, 2)} {{}}{rng.choice(('', '.', '?', f' {word(rng)}'))}"
    if shots == 0:
        return Episode((Turn(ask.format(slot()), UNKNOWN),))
    extra = 1 + (rng.random() < 0.4)
    made = [slot() for _ in range(shots + extra)]
    turns = tuple(Turn(ask.format(x), answer(x), i > 0) for i, x in enumerate(made))
    return Episode(turns)


def repeats(rng: Random, shots: int) -> Episode:
    """The same request again among several: the answer it got before is the answer."""
    if shots == 0:
        return Episode((Turn(request(rng), UNKNOWN),))
    plain = rng.randrange(3) < 2
    seen: dict[str, str] = {}
    same = thing(rng) if rng.random() < 0.3 else ""
    for _ in range(50):
        if len(seen) == shots:
            break
        user = request(rng, same) if same or plain else words(rng, 2, 9)
        seen.setdefault(user, reply(rng))
    pairs = list(seen.items())
    again = rng.choice(pairs)
    if rng.random() < 0.6:  # memory puts the most similar demonstration last
        pairs.remove(again)
        pairs.append(again)
    asked = Turn(_reworded(rng, again[0], seen), again[1])
    turns = [*(Turn(u, a, False) for u, a in pairs), asked]
    if rng.random() < 0.4:
        turns.insert(len(pairs), Turn(*rng.choice(pairs)))
    facts_ = tuple(f[0] for f in _facts(rng, rng.randint(1, 3))) if rng.random() < 0.1 else ()
    return Episode(tuple(turns), System(facts=facts_))


def _reworded(rng: Random, text: str, taken: dict[str, str]) -> str:
    """Mostly the very same request, at times with a small difference that changes nothing."""
    if rng.random() < 0.8:
        return text
    other = rng.choice((text.lower(), text.rstrip("?.!"), f"Please: {text}", text + " Thanks."))
    return text if other in taken else other


def idle(rng: Random, shots: int) -> Episode:
    """Nothing in the prompt helps: the honest answer, even after other demonstrations."""
    plain = (
        lambda: request(rng),
        lambda: rng.choice(_facts(rng, 1)[0][1]),
        lambda: words(rng, 2, 6),
    )
    turns = [Turn(request(rng), reply(rng), False) for _ in range(shots)]
    used = {w for turn in turns for w in turn.user.lower().split()}
    asked = rng.choice(plain)()
    own = rng.choice(
        (
            "",
            "",
            "",
            "You are a helpful assistant.",
            "Answer briefly.",
            f"You work for {rng.choice(NAMES)}.",
            f"The {rng.choice(COLOURS)} desk.",
        )
    )
    overlap = len(used & set(asked.lower().split()))
    if overlap > 1:
        turns = []
    return Episode((*turns, Turn(asked, UNKNOWN)), System(own=own))


FAMILIES: dict[str, Family] = {
    "labels": labels,
    "facts": facts,
    "rules": rules,
    "notes": notes,
    "conventions": conventions,
    "repeats": repeats,
    "idle": idle,
}
