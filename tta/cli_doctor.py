"""`tta doctor`: prints what `tta.doctor` finds; the exit status is 1 if anything does not work."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from tta.cli_common import facts, open_memory, quiet_libraries, say, say_json
from tta.doctor import examine

if TYPE_CHECKING:
    from tta.decoding import HFModel
    from tta.protocols import Embedder


def doctor(args: argparse.Namespace) -> int:
    """Examine, print, and say by the exit status whether all is well."""
    quiet_libraries()
    found = list(
        examine(
            model=lambda: _model(args.model),
            embedder=lambda: _embedder(args.embedder),
            memory=(lambda: open_memory(args)) if args.memory else None,
        )
    )
    if args.json:
        say_json([asdict(finding) for finding in found])
    else:
        say(facts({f.name: f.found if f.ok else f"PROBLEM: {f.found}" for f in found}))
    return 0 if all(finding.ok for finding in found) else 1


def _model(name: str) -> HFModel | None:
    from tta.decoding import load

    if name == "none":
        return None
    if name == "bundled":
        from tta.micro import bundled

        return load(*bundled())
    return load(name)


def _embedder(name: str | None) -> Embedder:
    from tta.retrieval.embed import SentenceEmbedder, default_embedder

    return SentenceEmbedder(name) if name else default_embedder()
