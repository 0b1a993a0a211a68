"""The exact log-probability of each answer of a closed set: nothing is sampled.

Knows token ids and a prefix. Refuses to know text: an answer's ids are appended to the prompt's
ids as they are, never tokenised together with it. Answers are laid into a trie, so what several
begin with is run once, and the whole trie in one pass where the model's layers allow it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from tta.decoding import engine
from tta.decoding.engine import Prefix
from tta.errors import InvalidOutput, UnsupportedModel

if TYPE_CHECKING:
    import torch

    from tta.decoding.forest import Tree
    from tta.protocols import FloatArray

ENTRIES_PER_PASS = 2**25
"""Logits, and (node, prompt or node) pairs, in one forward pass: bounds its memory (128 MiB each
in single precision)."""
TOKENS_PER_PASS = 16_384
"""Rows times their length, prompt included, in one forward pass: bounds the cache's memory."""
PADDING_PER_PASS = 128
"""How many padded positions cost more than one more forward pass (about, at 3 M parameters)."""


class Way(StrEnum):
    """How a trie is run."""

    PACKED = "packed"
    """As one row, under a mask by which each node sees the prompt and its ancestors: for models
    whose layers are all attention, with windows no shorter than prompt and answer."""
    FOREST = "forest"
    """As one row a node, in one pass, by cache layers that find each node's ancestors: for
    attention mixed with short convolutions."""
    ROWS = "rows"
    """As one row an answer: for recurrent states, and wherever the others do not hold."""


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


@dataclass(frozen=True, slots=True)
class Trie:
    """Sequences of token ids, with what several begin with held once. Parents come before their
    children; a node's parent is -1 where it follows the prompt directly."""

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    depths: tuple[int, ...]
    leaves: tuple[int, ...]
    """The last node of each sequence, in the order given; -1 for an empty one."""

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> Trie:
        places: dict[tuple[int, int], int] = {}
        tokens: list[int] = []
        parents: list[int] = []
        depths: list[int] = []
        leaves: list[int] = []
        for ids in sequences:
            node = -1
            for depth, token in enumerate(ids):
                known = places.setdefault((node, token), len(tokens))
                if known == len(tokens):
                    tokens.append(token)
                    parents.append(node)
                    depths.append(depth)
                node = known
            leaves.append(node)
        return cls(tuple(tokens), tuple(parents), tuple(depths), tuple(leaves))

    def __len__(self) -> int:
        return len(self.tokens)


_trie = lru_cache(maxsize=32)(Trie.of)


def score(
    prefix: Prefix,
    answers: Sequence[Sequence[int]],
    ends: Sequence[int],
    way: Way = Way.ROWS,
) -> tuple[FloatArray, int, int]:
    """Log-probability (nats, float64, shape (len(answers),)) of each answer after the prefix.

    The end of the turn (any of `ends`) belongs to the answer, so that "card" and "card lost" are
    disjoint and compete fairly; a model without any end id leaves it out. Also returned: how many
    tokens and how many forward passes it took after the prefill.
    """
    first = prefix.logits[0].double().log_softmax(-1).cpu().numpy()
    if not np.isfinite(first.max()):
        raise UnsupportedModel(
            "The model computes logits that are not numbers",
            value=float(first.max()),
            hint="Load it in float32 or bfloat16, or check its weights",
        )
    if way is Way.ROWS or prefix.cache is None:
        return _by_rows(prefix, answers, ends, first)
    scores = np.empty(len(answers), dtype=np.float64)
    tokens = passes = 0
    for chunk in _groups(prefix, answers, ends):
        part = [answers[i] for i in chunk]
        trie = _trie(tuple(tuple(ids if ends else ids[:-1]) for ids in part))
        scores[chunk] = _by_trie(prefix, part, ends, trie, way, first)
        tokens += len(trie)
        passes += bool(trie.tokens)
    return scores, tokens, passes


