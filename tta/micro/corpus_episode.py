"""What a training example is, and how it is laid out as text.

Knows the layout that ``tta`` composes at run time (system sections, demonstrations, request) and
the chat format. Refuses to know what the tasks are about.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from zlib import crc32

END = "<|end|>"
PAD = "<|pad|>"
SPECIAL = (PAD, END, "<|system|>", "<|user|>", "<|assistant|>")
UNKNOWN = "I don't know."
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
HELD_ONE_IN = 32


@dataclass(frozen=True)
class Turn:
    """A request and its answer; ``known`` is whether the text before it determines the answer."""

    user: str
    answer: str
    known: bool = True
    key: str = ""  # what makes two requests the same problem, where the wording does not


@dataclass(frozen=True)
class System:
    """The sections of the system turn, in the order in which they are written."""

    own: str = ""
    rules: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()

    def __str__(self) -> str:
        listed = (("Rules", self.rules), ("Notes", self.notes), ("Facts", self.facts))
        parts = [self.own] if self.own else []
        parts += [f"{name}:\n- " + "\n- ".join(items) for name, items in listed if items]
        if self.answers:
            parts.append("Answers: " + ", ".join(self.answers))
        return "\n\n".join(parts)


@dataclass(frozen=True)
class Episode:
    """A system text and turns; the last turn is the one that is asked."""

    turns: tuple[Turn, ...]
    system: System = field(default_factory=System)

    @property
    def last(self) -> Turn:
        """The request that a benchmark asks."""
        return self.turns[-1]

    def bare(self) -> Episode:
        """The same request with everything it needs taken away."""
        return Episode(turns=(self.last,))

    def messages(self) -> list[dict[str, str]]:
        """Chat messages up to and including the last request."""
        out = [{"role": "system", "content": str(self.system)}] if str(self.system) else []
        for turn in self.turns[:-1]:
            out.append({"role": "user", "content": turn.user})
            out.append({"role": "assistant", "content": turn.answer})
        return [*out, {"role": "user", "content": self.last.user}]

    def segments(self) -> list[tuple[str, bool]]:
        """The text in pieces, each with whether it is learned: only answers that are knowable."""
        out: list[tuple[str, bool]] = []
        if str(self.system):
            out.append((f"<|system|>\n{self.system}{END}\n", False))
        for turn in self.turns:
            out.append((f"<|user|>\n{turn.user}{END}\n<|assistant|>\n", False))
            out.append((turn.answer + END, turn.known))
            out.append(("\n", False))
        return out

    def text(self) -> str:
        """All of it, as the model reads it."""
        return "".join(piece for piece, _ in self.segments())


def held_out(turn: Turn) -> bool:
    """Whether this request is of the share that training never sees: one in 32, by checksum."""
    return crc32((turn.key or turn.user).encode()) % HELD_ONE_IN == 0


def for_training(episode: Episode) -> bool:
    """Whether no request of this episode is held out."""
    return not any(held_out(turn) for turn in episode.turns)
