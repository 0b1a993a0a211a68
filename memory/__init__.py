"""What is remembered: the journal is the truth, everything else a fold of it."""

from tta.memory.memory import Memory

__all__ = ["Memory"]
