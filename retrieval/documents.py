"""Files, folders and LlamaIndex documents, split into passages: what `chat.read` takes in.

Knows LlamaIndex's readers and node parsers, and which documents have changed. Knows nothing of
where passages are kept (`keep`), how they are found (`passages`), or who may see them. LlamaIndex's
global `Settings` are neither read nor written, and nothing is fetched: sentences are split here,
and tokens are counted by what the caller gives.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

from tta.errors import InvalidSetting, InvalidText
from tta.types import Reading

if TYPE_CHECKING:
    from llama_index.core.node_parser import NodeParser
    from llama_index.core.readers.base import BaseReader
    from llama_index.core.schema import BaseNode

    What = str | Path | BaseNode | Sequence[str | Path | BaseNode]


class How(TypedDict, total=False):
    """`parser`: a LlamaIndex node parser that splits documents, instead of passages of sentences;
    `readers`: LlamaIndex readers of files by their ending (".pdf")."""

    parser: NodeParser
    readers: Mapping[str, BaseReader]


Keep = Callable[[str, str, Sequence[str]], object]
"""(document, digest, passages): this is what the document says now; no digest: it is gone."""

_SENTENCE = re.compile(r".+?(?:[.!?。！？]+[\"'”’)\]]*\s+|\n\s*\n\s*|\Z)", re.DOTALL)
_LEAST, _MOST = 64, 256
"""Tokens of a passage. MiniLM reads no more than 256; LlamaIndex warns of fewer than 50."""


def passage_tokens(budget: int) -> int:
    """How long passages are, so that a prompt's budget holds four of them."""
    return max(_LEAST, min(_MOST, budget // 4))


@dataclass(frozen=True, slots=True, kw_only=True)
class Splitting:
    """How documents become passages: `tokens` long, as `count` has it, unless there is a `parser`
    of the caller's; `readers` read files of certain endings."""

    tokens: int
    count: Callable[[str], int]
    parser: NodeParser | None = None
    readers: Mapping[str, BaseReader] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A part of every digest: what is split otherwise is read again."""
        if self.parser is None:
            return f"sentences {self.tokens}"
        return f"{type(self.parser).__name__} {getattr(self.parser, 'chunk_size', '')}"

    def split(self, documents: Sequence[BaseNode]) -> list[str]:
        """The passages, in their order; nodes that are no whole documents stay as they are."""
        from llama_index.core.schema import Document, MetadataMode

        whole = [node for node in documents if isinstance(node, Document)]
        parts = [node for node in documents if not isinstance(node, Document)]
        parser = self.parser or self._sentences()
        nodes = [*parser.get_nodes_from_documents(whole), *parts]
        texts = (node.get_content(MetadataMode.NONE).strip() for node in nodes)
        return [text for text in texts if text]

    def _sentences(self) -> NodeParser:
        from llama_index.core.node_parser import SentenceSplitter

        return SentenceSplitter(
            chunk_size=self.tokens,
            chunk_overlap=self.tokens // 8,
            tokenizer=lambda text: range(self.count(text)),
            paragraph_separator="\n\n",
            chunking_tokenizer_fn=_SENTENCE.findall,
            include_metadata=False,
            include_prev_next_rel=False,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """One document, not read yet: `load` gives its nodes, or raises InvalidText."""

    name: str
    digest: str
    load: Callable[[], Sequence[BaseNode]]


def read(what: What, *, known: Mapping[str, str], keep: Keep, splitting: Splitting) -> Reading:
    """Have `keep` keep what is new or changed, and drop what is gone.

    `known`: digests by document, as of the last reading. A file that is known and gone, or was in
    a folder that is read and is there no longer, is dropped. Files that are no text are skipped.
    Raises InvalidText if all of them are, InvalidSetting for a path where nothing is or was.
    """
    found, gone = _gathered(what, known, splitting)
    fresh = [each for each in found if known.get(each.name) != each.digest]
    skipped: dict[str, str] = {}
    passages: dict[str, int] = {}
    for each in _progress(fresh):
        try:
            texts = splitting.split(each.load())
        except InvalidText as problem:
            skipped[each.name] = problem.message
            continue
        keep(each.name, each.digest, texts)
        passages[each.name] = len(texts)
    for name in gone:
        keep(name, "", ())
    if skipped and len(skipped) == len(found):
        raise InvalidText(
            "; ".join(skipped.values()),
            value=tuple(skipped),
            hint="Pass readers={'.pdf': ...} of LlamaIndex, or install llama-index-readers-file",
        )
    return Reading(
        new=tuple(name for name in passages if name not in known),
        changed=tuple(name for name in passages if name in known),
        removed=tuple(gone),
        unchanged=tuple(each.name for each in found if known.get(each.name) == each.digest),
        skipped=skipped,
        passages=sum(passages.values()),
    )


def _progress(found: Sequence[_Found]) -> Iterable[_Found]:
    """With a bar on a terminal, in silence elsewhere."""
    if not found or not sys.stderr.isatty():
        return found
    from llama_index.core.utils import get_tqdm_iterable

    return cast(Iterable[_Found], get_tqdm_iterable(found, show_progress=True, desc="Reading"))


def _gathered(
    what: What, known: Mapping[str, str], splitting: Splitting
) -> tuple[list[_Found], list[str]]:
    """Every document that is there, and the names of those that are there no longer."""
    listed = [what] if isinstance(what, str | Path) or not isinstance(what, Sequence) else what
    found: dict[str, _Found] = {}
    nodes: dict[str, list[BaseNode]] = {}
    gone: list[str] = []
    for item in listed:
        if isinstance(item, str | Path):
            files, absent = _files(Path(item).expanduser().resolve(), known)
            found |= {str(file): _file(file, splitting) for file in files}
            gone += absent
        elif hasattr(item, "get_content"):
            nodes.setdefault(_name(item), []).append(item)
        else:
            raise InvalidSetting(
                f"{type(item).__name__} is no document", value=item, hint="Pass paths or documents"
            )
    found |= {name: _nodes(name, theirs, splitting) for name, theirs in nodes.items()}
    return list(found.values()), list(dict.fromkeys(gone))


def _files(path: Path, known: Mapping[str, str]) -> tuple[list[Path], list[str]]:
    """The files at or below a path, but hidden ones; what is known of there and no longer is."""
    below = [name for name in known if Path(name) == path or path in Path(name).parents]
    if path.is_file():
        return [path], []
    if not path.is_dir() and not below:
        raise InvalidSetting(f"There is nothing at {path}", value=str(path), hint="Check the path")
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not any(p.startswith(".") for p in file.relative_to(path).parts)
    )
    there = set(map(str, files))
    return files, [name for name in below if name not in there]


def _file(path: Path, splitting: Splitting) -> _Found:
    digest = _digest(splitting.name.encode(), path.read_bytes())
    return _Found(name=str(path), digest=digest, load=lambda: _load(path, splitting.readers))


def _nodes(name: str, nodes: Sequence[BaseNode], splitting: Splitting) -> _Found:
    texts = [node.get_content().encode("utf-8", "surrogatepass") for node in nodes]
    digest = _digest(splitting.name.encode(), *texts)
    return _Found(name=name, digest=digest, load=lambda: nodes)


def _name(node: BaseNode) -> str:
    """The file it is from, the document that it is a part of, or its own id."""
    return str(node.metadata.get("file_path") or node.ref_doc_id or node.node_id)


def _digest(*parts: bytes) -> str:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _load(path: Path, readers: Mapping[str, BaseReader]) -> Sequence[BaseNode]:
    from llama_index.core import SimpleDirectoryReader

    try:
        with _without_advice():
            found = SimpleDirectoryReader.load_file(
                path,
                file_metadata=lambda _: {},
                file_extractor=dict(readers),
                errors="strict",
                raise_on_error=True,
            )
    except Exception as problem:  # whatever a reader of the caller's may raise
        why = problem.__cause__ or problem
        raise InvalidText(f"{path} cannot be read ({why})", value=str(path)) from problem
    if any("\0" in document.get_content() for document in found):
        raise InvalidText(f"{path} is no text", value=str(path))
    return found


@contextmanager
def _without_advice() -> Iterator[None]:
    """LlamaIndex recommends a package at every single file."""
    logger = logging.getLogger("llama_index.core.readers.file.base")
    logger.addFilter(_is_no_advice)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_advice)


def _is_no_advice(record: logging.LogRecord) -> bool:
    return "llama-index-readers-file" not in record.getMessage()
