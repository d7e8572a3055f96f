"""The networks of the MiniCPM family, named and shaped so that the official state dict loads key by key.

Every module has two faces: a plain forward without caches, which autograd can train, and a forward over a
:class:`~engine.model.kv.KVBatch`, which serves a batch of sessions from one static key/value storage.
"""
