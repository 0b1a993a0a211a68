"""A grammar to the tokens that may come next, through llguidance.

Knows a tokenizer's bytes and the width of the logits. Refuses to know where a grammar comes from,
and the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tta.errors import InvalidOutput, UnsupportedModel

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase


def token_table(
    tokenizer: PreTrainedTokenizerBase, *, width: int, ends: Sequence[int]
) -> LLTokenizer:
    """The tokenizer as llguidance sees it; about a second for 100,000 tokens, so keep it.

    `width` is that of the logits, which is often more than the tokenizer has; `ends` are all ids
    that may follow a complete answer. `UnsupportedModel`: a tokenizer without a fast version.
    """
    from llguidance.hf import from_tokenizer
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UnsupportedModel(
            f"Constraints need a fast tokenizer, not {type(tokenizer).__name__}",
            value=type(tokenizer).__name__,
            hint="Load it with AutoTokenizer.from_pretrained(..., use_fast=True)",
        )
    known = [i for i in ends if i < len(tokenizer)]
    try:
        return from_tokenizer(
            tokenizer, n_vocab=max(width, len(tokenizer)), eos_token=known or None
        )
    except ValueError as error:
        raise UnsupportedModel(
            f"Constraints cannot read this tokenizer: {error}",
            value=type(tokenizer).__name__,
            hint="Leave out `output=`, or use a tokenizer with a decoder of a known kind",
        ) from error


class TokenMatcher:
    """Which tokens may come next in one row. Belongs to the row: it moves and ends with it."""

    __slots__ = ("_ends", "_matcher", "_width")

    def __init__(self, matcher: LLMatcher, width: int, ends: Sequence[int]) -> None:
        self._matcher = matcher
        self._width = width
        self._ends = list(ends)

    @classmethod
    def rows(
        cls, table: LLTokenizer, grammar: str, *, width: int, ends: Sequence[int], n: int
    ) -> list[TokenMatcher]:
        """`n` matchers at the start of the same grammar, which is compiled once."""
        from llguidance import LLMatcher

        first = LLMatcher(table, grammar)
        _check_state(first)
        return [cls(first.deep_copy(), width, ends) for _ in range(n)]

    def copied(self) -> TokenMatcher:
        return TokenMatcher(self._matcher.deep_copy(), self._width, self._ends)

    @property
    def complete(self) -> bool:
        return self._matcher.is_stopped()

    def allowed(self) -> NDArray[np.bool_]:
        """Shape (V,). `InvalidOutput`: nothing that the tokenizer can write may follow."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        _check_state(self._matcher)
        mask = np.unpackbits(bits, bitorder="little")[: self._width].astype(np.bool_)
        # An end that only the model's configuration names is not in llguidance's table.
        mask[self._ends] = self._matcher.is_accepting()
        return mask

    def take(self, token: int) -> None:
        self._matcher.consume_token(token)
        _check_state(self._matcher)

    def forced(self) -> list[int]:
        """Tokens that all complete answers go on with, as the tokenizer itself would write them:
        what a model was trained to read, where the mask would allow other spellings too."""
        if self._matcher.is_stopped():
            return []
        tokens = list(self._matcher.compute_ff_tokens())
        unusable = (i for i, t in enumerate(tokens) if t >= self._width or t in self._ends)
        return tokens[: next(unusable, len(tokens))]


def _check_state(matcher: LLMatcher) -> None:
    if not matcher.is_error():
        return
    fault = matcher.get_error().strip().partition("\n")[0]
    if fault.startswith("NoExtension"):
        raise InvalidOutput(
            "No token of this tokenizer can continue the answer",
            value=fault,
            hint="Allow characters that the tokenizer can write",
        )
    raise InvalidOutput(
        f"The constraint failed: {fault}",
        value=fault,
        hint="Simplify the schema, pattern or grammar",
    )
