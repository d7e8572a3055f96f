"""Configuration files: JSON read with errors that name file and key."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from engine.errors import ConfigError

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
            raise self.error(key, f"is {value!r}, but only {names} is supported", "use the official checkpoint")
