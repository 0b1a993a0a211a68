"""Reading documents: real files, LlamaIndex's readers and parsers, SQLite and Chroma."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from memories import assert_consistent, files_holding

import tta
from tta.errors import InvalidSetting, InvalidText
from tta.retrieval.documents import Splitting, passage_tokens, read
from tta.retrieval.lexical import Lexical
from tta.retrieval.passages import cite
from tta.retrieval.tokens import estimate
from tta.testing import HashEmbedder
from tta.types import EventKind, RecordKind

FACTS = {
    "ada.md": "Ada's desk is B12.",
    "tea.txt": "The price of tea is 4 euros.",
    "orders/17.txt": "Order 17 ships on Monday.",
}
ASKED = "What is Ada's desk?"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three documents of one fact each."""
    for name, text in FACTS.items():
        path = tmp_path / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "docs"


@pytest.fixture
def read_chat(chat: tta.Adapted, folder: Path) -> tta.Adapted:
    chat.read(folder)
    return chat


def names(paths: Sequence[str]) -> list[str]:
    return [Path(path).name for path in paths]


def passages(chat: tta.Adapted, user: str = "default") -> list[str]:
    return [r.request for r in chat.memory.records(user=user, kind=RecordKind.PASSAGE)]


# ------------------------------------------------------------------------------ what is read


def test_what_was_read_answers_and_is_cited(read_chat: tta.Adapted) -> None:
    reply = read_chat(ASKED)
    assert reply.text == "B12"
    best = reply.context.sources[0]
    assert (best.text, Path(best.document).name) == ("Ada's desk is B12.", "ada.md")
    assert "Facts:\n" in reply.context.prompt
    assert str(best).endswith("ada.md: Ada's desk is B12.")


def test_the_frozen_model_is_shown_no_documents(read_chat: tta.Adapted) -> None:
    assert read_chat.frozen(ASKED).context.sources == ()
    assert read_chat.explain(ASKED).context.sources != ()


def test_only_what_changed_is_read_again(chat: tta.Adapted, folder: Path) -> None:
    assert names(chat.read(folder).new) == ["ada.md", "17.txt", "tea.txt"]
    (folder / "ada.md").write_text("Ada's desk is Z9.", encoding="utf-8")
    (folder / "tea.txt").touch()
    again = chat.read(folder)
    assert names(again.changed) == ["ada.md"]
    assert names(again.unchanged) == ["17.txt", "tea.txt"]
    assert (again.new, again.removed, again.passages) == ((), (), 1)
    assert sum(e.kind is EventKind.READ for e in chat.memory.events()) == 4
    assert chat(ASKED).text == "Z9"


def test_a_file_that_is_gone_leaves(read_chat: tta.Adapted, folder: Path) -> None:
    (folder / "ada.md").unlink()
    (folder / "orders" / "17.txt").unlink()
    assert names(read_chat.read(folder / "ada.md").removed) == ["ada.md"]
    assert names(read_chat.read(folder).removed) == ["17.txt"]
    assert passages(read_chat) == ["The price of tea is 4 euros."]
    assert all("B12" not in s.text for s in read_chat(ASKED).context.sources)


def test_a_path_where_nothing_ever_was_is_refused(chat: tta.Adapted, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="nothing at"):
        chat.read(tmp_path / "nowhere")


def test_hidden_files_are_not_read(chat: tta.Adapted, folder: Path) -> None:
    (folder / ".secret").write_text("The password is swordfish.", encoding="utf-8")
    chat.read(folder)
    assert not any("swordfish" in text for text in passages(chat))


def test_what_is_no_text_is_skipped_and_said(chat: tta.Adapted, folder: Path) -> None:
    (folder / "a.pdf").write_bytes(b"%PDF-1.7 \xff\xfe")
    (folder / "b.bin").write_bytes(b"\0\1\2")
    found = chat.read(folder)
    assert names(list(found.skipped)) == ["a.pdf", "b.bin"]
    assert len(found.new) == 3
    with pytest.raises(InvalidText, match=r"a\.pdf.*readers="):
        chat.read(folder / "a.pdf")


