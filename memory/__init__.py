"""What is remembered: the journal is the truth, everything else a fold of it."""
