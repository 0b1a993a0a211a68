"""Which memories bear on this request, and how they fit into the prompt."""

from tta.retrieval.bank import Banks
from tta.retrieval.embed import SentenceEmbedder, default_embedder
from tta.retrieval.names import Names
from tta.retrieval.pack import Packed, pack
from tta.retrieval.recall import Recaller

__all__ = [
    "Banks",
    "Names",
    "Packed",
    "Recaller",
    "SentenceEmbedder",
    "default_embedder",
    "pack",
]
