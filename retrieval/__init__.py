"""Which memories bear on this request, and how they fit into the prompt."""

from tta.retrieval.bank import Banks
from tta.retrieval.embed import SentenceEmbedder, default_embedder
from tta.retrieval.names import Names
from tta.retrieval.pack import Packed, pack
from tta.retrieval.passages import Passages, Reranker
from tta.retrieval.recall import Recaller
from tta.retrieval.tokens import counter, estimate

__all__ = [
    "Banks",
    "Names",
    "Packed",
    "Passages",
    "Recaller",
    "Reranker",
    "SentenceEmbedder",
    "counter",
    "default_embedder",
    "estimate",
    "pack",
]
