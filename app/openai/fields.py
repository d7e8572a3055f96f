"""One JSON object of a request, read field by field; what is not as it should be is an error that names its path."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from app.openai.errors import ApiError


class Fields:
    """``body`` is the object, ``path`` where it is (empty for the whole request)."""

    def __init__(self, body: Any, path: str = "") -> None:
        if not isinstance(body, Mapping):
            raise ApiError(f"{path or 'The body'} must be an object.", param=path or None, code="invalid_type")
        self.body, self.path = body, path

    def at(self, name: str) -> str:
        """The path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def error(self, name: str, must: str, code: str = "invalid_value") -> ApiError:
        """The field ``name`` must be, or must do, something."""
        return ApiError(f"{self.at(name)} {must}.", param=self.at(name), code=code)

    def get(self, name: str) -> Any:
        """A value, None if it is missing or null."""
        return self.body.get(name)

    def text(self, name: str) -> str | None:
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            raise self.error(name, "must be a string", "invalid_type")
        return value

    def required(self, name: str) -> str:
        value = self.text(name)
        if not value:
            raise self.error(name, "is missing", "missing_required_parameter")
        return value

    def one_of(self, name: str, known: Collection[str]) -> str | None:
        value = self.text(name)
        if value is not None and value not in known:
            raise self.error(name, f"is {value[:40]!r}; known are {', '.join(sorted(known))}")
        return value

    def flag(self, name: str) -> bool:
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.error(name, "must be true or false", "invalid_type")
        return bool(value)

    def whole(self, name: str, low: int, high: int) -> int | None:
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(name, "must be a whole number", "invalid_type")
        if not low <= value <= high:
            raise self.error(name, f"is {value}; it must be from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, "must be a number", "invalid_type")
        if not (math.isfinite(value) and low <= value <= high):
            raise self.error(name, f"is {value}; it must be from {low:g} to {high:g}")
        return float(value)

    def entries(self, name: str) -> list[Any]:
        value = self.get(name)
        if not isinstance(value, list) or not value:
            raise self.error(name, "must be a list that is not empty", "invalid_type")
        return value

    def inner(self, name: str) -> Fields:
        """An object in the object. Raises ApiError if it is missing."""
        return Fields(self.get(name), self.at(name))

    def only(self, known: Collection[str]) -> None:
        """Raise ApiError for a field that nobody knows."""
        for name in self.body:
            if name not in known:
                raise self.error(str(name)[:60], "is not a parameter of this server", "unknown_parameter")
