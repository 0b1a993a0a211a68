"""How many tokens a text takes, where there is no tokenizer at hand but a model's name, or nothing.

Knows tiktoken's encodings. Two of them come with llama-index-core and are read from there; for
others tiktoken itself looks into its cache and asks the network, and what fails is an error here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from tta.errors import ModelNotFound

BUNDLED = ("cl100k_base", "o200k_base")
CHARACTERS = 4
"""Characters in a token of English, about: what an estimate goes by."""
_CACHE = "TIKTOKEN_CACHE_DIR"


def estimate(text: str) -> int:
    """Tokens of a text for no model in particular: a quarter of its characters, rounded up."""
    return -(-len(text) // CHARACTERS)


def counter(model: str) -> Callable[[str], int]:
    """What counts the tokens of a model that is known by name only ("gpt-4o").

    Raises ModelNotFound for a name that tiktoken does not know, or an encoding that it cannot get.
    """
    import tiktoken

    try:
        name = tiktoken.encoding_name_for_model(model)
        with _bundled(name):
            encoding = tiktoken.get_encoding(name)
    except (KeyError, OSError) as problem:
        raise ModelNotFound(
            f"tiktoken has no encoding for {model!r} ({problem})",
            value=model,
            hint="Pass the model's tokenizer, or `tta.retrieval.estimate`",
        ) from problem
    return lambda text: len(encoding.encode_ordinary(text))


@contextmanager
def _bundled(name: str) -> Iterator[None]:
    """tiktoken reads these encodings where llama-index-core has them, unless told otherwise."""
    found = find_spec("llama_index.core") if name in BUNDLED and _CACHE not in os.environ else None
    folder = Path(found.origin or "").parent / "_static" / "tiktoken_cache" if found else None
    if folder is None or not folder.is_dir():
        yield
        return
    os.environ[_CACHE] = str(folder)
    try:
        yield
    finally:
        del os.environ[_CACHE]