def _groups(
    prefix: Prefix, answers: Sequence[Sequence[int]], ends: Sequence[int]
) -> Iterator[list[int]]:
    """Indices of answers to run together, those that begin alike side by side."""
    width, prompt = prefix.logits.shape[-1], len(prefix)
    order = sorted(range(len(answers)), key=lambda i: tuple(answers[i]))
    group: list[int] = []
    before: tuple[int, ...] = ()
    nodes = 0
    for i in order:
        ids = tuple(answers[i] if ends else answers[i][:-1])
        pairs = zip(ids, before, strict=False)
        total = nodes + len(ids) - sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if group and total * max(width, prompt + total) > ENTRIES_PER_PASS:
            yield group
            group, total = [], len(ids)
        group.append(i)
        nodes, before = total, ids
    yield group


# ---------------------------------------------------------------------------------- one pass


def _by_trie(
    prefix: Prefix,
    answers: Sequence[Sequence[int]],
    ends: Sequence[int],
    trie: Trie,
    way: Way,
    first: FloatArray,
) -> FloatArray:
    """`first` has shape (V,): the log-probabilities after the prompt."""
    if not trie.tokens:
        return np.array([first[ids[0]] for ids in answers], dtype=np.float64)
    run = _packed if way is Way.PACKED else _forest
    logits = run(prefix, trie).float()  # (N, V)
    norms = logits.logsumexp(-1)
    # From each node to the child's token: what a child costs is in its parent's logits.
    inner = [i for i, parent in enumerate(trie.parents) if parent >= 0]
    above = [trie.parents[i] for i in inner]
    steps = logits[above, [trie.tokens[i] for i in inner]] - norms[above]
    reached = np.array([first[token] for token in trie.tokens], dtype=np.float64)
    reached[inner] = steps.cpu().double().numpy()
    for node in inner:  # parents come first
        reached[node] += reached[trie.parents[node]]
    leaves = list(trie.leaves)
    if ends:
        last = logits[leaves][:, list(ends)].logsumexp(-1) - norms[leaves]
        return np.asarray(reached[leaves] + last.cpu().double().numpy())
    last = logits[leaves, [ids[-1] for ids in answers]] - norms[leaves]
    whole = reached[leaves] + last.cpu().double().numpy()
    alone = np.array([first[ids[0]] for ids in answers])
    return np.where(np.array(leaves) < 0, alone, whole)


def _packed(prefix: Prefix, trie: Trie) -> torch.Tensor:
    import torch

    from tta.decoding.forest import ancestry

    device, prompt = prefix.ids.device, len(prefix)
    kind = prefix.model.dtype
    mask = torch.zeros((len(trie), prompt + len(trie)), dtype=kind, device=device)
    mask[:, prompt:].masked_fill_(~ancestry(trie.parents).to(device), torch.finfo(kind).min)
    out = engine.forward(
        prefix.model,
        torch.tensor([trie.tokens], device=device),
        cache=prefix.continued(),
        attention_mask=mask[None, None],
        position_ids=torch.tensor([trie.depths], device=device) + prompt,
    )
    logits: torch.Tensor = out.logits[0]
    return logits


def _forest(prefix: Prefix, trie: Trie) -> torch.Tensor:
    import torch

    from tta.decoding.forest import forest

    assert prefix.cache is not None
    device = prefix.ids.device
    out = engine.forward(
        prefix.model,
        torch.tensor(trie.tokens, device=device)[:, None],
        cache=forest(prefix.cache, _tree(trie.parents)),
        position_ids=torch.tensor(trie.depths, device=device)[:, None] + len(prefix),
    )
    logits: torch.Tensor = out.logits[:, 0]
    return logits


@lru_cache(maxsize=8)
def _tree(parents: tuple[int, ...]) -> Tree:
    """Kept, since the same answers are scored again and again."""
    from tta.decoding.forest import Tree

    return Tree(parents)


# ---------------------------------------------------------------------------------- row by row


def _by_rows(
    prefix: Prefix, answers: Sequence[Sequence[int]], ends: Sequence[int], first: FloatArray
) -> tuple[FloatArray, int, int]:
    scores = np.array([first[ids[0]] for ids in answers], dtype=np.float64)
    # The logits after an answer's last token are only needed for the end of the turn.
    fed = [list(ids) if ends else list(ids)[:-1] for ids in answers]
    tokens = passes = 0
    for chunk in _chunks(fed, len(prefix)):
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
