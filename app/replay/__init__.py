"""Call bundles: written by the recorder or by hand, read, replayed and scored: ``python -m app.replay``."""
