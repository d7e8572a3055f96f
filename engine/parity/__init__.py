"""Compares this implementation with outputs of the published one, stage by stage: ``python -m engine.parity DIR``."""