def test_llamaindex_documents_and_nodes_are_read_as_well(chat: tta.Adapted) -> None:
    from llama_index.core.schema import Document, TextNode

    told = [Document(text=FACTS["ada.md"], id_="ada"), TextNode(text=FACTS["tea.txt"], id_="tea")]
    assert chat.read(told).new == ("ada", "tea")
    assert chat.read(told).unchanged == ("ada", "tea")
    assert chat(ASKED).context.sources[0].document == "ada"
    with pytest.raises(InvalidSetting, match="int is no document"):
        chat.read([3])  # type: ignore[list-item]


def test_a_parser_and_readers_of_the_callers_are_used(chat: tta.Adapted, folder: Path) -> None:
    from llama_index.core.node_parser import MarkdownNodeParser
    from llama_index.core.readers.base import BaseReader
    from llama_index.core.schema import Document

    class Upper(BaseReader):
        def load_data(self, file: Path, extra_info: Any = None) -> list[Document]:
            return [Document(text=file.read_text(encoding="utf-8").upper())]

    (folder / "two.md").write_text("# One\nfirst\n# Two\nsecond\n", encoding="utf-8")
    chat.read(folder / "two.md", parser=MarkdownNodeParser())
    assert passages(chat) == ["# One\nfirst", "# Two\nsecond"]
    chat.read(folder / "tea.txt", readers={".txt": Upper()})
    assert passages(chat)[-1] == "THE PRICE OF TEA IS 4 EUROS."


def test_long_documents_are_split_at_sentences_within_the_limit() -> None:
    from llama_index.core.schema import Document

    text = " ".join(f"Sentence number {i} says something of its own." for i in range(200))
    kept: dict[str, Sequence[str]] = {}
    splitting = Splitting(tokens=passage_tokens(512), count=estimate)
    read(
        Document(text=text, id_="long"),
        known={},
        keep=lambda name, digest, found: kept.update({name: found}),
        splitting=splitting,
    )
    assert len(kept["long"]) > 10
    assert all(estimate(passage) <= splitting.tokens for passage in kept["long"])
    assert all(p.startswith("Sentence") and p.endswith("own.") for p in kept["long"])
    assert all(f"number {i} says" in " ".join(kept["long"]) for i in range(200))


