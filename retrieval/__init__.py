"""Which memories bear on this request, and how they fit into the prompt."""

from tta.retrieval.embed import SentenceEmbedder, default_embedder
from tta.retrieval.pack import Packed, pack
from tta.retrieval.readers import KernelVote, Names
from tta.retrieval.recall import Recaller

__all__ = [
    "KernelVote",
    "Names",
    "Packed",
    "Recaller",
    "SentenceEmbedder",
    "default_embedder",
    "pack",
]
