"""What this installation can do: versions, device, model, embedder, store.

Finds out and reports; a part that fails is a line of the report. Prints nothing.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from tta.errors import TTAError

if TYPE_CHECKING:
    from tta.decoding import HFModel
    from tta.memory import Memory
    from tta.protocols import Embedder

PACKAGES = (
    "tta-sdk",
    "torch",
    "transformers",
    "sentence-transformers",
    "chromadb",
    "SQLAlchemy",
    "llama-index-core",
    "outlines",
    "llguidance",
    "numpy",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line: what was looked at, what was found, and whether it works."""

    name: str
    found: str
    ok: bool = True


def examine(
    *,
    model: Callable[[], HFModel | None],
    embedder: Callable[[], Embedder],
    memory: Callable[[], Memory] | None,
) -> Iterator[Finding]:
    """Look at everything; what cannot be opened is reported, not raised."""
    yield Finding(name="python", found=f"{platform.python_version()} on {platform.platform()}")
    yield from _versions()
    yield from _guarded("device", lambda: {"device": _device()})
    yield from _guarded("model", lambda: _about_model(model()))
    yield from _guarded("embedder", lambda: _about_embedder(embedder()))
    if memory is not None:
        yield from _guarded("store", lambda: _about_memory(memory()))


def _versions() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding(name=name, found=metadata.version(name))
        except metadata.PackageNotFoundError:
            # A checkout works uninstalled; a dependency that is not there is a fault.
            yield Finding(name=name, found="not installed", ok=name == "tta-sdk")


def _guarded(name: str, look: Callable[[], dict[str, str]]) -> Iterator[Finding]:
    try:
        found = look()
    except (TTAError, ImportError) as error:
        yield Finding(name=name, found=str(error), ok=False)
        return
    for key, value in found.items():
        yield Finding(name=key, found=value)


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()}"
    if torch.backends.mps.is_available():
        return "mps"
    return f"cpu, {torch.get_num_threads()} threads"


def _about_model(model: HFModel | None) -> dict[str, str]:
    if model is None:
        return {"model": "none: closed answers only"}
    template = getattr(model.tokenizer, "chat_template", None)
    parameters = sum(p.numel() for p in model.model.parameters())
    return {
        "model": f"{model.id}, {parameters / 1e6:.1f} M parameters on {model.model.device}",
        "context": f"{model.context_length} tokens",
        "chat template": "the model's own" if template else "none: the plain format is used",
        "weights": f"SHA-256 {model.fingerprint()[:16]}…",
    }


def _about_embedder(embedder: Embedder) -> dict[str, str]:
    return {"embedder": f"{embedder.id}, {embedder.dim} dimensions"}


def _about_memory(memory: Memory) -> dict[str, str]:
    with memory:
        events = sum(1 for _ in memory.events())
        records = sum(len(memory.records(user=user)) for user in memory.users())
        return {"store": f"{events} events, {len(memory.users())} users, {records} records"}
