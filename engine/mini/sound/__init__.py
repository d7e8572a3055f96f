"""Speech to learn from: voices, synthesizers, recordings, and what calls do to them."""
