"""The exact log-probability of each answer of a closed set: nothing is sampled.

Knows token ids and a prefix. Refuses to know text: an answer's ids are appended to the prompt's
ids as they are, never tokenised together with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tta.decoding.engine import Prefix, log_probabilities
from tta.errors import InvalidOutput

if TYPE_CHECKING:
    import torch

    from tta.protocols import FloatArray

TOKENS_PER_PASS = 16_384
"""Rows times their length, prompt included, in one forward pass: bounds the cache's memory."""
PADDING_PER_PASS = 128
"""How many padded positions cost more than one more forward pass (about, at 3 M parameters)."""


def check_answers(answers: Sequence[str]) -> None:
    """`InvalidOutput`: no answers, an empty answer, or one given twice."""
    if not answers:
        raise InvalidOutput("No answers to choose among", value=answers, hint="Give at least one")
    seen: set[str] = set()
    for answer in answers:
        if not answer:
            raise InvalidOutput("An answer is empty", value=answer, hint="Remove or name it")
        if answer in seen:
            raise InvalidOutput(
                f"The answer {answer!r} is there twice", value=answer, hint="Give each once"
            )
        seen.add(answer)


def score(
    prefix: Prefix, answers: Sequence[Sequence[int]], ends: Sequence[int]
) -> tuple[FloatArray, int, int]:
    """Log-probability (nats, float64, shape (len(answers),)) of each answer after the prefix.

    The end of the turn (any of `ends`) belongs to the answer, so that "card" and "card lost" are
    disjoint and compete fairly; a model without any end id leaves it out. Also returned: how many
    tokens and how many forward passes it took after the prefill.
    """
    first = log_probabilities(prefix.logits)[0]
    scores = np.array([first[ids[0]] for ids in answers], dtype=np.float64)
    # The logits after an answer's last token are only needed for the end of the turn.
    fed = [list(ids) if ends else list(ids)[:-1] for ids in answers]
    tokens = passes = 0
    for chunk in _chunks(fed, prefix.ids.shape[1]):
        rows = [fed[i] for i in chunk]
        logits = prefix.fork(len(chunk)).forward(_padded(rows))
        scores[chunk] += _following(logits, [answers[i] for i in chunk], ends)
        tokens += sum(map(len, rows))
        passes += 1
    return scores, tokens, passes


def _following(
    logits: torch.Tensor, answers: Sequence[Sequence[int]], ends: Sequence[int]
) -> FloatArray:
    """Log-probability of all but the first token, and of the end; `logits` has shape (N, T, V)."""
    logits = logits.float()
    norms = logits.logsumexp(-1).cpu().double().numpy()
    sums = np.zeros(len(answers), dtype=np.float64)
    for row, ids in enumerate(answers):
        rest = ids[1:]
        picked = logits[row, range(len(rest)), list(rest)].cpu().double().numpy()
        sums[row] = (picked - norms[row, : len(rest)]).sum()
        if ends:
            last = logits[row, len(rest), list(ends)].cpu().double().numpy()
            sums[row] += np.logaddexp.reduce(last) - norms[row, len(rest)]
    return sums


def _chunks(fed: Sequence[Sequence[int]], prompt: int) -> Iterator[list[int]]:
    """Indices of rows to run together: longest first, bounded in size, little padded."""
    order = sorted((i for i, ids in enumerate(fed) if ids), key=lambda i: -len(fed[i]))
    while order:
        longest = len(fed[order[0]])
        size = min(len(order), max(1, TOKENS_PER_PASS // (prompt + longest)))
        padding = ((longest - len(fed[i])) * (size - at) for at, i in enumerate(order[:size]))
        size = next((at for at, n in enumerate(padding) if n > PADDING_PER_PASS), size)
        yield order[:size]
        order = order[size:]


def _padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Shape (N, T). Padded on the right, where causal layers never look back from."""
    import torch

    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *([row[-1]] * (width - len(row)))] for row in rows])
