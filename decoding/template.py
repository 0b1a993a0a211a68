"""Messages to the text and token ids a model sees, and what ends its turn.

Knows the tokenizer and its chat template. Refuses to know the model, and never changes the
tokenizer: no padding side, no pad token, no special token is ever set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tta.errors import InvalidSetting, InvalidText
from tta.types import Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN_STOP = "\nUser:"
"""Without a template, the answer ends where the next user turn would begin."""
_PLAIN_NAMES = {"system": "", "user": "User: ", "assistant": "Assistant: "}
_MARK = "tta"


class Template:
    """How one tokenizer writes a conversation.

    With a chat template, the template's text, tokenised as it stands: it holds its own special
    tokens, and those that a turn's content spells out stay words. Without one, a plain format,
    tokenised with the tokenizer's default special tokens:

        {system}

        User: {user}
        Assistant: {assistant}
        User: {user}
        Assistant:

    `turn_ends` are the ids that the template closes an assistant turn with; `lead` is what stands
    between the prompt and the answer (one space in the plain format, unless the tokenizer adds it
    by itself).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.plain = not tokenizer.chat_template
        self.lead = " " if self.plain and not self._adds_space() else ""
        self.turn_ends = () if self.plain else self._turn_ends()

    def encode(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        """Token ids of `text`; the tokenizer's own special tokens only when `special`.

        `InvalidText`: the text holds a lone surrogate.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidText(
                f"Text that cannot be written as UTF-8, at character {error.start}",
                value=text[error.start : error.end],
                hint="Remove the lone surrogate",
            ) from error
        ids = self._tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        return tuple(ids)

    def encode_answer(self, text: str) -> tuple[int, ...]:
        """Token ids of an answer as it follows the prompt; special tokens are never added."""
        return self.encode(self.lead + text) if text else ()

    def render(self, messages: Sequence[Message]) -> Prompt:
        """The prompt for the next assistant turn. `InvalidSetting`: the template refuses it."""
        _check(messages)
        if self.plain:
            text = _plain(messages)
            return Prompt(text=text, ids=self.encode(text, special=True))
        text, turns = self._templated(messages)
        ids = self.encode(text)  # before all else: it refuses what cannot be written
        if self._forged(messages):
            ids = self._sanitised(turns)
        return Prompt(text=text, ids=ids)

    def _templated(self, messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
        """The text, and the messages as the template took them."""
        from jinja2.exceptions import TemplateError

        system = [m.content for m in messages if m.role == "system"]
        try:
            text = self._apply(messages, ask=True)
            # Some templates refuse a system turn, others drop it without a word.
            if all(content.strip() in text for content in system):
                return text, messages
        except TemplateError as error:
            if not system:
                raise _refused(messages, error) from error
        folded = fold_system(messages)
        try:
            return self._apply(folded, ask=True), folded
        except TemplateError as error:
            raise _refused(messages, error) from error

    def _apply(self, messages: Sequence[Message], *, ask: bool) -> str:
        turns: list[dict[str, Any]] = [{"role": m.role, "content": m.content} for m in messages]
        return str(
            self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask)
        )

    def _forged(self, messages: Sequence[Message]) -> bool:
        """Whether a turn's own words spell a special token."""
        special = self._tokenizer.added_tokens_encoder
        return any(token in message.content for message in messages for token in special)

    def _sanitised(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The same text, with special tokens only where the template itself wrote them."""
        turns = [{"role": m.role, "content": m.content} for m in messages]
        ids = self._tokenizer.apply_chat_template(
            turns,
            tokenize=True,
            add_generation_prompt=True,
            return_dict=False,
            sanitize_control_tokens=True,
        )
        return tuple(ids)

    def _turn_ends(self) -> tuple[int, ...]:
        """The special token that follows an assistant turn, found by rendering one."""
        from jinja2.exceptions import TemplateError

        turns = (Message(role="user", content="?"), Message(role="assistant", content=_MARK))
        try:
            text = self._apply(turns, ask=False)
        except TemplateError:  # a template for single questions: the tokenizer's EOS has to do
            return ()
        tail = self.encode(text.rpartition(_MARK)[2].lstrip())
        return tail[:1] if set(tail[:1]) & set(self._tokenizer.added_tokens_decoder) else ()

    def _adds_space(self) -> bool:
        first = self._tokenizer.convert_ids_to_tokens(list(self.encode("a"))[:1])
        return bool(first) and str(first[0]).startswith("▁")


def fold_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The same conversation with all system text at the head of the first user turn."""
    system = [m.content for m in messages if m.role == "system"]
    rest = [m for m in messages if m.role != "system"]
    at = next((i for i, m in enumerate(rest) if m.role == "user"), None)
    if at is None:
        return (Message(role="user", content="\n\n".join(system)), *rest)
    rest[at] = Message(role="user", content="\n\n".join([*system, rest[at].content]))
    return tuple(rest)


def end_ids(sources: Iterable[object]) -> tuple[int, ...]:
    """Every id that ends a turn, each once, in the order of `sources` (int, list of int, None)."""
    found: dict[int, None] = {}
    for source in sources:
        ids = source if isinstance(source, (list, tuple)) else [source]
        found.update({i: None for i in ids if isinstance(i, int)})
    return tuple(found)


def within(ids: Iterable[int], width: int) -> tuple[int, ...]:
    """Those ids that logits of this width can name; configurations may carry others."""
    return tuple(i for i in ids if 0 <= i < width)


def _plain(messages: Sequence[Message]) -> str:
    text = ""
    for message in messages:
        text += _PLAIN_NAMES[message.role] + message.content
        text += "\n\n" if message.role == "system" else "\n"
    return text + "Assistant:"


def _check(messages: Sequence[Message]) -> None:
    if not messages:
        raise InvalidSetting("No messages", value=messages, hint="Pass at least one user turn")
    for message in messages:
        if message.role not in _PLAIN_NAMES:
            raise InvalidSetting(
                f"The role {message.role!r} is not known",
                value=message.role,
                hint='Use "system", "user" or "assistant"',
            )


def _refused(messages: Sequence[Message], error: Exception) -> InvalidSetting:
    roles = [m.role for m in messages]
    return InvalidSetting(
        f"The chat template refuses the roles {roles!r}: {error}",
        value=roles,
        hint="Let user and assistant turns alternate, beginning with the user",
    )
