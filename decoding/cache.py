"""Prompts that were run before, so that the next one with the same beginning is run from there.

Knows token ids, scopes and bytes. Refuses to know text and users' names beyond a scope's string.

What is kept is found by its token ids themselves, all of them, never by a hash alone: another
beginning cannot be taken for this one. A scope's entries are invisible to every other scope: not
even a beginning that many have in common is shared, since how long an answer takes would tell what
others asked. Forking copies, so an entry never changes.

Prompts are cut at fixed places (every `CHUNK` tokens) whether or not anything is cached. So the
same pieces are run either way, and what is cached changes how long an answer takes, never a bit of
it.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from tta.decoding.engine import Prefix, check_evaluating

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

CHUNK = 512
"""Tokens. Smaller pieces are found more often and run slower: at 256, a quarter slower with the
bundled model, at 512 a tenth; with a larger model 5 % and less."""
LIMIT = 256 * 2**20
"""Bytes."""
Key = tuple[object, str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """Beginnings of one prompt in one scope; the longest holds what the others do, so they go
    together. `bytes`: of each tensor, by its `id`."""

    scope: str
    prefixes: dict[Key, Prefix] = field(repr=False)
    bytes: dict[int, int]


class PrefixCache:
    """At most `limit` bytes of keys, values and states, the least recently used thrown out first.

    A prompt that takes more than half of that is not kept. Safe to use from several threads.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self.bytes = 0
        self._found: dict[Key, _Entry] = {}
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._uses: Counter[int] = Counter()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many beginnings are kept."""
        return len(self._found)

    def get(self, key: Key) -> Prefix | None:
        with self._lock:
            entry = self._found.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(id(entry))
            return entry.prefixes[key]

    def put(self, scope: str, prefixes: dict[Key, Prefix]) -> None:
        """Keep the beginnings of one prompt, shortest first."""
        entry = _Entry(scope, dict(prefixes), _bytes(prefixes.values()))
        if sum(entry.bytes.values()) > self.limit // 2:
            return
        with self._lock:
            for key in prefixes:
                if key in self._found:
                    self._drop(self._found[key])
            self._found.update(dict.fromkeys(prefixes, entry))
            self._entries[id(entry)] = entry
            self._count(entry, 1)
            while self.bytes > self.limit:
                self._drop(next(iter(self._entries.values())))

    def forget(self, scope: str | None = None) -> None:
        """Drop what one scope keeps; everything when None."""
        with self._lock:
            for entry in [e for e in self._entries.values() if scope in (None, e.scope)]:
                self._drop(entry)

    def _drop(self, entry: _Entry) -> None:
        del self._entries[id(entry)]
        self._count(entry, -1)
        for key in entry.prefixes:
            if self._found.get(key) is entry:
                del self._found[key]

    def _count(self, entry: _Entry, one: int) -> None:
        """An entry comes (1) or goes (-1): what others hold as well is counted once."""
        for tensor, size in entry.bytes.items():
            alone = self._uses[tensor] == (0 if one > 0 else 1)
            self._uses[tensor] += one
            self.bytes += one * size if alone else 0
            if not self._uses[tensor]:
                del self._uses[tensor]


@dataclass(frozen=True, slots=True)
class Filled:
    """A prompt that was run, how many of its tokens came from the cache, and in how many passes
    the others were run."""

    prefix: Prefix
    reused: int
    passes: int


def prefill(
    model: PreTrainedModel,
    ids: Sequence[int],
    cache: PrefixCache | None,
    *,
    scope: str = "",
    resumes: bool = True,
    grouped: bool = False,
    run: Callable[[Sequence[int]], Prefix] | None = None,
) -> Filled:
    """Run a prompt, from the longest beginning of it that this scope may use.

    `resumes`: the model can be run in pieces; otherwise only a whole prompt is found again.
    `grouped`: as for `Prefix`. `run`: how what nothing was run before is run.
    """
    ids, run = tuple(ids), run or partial(Prefix, model)
    if cache is None or cache.limit <= 0:
        return Filled(run(ids), 0, 1)
    check_evaluating(model)  # also where nothing is left to run
    state = _state(model)
    cuts = [*range(CHUNK, len(ids), CHUNK), len(ids)] if resumes else [len(ids)]
    keys = [(state, scope, ids[:cut]) for cut in cuts]
    at, prefix = _longest(cache, keys)
    reused = cuts[at - 1] if prefix is not None else 0
    new: dict[Key, Prefix] = {}
    for key in keys[at:]:
        ids = key[2]
        begun = prefix is not None
        prefix = Prefix(model, ids, start=prefix, grouped=grouped) if begun else run(ids)
        new[key] = prefix
    if new:
        cache.put(scope, new)
    assert prefix is not None  # there is always a cut at the end
    return Filled(prefix, reused, len(keys) - at)


def _longest(cache: PrefixCache, keys: Sequence[Key]) -> tuple[int, Prefix | None]:
    """How many of the pieces need not be run, and what they came to."""
    for at in range(len(keys), 0, -1):
        prefix = cache.get(keys[at - 1])
        if prefix is not None:
            return at, prefix
    return 0, None


def _state(model: PreTrainedModel) -> object:
    """Changes when the owner of the model trains it, loads other weights, moves or recasts it."""
    weights = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters()]
    return hash((model.config._attn_implementation, *weights))


def _bytes(prefixes: Iterable[Prefix]) -> dict[int, int]:
    from tta.decoding.layers import tensors

    held: list[torch.Tensor] = []
    for prefix in prefixes:
        layers = prefix.cache.layers if prefix.cache is not None else ()
        held += [prefix.logits, *(tensor for layer in layers for tensor in tensors(layer))]
    return {id(tensor): tensor.numel() * tensor.element_size() for tensor in held}
