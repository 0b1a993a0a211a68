"""How a frozen model answers: drawing, choosing among a closed set, deciding."""

from tta.decoding.constrain import Output
from tta.decoding.hf import HFModel
from tta.decoding.load import load
from tta.decoding.mixture import combine, normalise

__all__ = ["HFModel", "Output", "combine", "load", "normalise"]
