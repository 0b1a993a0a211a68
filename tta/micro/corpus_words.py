"""The vocabulary of the bundled model's training text.

Knows words, names and how to invent new ones. Refuses to know tasks, turns or the model. Every word
and every sentence here was written for this file; no outside text is read.
"""

from __future__ import annotations

from random import Random


def listed(text: str) -> list[str]:
    """The words of ``text``: shorter to read and to keep in order than a list of strings."""
    return text.split()


NAMES = listed(
    "Mira Omar Lena Tariq Sofia Jun Priya Noah Aisha Diego Hana Kofi Elif Ravi Ines Bruno "
    "Zara Milo  Nadia Felix Ada Bob Carol Dan Eve Frank Grace Henry Iris Jack Karl Laura Mark "
    "Nina Oscar Paula  Quinn Rosa Sam Tina Ulla Victor Wendy Xena Yara Zoe Ben Clara David "
    "Emma George Helen Ivan Julia  Kim Leo Maria Nils Olga Peter Ruth Simon Tom Uma Vera Will "
    "Yusuf Ann John Mary Paul Alice"
)
SURNAMES = listed(
    "Lovelace Okafor Meyer Sato Silva Novak Haddad Jensen Costa Weber Rossi Kaya Singh Brown "
    "Moreau  Olsen Park Diaz Klein Stone Hill Young Green White Baker Cook Fisher Mason "
    "Turner Walker"
)
CITIES = listed(
    "Lima Oslo Cairo Paris Tokyo Berlin Madrid Rome Vienna Delhi Quito Accra Dublin Athens Prague "
    "Lisbon Seoul London Zurich Turin Porto Basel Bergen Leeds"
)
COLOURS = listed("red blue green teal black white amber coral olive ivory pink grey brown gold")
MONTHS = listed(
    "January February March April May June July August September October November December"
)
DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

# A topic is a handful of words that belong together: a class of requests one could label.
TOPICS: dict[str, tuple[str, ...]] = {
    "shipping": ("parcel", "delivery", "package", "courier", "tracking number"),
    "refund": ("refund", "return", "money back", "receipt", "credit note"),
    "card": ("card", "debit card", "credit card", "card payment", "new card"),
    "transfer": ("transfer", "payment", "deposit", "standing order", "bank transfer"),
    "login": ("password", "login", "account", "user name", "sign in code"),
    "travel": ("train", "flight", "ticket", "seat", "boarding pass"),
    "hotel": ("room", "hotel", "booking", "breakfast", "check in"),
    "school": ("lesson", "teacher", "homework", "exam", "class"),
    "food": ("pizza", "soup", "menu", "dinner", "table"),
    "office": ("printer", "desk", "meeting", "office key", "badge"),
    "weather": ("rain", "snow", "wind", "sun", "storm"),
    "health": ("doctor", "medicine", "headache", "appointment", "pharmacy"),
    "music": ("song", "concert", "guitar", "album", "band"),
    "sport": ("match", "team", "goal", "race", "coach"),
    "garden": ("flower", "tree", "seed", "lawn", "rose"),
    "car": ("car", "engine", "tyre", "fuel", "parking"),
    "phone": ("phone", "battery", "screen", "charger", "SIM card"),
    "invoice": ("invoice", "bill", "tax number", "due date", "fee"),
    "software": ("app", "update", "crash", "error message", "file"),
    "clothes": ("shirt", "coat", "shoes", "size", "dress"),
    "rate": ("exchange rate", "currency", "dollar", "euro", "interest"),
    "pet": ("dog", "cat", "vet", "puppy", "fish"),
    "book": ("book", "library", "novel", "page", "author"),
    "house": ("rent", "kitchen", "window", "heating", "door"),
}
LABELS = listed(
    "good bad urgent normal spam ham red blue high low yes no positive negative neutral left right "
    "alpha beta gamma delta north south east west question complaint praise order other billing "
    "support sales shipping travel finance sports science music food tech legal open closed true "
    "false hot cold fast slow"
)