def test_reading_is_silent_where_there_is_no_terminal(
    chat: tta.Adapted, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    chat.read(folder)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_sees_how_far_it_is(
    chat: tta.Adapted,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    chat.read(folder)
    assert "Reading" in capsys.readouterr().err


def test_settings_of_llamaindex_are_not_touched(chat: tta.Adapted, folder: Path) -> None:
    from llama_index.core import Settings

    chat.read(folder)
    chat(ASKED)
    assert Settings._embed_model is None
    assert Settings._llm is None
    assert Settings._node_parser is None
    assert Settings._tokenizer is None


# ------------------------------------------------------------------------------ whose it is


def test_documents_are_seen_by_their_user_alone(chat: tta.Adapted, folder: Path) -> None:
    chat.read(folder, user="ada")
    assert chat(ASKED, user="bob").context.sources == ()
    assert chat(ASKED, user="ada").context.sources != ()
    assert chat.for_user("bob", reads=("ada",))(ASKED).context.sources != ()
    assert chat.for_user("bob", reads=(tta.EVERYONE,))(ASKED).context.sources == ()


def test_a_memory_that_is_opened_again_knows_its_documents(
    model: tuple[Any, Any], folder: Path, tmp_path: Path
) -> None:
    with tta.wrap(*model, memory=tmp_path / "m", embedder=HashEmbedder()) as chat:
        chat.read(folder)
    with tta.wrap(*model, memory=tmp_path / "m", embedder=HashEmbedder()) as chat:
        assert len(chat.read(folder).unchanged) == 3
        assert chat(ASKED).text == "B12"
        assert_consistent(chat.memory)
    with tta.wrap(*model, memory=tmp_path / "m", embedder=HashEmbedder(32)) as chat:
        assert chat(ASKED).text == "B12"


def test_forgetting_a_user_erases_her_documents_from_every_file(
    model: tuple[Any, Any], folder: Path, tmp_path: Path
) -> None:
    with tta.wrap(*model, memory=tmp_path / "m", embedder=HashEmbedder()) as chat:
        chat.read(folder, user="ada")
        chat(ASKED, user="ada")
        chat.forget(user="ada")
        assert chat(ASKED, user="ada").context.sources == ()
        assert len(chat.read(folder, user="ada").new) == 3
        chat.forget(user="ada")
    assert files_holding(tmp_path / "m", b"desk is") == []


def test_an_undo_leaves_documents_where_they_are(read_chat: tta.Adapted, folder: Path) -> None:
    (folder / "ada.md").write_text("Ada's desk is Z9.", encoding="utf-8")
    learned = read_chat(ASKED).correct("under the stairs")
    read_chat.read(folder)
    before = passages(read_chat)
    read_chat.undo(learned)
    assert passages(read_chat) == before
    assert "Ada's desk is Z9." in before
    assert_consistent(read_chat.memory)


# ------------------------------------------------------------------------------ what is found


def test_words_are_found_where_meaning_is_not() -> None:
    texts = ["the error is E1234 here", "the error is E9999 here", "nothing of the sort is here"]
    lexical = Lexical(texts)
    assert lexical.best("what is E9999?", 3) == [1]
    assert lexical.best("the is here", 3) == []
    assert Lexical([]).best("anything", 3) == []


class Fixed:
    """An embedder that finds everything equally near."""

    id, dim = "fixed", 4

    def embed(self, texts: Sequence[str]) -> Any:
        import numpy as np

        return np.full((len(texts), 4), 0.5, dtype=np.float32)


def test_what_words_find_comes_before_what_only_meaning_finds(
    model: tuple[Any, Any], tmp_path: Path
) -> None:
    for i in range(9):
        (tmp_path / f"{i}.txt").write_text(f"Part number {i} is code{i}x.", encoding="utf-8")
    with tta.wrap(*model, embedder=Fixed()) as chat:
        chat.read(tmp_path)
        sources = chat("What is code7x?").context.sources
        assert sources[0].text == "Part number 7 is code7x."


def test_a_reranker_has_the_last_word(model: tuple[Any, Any], folder: Path) -> None:
    def backwards(question: str, found: Sequence[str]) -> list[float]:
        assert question == "Ada's desk or the price of tea?"
        return [float("tea" in text) for text in found]

    with tta.wrap(*model, embedder=HashEmbedder(), reranker=backwards) as chat:
        chat.read(folder)
        sources = chat("Ada's desk or the price of tea?").context.sources
        assert sources[0].text == FACTS["tea.txt"]


def test_a_retriever_is_asked_instead(model: tuple[Any, Any]) -> None:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

    class Mine(BaseRetriever):
        def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
            assert query_bundle.query_str == ASKED
            return [NodeWithScore(node=TextNode(text="Ada's desk is C3.", id_="c3"), score=0.1)]

    with tta.wrap(*model, embedder=HashEmbedder(), retriever=Mine()) as chat:
        reply = chat(ASKED)
        assert (reply.text, reply.context.sources[0].id) == ("C3", "c3")
        reply.bad()
        assert chat.memory.worth("default", reply.task.name) == {"c3": 2 / 3}
    with pytest.raises(InvalidSetting, match="dict cannot be asked"):
        tta.wrap(*model, embedder=HashEmbedder(), retriever={})  # type: ignore[arg-type]


def test_a_query_engine_is_asked_instead(model: tuple[Any, Any]) -> None:
    from llama_index.core.base.base_query_engine import BaseQueryEngine
    from llama_index.core.base.response.schema import Response
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

    class Engine(BaseQueryEngine):
        def _query(self, query_bundle: QueryBundle) -> Response:
            node = NodeWithScore(node=TextNode(text="B12 was Ada's desk once.", id_="n"))
            return Response(response="Ada's desk is C3.", source_nodes=[node])

        async def _aquery(self, query_bundle: QueryBundle) -> Response:
            return self._query(query_bundle)

        def _get_prompt_modules(self) -> dict[str, Any]:
            return {}

    engine = Engine(callback_manager=CallbackManager())
    with tta.wrap(*model, embedder=HashEmbedder(), retriever=engine) as chat:
        sources = chat(ASKED).context.sources
        assert [s.text for s in sources] == ["Ada's desk is C3.", "B12 was Ada's desk once."]


# ------------------------------------------------------------------------------ what feedback says


def test_a_passage_is_credited_with_what_it_says() -> None:
    shown = {"a": "Ada's desk is B12.", "b": "Ada's desk was K7.", "c": "Tea is green."}
    body: dict[str, Any] = {"answer": "K7", "text": "B12"}
    assert cite(shown, EventKind.CORRECTION, body) == {"cited": {"a": 1.0, "b": -1.0}}
    assert cite(shown, EventKind.RATING, {"answer": "K7", "value": -0.5}) == {"cited": {"b": -0.5}}
    assert cite(shown, EventKind.EDIT, {"answer": "b12", "result": "B12"}) == {"cited": {"a": 1.0}}
    assert cite(shown, EventKind.NOTE, {"answer": "K7", "text": "B12"}) == {}


def test_where_no_passage_says_it_all_of_them_led_to_it() -> None:
    shown = {"a": "one", "b": "two"}
    good = cite(shown, EventKind.RATING, {"answer": "three", "value": 1.0})
    assert good == {"cited": {"a": 0.5, "b": 0.5}}
    wrong = cite(shown, EventKind.CORRECTION, {"answer": "three", "text": "four"})
    assert wrong == {"cited": {"a": -0.5, "b": -0.5}}


@pytest.fixture
def rivals(chat: tta.Adapted, tmp_path: Path) -> Iterator[tta.Adapted]:
    """Two documents that contradict each other."""
    (tmp_path / "old.txt").write_text("Ada's desk is K7.", encoding="utf-8")
    (tmp_path / "new.txt").write_text("Ada's desk is B12.", encoding="utf-8")
    chat.read(tmp_path)
    yield chat


def first(chat: tta.Adapted, task: str = "desks") -> str:
    return chat.explain(ASKED, task=task).context.sources[0].text


def test_a_passage_that_led_to_a_rejected_answer_loses_weight_in_its_task(
    rivals: tta.Adapted,
) -> None:
    before = first(rivals)
    other = next(text for text in passages(rivals) if text != before)
    learned = rivals(ASKED, task="desks").correct(other.split()[-1].strip("."))
    assert first(rivals) == other
    assert first(rivals, task="else") == before
    assert rivals.explain(ASKED, task="desks", user="eve").context.sources == ()
    rivals.undo(learned)
    assert first(rivals) == before
    assert rivals.memory.worth("default", "desks") == {}


def test_what_feedback_said_of_a_passage_outlives_its_process_and_a_new_reading(
    model: tuple[Any, Any], tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "old.md").write_text("# a\nAda's desk is K7.", encoding="utf-8")
    (docs / "new.md").write_text("# b\nAda's desk is B12.", encoding="utf-8")
    where = tmp_path / "m"
    with tta.wrap(*model, memory=where, embedder=HashEmbedder()) as chat:
        chat.read(docs)
        chat(ASKED, task="desks").correct("B12")
        worth = dict(chat.memory.worth("default", "desks"))
        assert max(worth.values()) == 4 / 3
    with tta.wrap(*model, memory=where, embedder=HashEmbedder()) as chat:
        assert chat.memory.worth("default", "desks") == worth
        assert_consistent(chat.memory)


def test_a_budget_larger_than_the_context_is_cut_to_it(
    model: tuple[Any, Any], tmp_path: Path
) -> None:
    for i in range(12):
        text = " ".join(f"Sentence {i} {j} about the desk of Ada." for j in range(60))
        (tmp_path / f"{i}.txt").write_text(text, encoding="utf-8")
    with tta.wrap(*model, embedder=HashEmbedder(), budget=8192) as chat:
        chat.read(tmp_path)
        reply = chat("Tell me the desk of Ada. " * 40, max_new_tokens=8)
        assert reply.context.dropped
        assert reply.context.tokens <= 2048 - 8
        dropped = reply.context.dropped[0].record.id
        assert reply.context.costs[dropped] > 64
