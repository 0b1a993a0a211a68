"""How a frozen model answers: drawing, choosing among a closed set, deciding."""
