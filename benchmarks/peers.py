"""Engines that compile JSON Schema themselves, each behind the face that ours has: llguidance,
outlines_core and xgrammar as they are when nothing is set.

Knows how each is called. Refuses to know what is right: `benchmarks.schemas` judges them as it
judges ours. Every schema is judged in a process of its own, since some compile for minutes, take
all memory or die.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from tta.decoding.matcher import TokenMatcher, token_table
from tta.errors import InvalidOutput

SECONDS = 5
"""Of the processor, for one schema; and six times as long by the clock."""
MEMORY = 8 * 2**30
"""Bytes of addresses beyond what there were before the schema."""

Schema = dict[str, Any]
Bools = NDArray[np.bool_]


class Row(Protocol):
    """One answer as it is written."""

    def allowed(self) -> Bools: ...

    def take(self, token: int) -> None: ...


Rows = Callable[[Schema, int], Sequence[Row]]
"""So many rows at the start of an answer. `InvalidOutput`: the schema is refused."""


def found(words: PreTrainedTokenizerFast) -> dict[str, Rows]:
    """Those that are installed, with this tokenizer ready."""
    return {name: make(words) for name, make in _PEERS.items() if find_spec(name) is not None}


def missing() -> list[str]:
    """Those that are not installed."""
    return [name for name in _PEERS if find_spec(name) is None]


# -------------------------------------------------------------------------------------- engines


def _llguidance(words: PreTrainedTokenizerFast) -> Rows:
    from llguidance import LLMatcher

    ends = [int(words.eos_token_id)]
    table = token_table(words, width=len(words), ends=ends)

    def rows(schema: Schema, n: int) -> Sequence[Row]:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
        return TokenMatcher.rows(table, grammar, width=len(words), ends=ends, n=n)

    return rows


class _Guided:
    def __init__(self, guide: Any, width: int) -> None:  # noqa: ANN401 - untyped
        self._guide, self._width = guide, width

    def allowed(self) -> Bools:
        mask = np.zeros(self._width, dtype=np.bool_)
        mask[self._guide.get_tokens()] = True
        return mask

    def take(self, token: int) -> None:
        self._guide.advance(token)


def _outlines_core(words: PreTrainedTokenizerFast) -> Rows:
    from outlines_core import Guide, Index, Vocabulary  # type: ignore[import-untyped]
    from outlines_core.json_schema import (  # type: ignore[import-untyped]
        build_regex_from_schema,
    )

    known: dict[str, list[int]] = {}
    for token, i in words.get_vocab().items():
        known.setdefault(words.convert_tokens_to_string([token]), []).append(i)
    known.pop(str(words.eos_token))
    vocabulary = Vocabulary(int(words.eos_token_id), known)

    def rows(schema: Schema, n: int) -> Sequence[Row]:
        try:
            index = Index(build_regex_from_schema(json.dumps(schema)), vocabulary)
        except (ValueError, TypeError) as error:
            raise _refused(error) from error
        return [_Guided(Guide(index), len(words)) for _ in range(n)]

    return rows


class _Matched:
    def __init__(self, matcher: Any, width: int) -> None:  # noqa: ANN401 - untyped
        import xgrammar  # type: ignore[import-not-found]

        self._matcher, self._width = matcher, width
        self._bits = xgrammar.allocate_token_bitmask(1, width)

    def allowed(self) -> Bools:
        self._matcher.fill_next_token_bitmask(self._bits)
        bits = self._bits[0].numpy().view(np.uint8)
        return np.unpackbits(bits, bitorder="little")[: self._width].astype(np.bool_)

    def take(self, token: int) -> None:
        self._matcher.accept_token(token)


def _xgrammar(words: PreTrainedTokenizerFast) -> Rows:
    import xgrammar

    known = xgrammar.TokenizerInfo.from_huggingface(words, vocab_size=len(words))
    compiler = xgrammar.GrammarCompiler(known, max_threads=1)

    def rows(schema: Schema, n: int) -> Sequence[Row]:
        try:
            grammar = compiler.compile_json_schema(json.dumps(schema))
        except RuntimeError as error:
            raise _refused(error) from error
        return [_Matched(xgrammar.GrammarMatcher(grammar), len(words)) for _ in range(n)]

    return rows


_PEERS: dict[str, Callable[[PreTrainedTokenizerFast], Rows]] = {
    "llguidance": _llguidance,
    "xgrammar": _xgrammar,
    "outlines_core": _outlines_core,
}


def _refused(error: Exception) -> InvalidOutput:
    return InvalidOutput(str(error), value=type(error).__name__, hint="It is the peer's own error")


# ------------------------------------------------------------------------------------ isolation


def isolated(judge: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """What `judge` says; "timeout" where it takes too long, "crashed" where its process dies."""
    forks = multiprocessing.get_context("fork")  # what is ready stays ready
    here, there = forks.Pipe(duplex=False)
    child = forks.Process(target=_say, args=(judge, there))
    child.start()
    there.close()
    try:
        if not here.poll(6 * SECONDS):
            return "timeout", ""
        outcome: tuple[str, str] = here.recv()
        return outcome
    except EOFError:
        child.join()
        late = child.exitcode == -_SIGXCPU
        return ("timeout", "") if late else ("crashed", f"exit code {child.exitcode}")
    finally:
        child.kill()
        child.join()
        here.close()


def _say(judge: Callable[[], tuple[str, str]], there: Connection) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime)  # a fork begins at nought, where that is kept
    resource.setrlimit(resource.RLIMIT_CPU, (spent + SECONDS, spent + SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_AS, (_addresses() + MEMORY,) * 2)
    there.send(judge())


def _addresses() -> int:
    pages = Path("/proc/self/statm").read_text().split()[0]
    return int(pages) * resource.getpagesize()


_SIGXCPU = 24
