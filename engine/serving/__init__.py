"""Many calls, one model, some process: the engines behind :mod:`engine.client`."""
