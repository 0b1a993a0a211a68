"""Every error that tta raises on purpose. This module imports nothing of tta.

TTAError
├── InputError (ValueError)           what was passed in cannot be used
│   ├── InvalidText                   empty, or holds a lone surrogate
│   ├── InvalidOutput                 `output=` is no type that can be decoded into
│   ├── InvalidSetting                a number or name outside its range
│   └── PromptTooLong                 more tokens than the model or the budget takes
├── FeedbackError (LookupError)       feedback that cannot be attached
│   ├── UnknownResponse               no such response in this memory
│   ├── UnknownFeedback               no such feedback to undo
│   ├── WrongUser                     the response belongs to another user
│   ├── ConflictingId                 the id was already used for something else
│   └── Detached                      the response no longer knows its chat
├── StoreError (OSError)              the memory on disk or behind a URL
│   ├── StoreLocked                   another writer holds it
│   ├── StoreReadOnly                 it cannot be written
│   ├── StoreFull                     no space left
│   ├── StoreClosed                   it was closed
│   ├── NewerFormat                   written by a newer tta
│   ├── CorruptStore                  not a tta memory, or damaged
│   └── IndexInUse                    the embedded index belongs to another process
├── StreamClosed (RuntimeError)       it was closed before its answer was complete
├── ModelError (RuntimeError)         the frozen model or its embedder
│   ├── ModelNotFound                 nothing loadable under that id or path
│   ├── ModelNeeded                   an open answer was asked of `wrap(None)`
│   ├── UnsupportedModel              e.g. an encoder-decoder
│   └── MissingExtra                  an optional package is not installed
└── VerifierError (RuntimeError)      `verify=` gave no judgement; `value` is what it was asked
    ├── VerifierFailed                it raised
    └── VerifierTimeout               it took longer than `verify_seconds`
"""

from __future__ import annotations

from typing import Any


class TTAError(Exception):
    """Base of all errors of tta.

    `value` is what caused the error; `hint` says what to do instead. Both are part of the message.
    """

    def __init__(self, message: str, *, value: object = None, hint: str = "") -> None:
        super().__init__(f"{message}. {hint}" if hint else message)
        self.message = message
        self.value = value
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.value, self.hint)


def _rebuild(kind: type[TTAError], message: str, value: object, hint: str) -> TTAError:
    return kind(message, value=value, hint=hint)


class InputError(TTAError, ValueError):
    """What was passed in cannot be used."""


class InvalidText(InputError):
    """The text is empty, or cannot be written as UTF-8."""


class InvalidOutput(InputError):
    """`output=` cannot be turned into a constraint; `value` is the part that is at fault."""


class InvalidSetting(InputError):
    """A number or name outside its range."""


class PromptTooLong(InputError):
    """The prompt has more tokens (`value`) than the model takes."""


class FeedbackError(TTAError, LookupError):
    """Feedback that cannot be attached to anything."""


class UnknownResponse(FeedbackError):
    """No response of that id in this memory."""


class UnknownFeedback(FeedbackError):
    """No feedback of that id in this memory."""


class WrongUser(FeedbackError):
    """The response belongs to another user."""


class ConflictingId(FeedbackError):
    """An event of that id exists and says something else."""


class Detached(FeedbackError):
    """The response was copied, pickled or outlived its chat; use `chat.learn`."""


class StoreError(TTAError, OSError):
    """The memory cannot be read or written."""


class StoreLocked(StoreError):
    """Another writer held the journal for too long."""


class StoreReadOnly(StoreError):
    """The memory cannot be written."""


class StoreFull(StoreError):
    """No space left; nothing was written."""


class StoreClosed(StoreError):
    """The memory was closed."""


class NewerFormat(StoreError):
    """The memory was written by a newer tta."""


class CorruptStore(StoreError):
    """Not a memory of tta, or damaged."""


class IndexInUse(StoreError):
    """Chroma's embedded index serves one process at a time."""


class StreamClosed(TTAError, RuntimeError):
    """The stream was closed, or failed, before its answer was complete."""


class ModelError(TTAError, RuntimeError):
    """The frozen model, its tokenizer or the embedder."""


class ModelNotFound(ModelError):
    """Nothing loadable under that id or path."""


class ModelNeeded(ModelError):
    """An open answer was asked of a chat that wraps no model."""


class UnsupportedModel(ModelError):
    """The architecture cannot be decoded by tta."""


class MissingExtra(ModelError):
    """An optional package is not installed; `value` names the extra."""


class VerifierError(TTAError, RuntimeError):
    """`verify=` gave no judgement; `value` is the answer's value that it was asked about."""


class VerifierFailed(VerifierError):
    """It raised (see `__cause__`)."""


class VerifierTimeout(VerifierError):
    """It took longer than `verify_seconds`."""
