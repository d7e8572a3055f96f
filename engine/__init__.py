"""The model: units in, text and speech out.

Nothing here knows about calls, peers or HTTP; :mod:`engine.client` is the only door that the call app uses.
"""
