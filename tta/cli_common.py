"""What the subcommands share: opening what the options name, and printing.

Knows the options' names and the two streams; knows no subcommand.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tta.adapted import Adapted
    from tta.memory import Memory


def open_chat(args: argparse.Namespace) -> Adapted:
    """The chat that --model, --memory, --index, --user and --embedder describe."""
    quiet_libraries()
    from tta.adapted import wrap

    return wrap(
        None if args.model == "none" else args.model,
        memory=args.memory,
        index=args.index,
        user=args.user,
        embedder=args.embedder,
    )


def open_memory(args: argparse.Namespace, *, create: bool = False, index: bool = False) -> Memory:
    """The memory that --memory names. `create` it if it is not there; open its `index` as well,
    which no other process may hold then."""
    quiet_libraries()
    from tta.memory import Memory
    from tta.retrieval.embed import SentenceEmbedder, default_embedder

    embedder = SentenceEmbedder(args.embedder) if args.embedder else default_embedder()
    return Memory.open(
        args.memory, embedder=embedder if index else None, index=args.index, create=create
    )


def quiet_libraries() -> None:
    """No progress bars and advice from libraries; where the user has set these, they stay.

    To be called before the libraries are imported, which is when they look.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def say(text: str = "") -> None:
    """To standard output: what was asked for."""
    print(text, flush=True)


def say_json(value: object, *, indent: int | None = 2) -> None:
    """To standard output, as JSON."""
    say(json.dumps(value, ensure_ascii=False, indent=indent))


def note(text: str) -> None:
    """To standard error: what is about the run."""
    print(text, file=sys.stderr, flush=True)


def one_line(text: object, width: int = 60) -> str:
    """`text` without control characters, at most `width` characters."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
    return shown if len(shown) <= width else shown[: width - 1] + "…"


def table(head: Sequence[str], rows: Sequence[Sequence[object]], width: int = 48) -> str:
    """Columns padded to their widest cell, each cell on one line."""
    cells = [list(head), *([one_line(cell, width) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def facts(pairs: Mapping[str, object]) -> str:
    """One `name  value` line for each pair."""
    width = max(map(len, pairs), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in pairs.items())