ASKS = (
    "Where is my {x}?",
    "When will my {x} arrive?",
    "How do I change my {x}?",
    "I lost my {x}.",
    "My {x} is broken.",
    "Can I cancel the {x}?",
    "I need help with the {x}.",
    "The {x} does not work.",
    "What is wrong with my {x}?",
    "Please tell me about the {x}.",
    "Why was my {x} so late?",
    "I want to ask about the {x} from last week.",
    "Is there a problem with the {x}?",
    "How much does the {x} cost?",
    "There is something odd about this {x}",
    "who can look at the {x} today",
    "I am still waiting for my {x}!",
    "Could you send me the {x} again?",
    "How long does the {x} take?",
    "I was charged twice for the {x}",
    "my {x} was stolen, what now?",
    "Do you have another {x}?",
    "The {x} was better than I thought.",
    "what about the {x}",
    "Show me the {x} please",
    "Can someone explain how the {x} works?",
    "I would like a different {x}, thanks.",
    "Are you sure about the {x}?",
)
# Answers a person might insist on: nothing in the question gives them away.
REPLIES = (
    "Ask for the {x} first.",
    "Please wait until {day}.",
    "Call {name} at the front desk.",
    "We are sorry about the {x}.",
    "It takes {n} days.",
    "Send a photo of the {x}.",
    "Use the {colour} form.",
    "No, that is not possible.",
    "Yes, of course!",
    "Open the settings and choose {x}.",
    "Write to {name} in {city}.",
    "Check the {x} and try again.",
    "That costs {n} euros.",
    "The {x} is in room {n}.",
    "Only on {day}, before noon.",
    "Try the {x} on the left.",
    "Please bring your {x} and a pen.",
    "You can find it under {x}.",
    "Give me the number of the {x}.",
    "Never on {day}.",
    "Tell them: {x} first, {x2} second.",
    "{name} will do it.",
    "Go to {city} and ask for {name}.",
    "Thank you for asking about the {x}.",
    "I will check with the {colour} team.",
    "{x}",
    "{x} and {x2}",
    "{n}",
    "{city}",
    "{name}",
    "The answer is {x}.",
    "Page {n} of the {colour} book.",
)

COMMON = listed(
    "apple river stone cloud paper light garden window yellow simple early winter summer "
    "number letter market bridge silver copper forest island planet rocket banana cherry "
    "lemon orange butter bread cheese coffee water sugar pepper kitchen table chair pencil "
    "mirror basket bottle candle hammer ladder needle ribbon saddle tunnel valley harbor "
    "engine signal button pocket carpet blanket pillow quiet happy gentle brave clever strong "
    "bright heavy narrow hollow modern ancient empty second little big small long short old "
    "new great open hello world good morning thank you dear friend please small house tall "
    "tower cold night warm day blue sky green grass the a an and or but with from into over "
    "under after before very many some walk run jump read write sing draw build carry bring "
    "find make take give keep send call turn move play work help start stop wait look listen "
    "speak answer question reason problem result story history music picture animal flower "
    "mountain ocean desert city village street corner school teacher student doctor nurse "
    "farmer driver sailor painter writer king queen prince castle sword shield horse tiger "
    "lion bear wolf fox rabbit mouse bird eagle snake monday report meeting budget project "
    "client contract manager team schedule deadline version system server network screen "
    "keyboard file folder message email list note plan draft review update change"
)
CONSONANTS = "bcdfghjklmnprstvwz"
VOWELS = "aeiou"


def nonce(rng: Random, syllables: int = 0) -> str:
    """An invented word: pronounceable, and known to nobody before this prompt."""
    count = syllables or rng.randint(2, 3)
    stem = "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(count))
    return stem + (rng.choice(CONSONANTS) if rng.random() < 0.5 else "")


def thing(rng: Random) -> str:
    """A noun from any topic."""
    return rng.choice(TOPICS[rng.choice(tuple(TOPICS))])


def word(rng: Random) -> str:
    """One word: mostly ordinary, often invented, now and then a name or a random string."""
    p = rng.random()
    if p < 0.5:
        return rng.choice(COMMON)
    if p < 0.8:
        return nonce(rng)
    if p < 0.9:
        return rng.choice((rng.choice(NAMES), rng.choice(CITIES), rng.choice(COLOURS)))
    letters = "abcdefghijklmnopqrstuvwxyz"
    return "".join(rng.choice(letters) for _ in range(rng.randint(2, 7)))


def words(rng: Random, low: int, high: int) -> str:
    """Between ``low`` and ``high`` words."""
    return " ".join(word(rng) for _ in range(rng.randint(low, high)))


def request(rng: Random, about: str = "") -> str:
    """An ordinary request, about ``about`` or anything."""
    text = rng.choice(ASKS).format(x=about or thing(rng))
    p = rng.random()
    if p < 0.12:
        return f"{rng.choice(('Hi,', 'Hello,', 'Excuse me,', 'Sorry,', 'Hey,'))} {text}"
    return text.lower() if p < 0.2 else text


def reply(rng: Random) -> str:
    """An answer that the request does not determine."""
    if rng.random() < 0.15:
        return words(rng, 1, 6)
    return rng.choice(REPLIES).format(
        x=thing(rng),
        x2=word(rng),
        n=rng.randint(1, 99),
        day=rng.choice(DAYS),
        name=rng.choice(NAMES),
        city=rng.choice(CITIES),
        colour=rng.choice(COLOURS),
    )


def value(rng: Random) -> str:
    """A value a fact may hold."""
    kind = rng.randrange(7)
    if kind == 0:
        return rng.choice(COLOURS)
    if kind == 1:
        return nonce(rng).capitalize()
    if kind == 2:
        return str(rng.randint(1, 9999))
    if kind == 3:
        return rng.choice(MONTHS + DAYS)
    if kind == 4:
        return rng.choice(CITIES)
    if kind == 5:
        return f"{rng.randint(1, 12)}:{rng.randint(0, 59):02d}"
    return words(rng, 1, 2)
