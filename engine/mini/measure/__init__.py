"""How well mini hears, answers and is understood."""
