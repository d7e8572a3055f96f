"""Typed errors of the model library: each message is one sentence that names cause and remedy."""

from __future__ import annotations

import re
from pathlib import Path


class ModelError(Exception):
    """Base of all errors that this library raises on purpose."""


class LoadError(ModelError):
    """A model directory cannot be used.

    ``file`` is the file at fault (or the directory itself), ``key`` the configuration key or tensor name where one
    is at fault, ``remedy`` what a person can do about it. ``str(error)`` joins the three into one sentence.
    """

    def __init__(self, file: str | Path, problem: str, remedy: str, *, key: str | None = None) -> None:
        where = f"{file}: {key}" if key else str(file)
        super().__init__(f"{where}: {problem}; {remedy}")
        self.file = str(file)
        self.problem = problem
        self.key = key
        self.remedy = remedy


class ConfigError(LoadError):
    """A configuration file is missing, corrupt, of another architecture, or holds an impossible value."""


class CheckpointError(LoadError):
    """A weight file is missing, truncated, or does not fit the configuration."""


class TokenizerError(LoadError):
    """A tokenizer is missing, corrupt, or lacks a token that the model needs."""


class InputError(ModelError, ValueError):
    """What a caller handed in (picture, sound, message) cannot be processed."""


class TooLongError(InputError):
    """A conversation that does not fit into the model's context."""


class NotFiniteError(ModelError):
    """The model computed values that are not finite."""

    def __init__(self) -> None:
        super().__init__(
            "the model computed values that are not numbers (NaN or infinite); say it otherwise, or run the model in "
            "another dtype (bfloat16 or float32)"
        )


class OutOfMemoryError(ModelError):
    """The device has no memory left for a piece of work."""

    def __init__(self) -> None:
        super().__init__(
            "the model ran out of memory; end another call and try again, or run it with fewer calls, a smaller "
            "context or quantized weights"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or torch says that memory could not be had (torch has no one class for it)."""
    if isinstance(error, MemoryError | OutOfMemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in said or "out of memory" in said)


class MediaError(InputError):
    """A picture or sound that cannot be used.

    ``name`` is the file, or what the data is called; ``fault`` and ``remedy`` are halves of a sentence, so that each
    caller can say them in its own way.
    """

    def __init__(self, name: str | Path, fault: str, remedy: str) -> None:
        super().__init__(f"{name} {fault}; {remedy}")
        self.fault = fault
        self.remedy = remedy


def reason(error: Exception) -> str:
    """The cause of a failure in its library's words: one line, without the path and the full stop."""
    text = getattr(error, "strerror", None) or str(error)
    text = re.sub(r"^Error opening .*?: ", "", " ".join(str(text).split()))
    return (text or type(error).__name__).rstrip(".")
