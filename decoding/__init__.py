"""How a frozen model answers: drawing, choosing among a closed set, deciding."""

from tta.decoding.constrain import Output
from tta.decoding.decide import Decider, Decision
from tta.decoding.hf import HFModel
from tta.decoding.load import load

__all__ = ["Decider", "Decision", "HFModel", "Output", "load"]
