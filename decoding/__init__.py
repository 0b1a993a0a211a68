"""How a frozen model answers: drawing, choosing among a closed set, deciding."""

from tta.decoding.batch import Batch, Joined, Lock, Ticket
from tta.decoding.best import budget, prior
from tta.decoding.constrain import Output
from tta.decoding.decide import Decider, Decision, Prompts
from tta.decoding.health import health
from tta.decoding.hf import HFModel
from tta.decoding.load import load
from tta.decoding.mixture import AHEAD, Mixture, totals
from tta.decoding.testimony import testify
from tta.decoding.think import invited, thinking, thinks

__all__ = [
    "AHEAD",
    "Batch",
    "Decider",
    "Decision",
    "HFModel",
    "Joined",
    "Lock",
    "Mixture",
    "Output",
    "Prompts",
    "Ticket",
    "budget",
    "health",
    "invited",
    "load",
    "prior",
    "testify",
    "thinking",
    "thinks",
    "totals",
]
