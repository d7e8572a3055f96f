"""Speed of the engine, as ratios to a reference pattern measured in the same run: ``python -m engine.bench``."""
