"""How a model that has no eyes of its own is told what a picture shows (``naming_config``): no part of the official
model."""

from __future__ import annotations

from dataclasses import dataclass

from engine.config_reader import Reader

REMEDY = "restore the configuration that the checkpoint was made with"


@dataclass(frozen=True, slots=True)
class NamingConfig:
    """Another model of the family, in a folder beside this one's weights, that says what is drawn in a picture. Its
    words are what the language model reads in place of the picture."""

    folder: str
    """Name of the folder: one of a checkpoint of its own."""
    before: str
    after: str
    """What stands around a picture when that model is asked; control tokens are spelled out."""
    begins: str
    ends: str
    """What stands around the words of every caption; one without is not believed."""
    nothing: str
    """The words of a caption that says nothing."""
    least_log_probability: float
    """Of the least certain token of a caption that is believed."""
    told: str
    """How the language model is told: the words in place of ``{}``."""
    unclear: str
    """What it is told when nothing is to be named any more, or nothing certain."""


def read_naming_config(block: Reader) -> NamingConfig | None:
    """The block ``naming_config``; None where it is empty. Raises ConfigError."""
    if not block.data:
        return None
    config = NamingConfig(
        folder=block.get("folder", "naming"),
        before=block.get("before", ""),
        after=block.get("after", ""),
        begins=block.get("begins", ""),
        ends=block.get("ends", ""),
        nothing=block.get("nothing", ""),
        least_log_probability=block.get("least_log_probability", -0.25),
        told=block.get("told", "{}"),
        unclear=block.get("unclear", ""),
    )
    if not config.folder or config.folder in (".", "..") or {"/", "\\", "\0"} & set(config.folder):
        raise block.error("folder", f"is {config.folder!r:.100}, not the name of a folder beside this file", REMEDY)
    if config.told.count("{}") != 1:
        raise block.error("told", f"is {config.told!r:.100}, which must have one {{}} for the words", REMEDY)
    return config
