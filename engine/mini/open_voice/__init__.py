"""A voice for any English sentence: what small speaks with. Learned from a neural synthesizer, hibari."""
