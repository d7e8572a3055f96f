"""Mini: a small model of the MiniCPM-o 2.6 architecture, trained from scratch by this package.

``python -m engine.mini`` (``make train-mini``) runs the stages; :mod:`engine.mini.checkpoint` holds the result.
"""
