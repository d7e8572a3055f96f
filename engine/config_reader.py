"""Configuration files: JSON read with errors that name file and key, and refusal of foreign architectures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from engine.errors import ConfigError

ARCHITECTURE = "MiniCPMO"
MODEL_TYPE = "minicpmo"

PLAUSIBLE = 64
"""A size may be so many times the published one; what is larger is a mistake, or made to exhaust a machine."""

T = TypeVar("T")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object. Raises ConfigError that names the file and where it is broken."""
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(path, "is missing", "download the file again") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(path, f"is not valid JSON ({error})", "download the file again") from error
    except OSError as error:
        raise ConfigError(path, f"cannot be read ({error.strerror})", "check the file and its permissions") from error
    if not isinstance(data, dict):
        raise ConfigError(path, f"holds a JSON {type(data).__name__}, not an object", "download the file again")
    return data


class Reader:
    """Typed access to one JSON block, with errors that name file and key."""

    def __init__(self, data: Mapping[str, Any], source: str | Path, prefix: str = "") -> None:
        self.data = data
        self.source = source
        self.prefix = prefix

    def error(self, key: str, problem: str, remedy: str) -> ConfigError:
        return ConfigError(self.source, problem, remedy, key=self.prefix + key)

    def block(self, *names: str) -> Reader:
        """The first of ``names`` that is there; empty (all defaults) when none is."""
        for name in names:
            value = self.data.get(name)
            if value is not None:
                if not isinstance(value, Mapping):
                    raise self.error(name, f"is {value!r}, not an object", "restore the official configuration")
                return Reader(value, self.source, f"{self.prefix}{name}.")
        return Reader({}, self.source, f"{self.prefix}{names[0]}.")

    def get(self, key: str, default: T) -> T:
        """The value of ``key``, of the same type as ``default`` (an int may stand for a float)."""
        value = self.data.get(key)
        if value is None:
            return default
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            return float(value)  # type: ignore[return-value]
        if type(value) is not type(default) or (isinstance(value, float) and not math.isfinite(value)):
            kind = {int: "an integer", float: "a finite number", bool: "true or false", str: "a text"}
            problem = f"is {value!r}, not {kind.get(type(default), f'a {type(default).__name__}')}"
            raise self.error(key, problem, "restore the official configuration")
        return value

    def positive(self, key: str, default: int, most: int | None = None) -> int:
        """A size: from 1 to ``most``, or to :data:`PLAUSIBLE` times the published ``default``."""
        value = self.get(key, default)
        most = PLAUSIBLE * default if most is None else most
        if value < 1:
            raise self.error(key, f"is {value}, which must be at least 1", "restore the official configuration")
        if value > most:
            problem = f"is {value}, where more than {most} is beyond what any machine holds"
            raise self.error(key, problem, "restore the official configuration")
        return value

    def expect(self, key: str, *allowed: object) -> None:
        """Refuse a setting that this implementation does not compute. A missing key is fine."""
        value = self.data.get(key)
        if value is not None and value not in allowed:
            names = " or ".join(repr(item) for item in allowed)
            raise self.error(key, f"is {value!r}, but only {names} is supported", "use a MiniCPM-o 2.6 checkpoint")


def check_architecture(root: Reader) -> None:
    remedy = "give the directory of a MiniCPM-o 2.6 checkpoint"
    architectures, model_type = root.data.get("architectures") or [], root.data.get("model_type")
    if ARCHITECTURE not in architectures and (architectures or model_type != MODEL_TYPE):
        found = ", ".join(map(str, architectures)) if isinstance(architectures, list) else str(architectures)
        problem = f"names the architecture {found or model_type or 'nothing'}, not {ARCHITECTURE}"
        raise root.error("architectures", problem, remedy)
    if model_type not in (None, MODEL_TYPE):
        raise root.error("model_type", f"is {model_type!r}, not {MODEL_TYPE!r}", remedy)
    if str(root.data.get("version", "2.6")) != "2.6":
        raise root.error("version", f"is {root.data['version']}, a sister model with another layout", remedy)
    for part in ("init_audio", "init_tts"):
        root.expect(part, True)
    root.expect("hidden_act", "silu")
    root.expect("use_sliding_window", False)
    root.block("vision_config").expect("hidden_act", "gelu_pytorch_tanh")
    root.block("vision_config").expect("model_type", "siglip_vision_model", "siglip")
    root.block("audio_config").expect("activation_function", "gelu")
    root.block("audio_config").expect("model_type", "whisper")
    root.block("audio_config").expect("scale_embedding", False)
    root.block("tts_config").expect("model_type", "conditional_chattts")
    for setting in ("use_speaker_embedding", "use_text", "use_mlp"):
        root.block("tts_config").expect(setting, True)
    root.block("tts_config").expect("use_llm_hidden_state", False)
