"""Typed, checked reading of JSON objects that strangers wrote, such as config.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgellm.errors import CheckpointError, EdgeLLMError

MAX_JSON_BYTES = 1 << 26
MAX_INTEGER = 1 << 31


class JsonFields:
    """One JSON object; every read checks the type and the range, and null means absent."""

    def __init__(
        self, values: Mapping[str, Any], where: str, error: type[EdgeLLMError] = CheckpointError
    ) -> None:
        self.values = values
        self.where = where
        self.error = error

    @classmethod
    def read(cls, path: Path, error: type[EdgeLLMError] = CheckpointError) -> "JsonFields":
        """Read the file ``path``, which must hold one JSON object.

        Raises:
            EdgeLLMError: of the class ``error``, if the file is missing, too large or no object.
        """
        values = _read_json(path, error)
        if not isinstance(values, dict):
            raise error(f"{path}: holds a {type(values).__name__}, not an object")
        return cls(values, str(path), error)

    def has(self, name: str) -> bool:
        """Return whether the field is there and not null."""
        return self.values.get(name) is not None

    def integer(
        self, name: str, default: int | None = None, *, low: int = 1, high: int = MAX_INTEGER
    ) -> int:
        """Return an integer in [low, high]; without a default the field is required."""
        value = self._value(name, default)
        if type(value) is not int or not low <= value <= high:
            raise self.fail(name, f"allowed are integers from {low} to {high}")
        return value

    def number(
        self, name: str, default: float | None = None, *, low: float = 0.0, high: float = 1e30
    ) -> float:
        """Return a finite number in [low, high]; without a default the field is required."""
        value = self._value(name, default)
        if type(value) not in (int, float) or not low <= value <= high:  # NaN is in no range
            raise self.fail(name, f"allowed are numbers from {low:g} to {high:g}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """Return a boolean."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self.fail(name, "allowed are true and false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """Return a string; without a default the field is required."""
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self.fail(name, "a string is needed")
        return value

    def texts(self, name: str) -> list[str]:
        """Return a list of strings, empty if the field is absent."""
        value = self._value(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.fail(name, "a list of strings is needed")
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        """Return one or several non-negative integers, none if the field is absent."""
        value = self._value(name, [])
        items = value if isinstance(value, list) else [value]
        if not all(type(item) is int and 0 <= item <= MAX_INTEGER for item in items):
            raise self.fail(name, "a non-negative integer or a list of them is needed")
        return tuple(items)

    def section(self, name: str) -> "JsonFields | None":
        """Return a nested object, None if the field is absent."""
        if not self.has(name):
            return None
        value = self.values[name]
        if not isinstance(value, dict):
            raise self.fail(name, "an object is needed")
        return JsonFields(value, f"{self.where}: {name}", self.error)

    def fail(self, name: str, allowed: str) -> EdgeLLMError:
        """Return the error that names the field, its value and what is allowed."""
        if not self.has(name):
            return self.error(f"{self.where}: {name} is missing; {allowed}")
        return self.error(f"{self.where}: {name} is {self.values[name]!r}; {allowed}")

    def _value(self, name: str, default: object) -> Any:  # noqa: ANN401
        return self.values[name] if self.has(name) else default


def read_json_list(path: Path, error: type[EdgeLLMError] = CheckpointError) -> list[dict[str, Any]]:
    """Read the file ``path``, which must hold a list of JSON objects.

    Raises:
        EdgeLLMError: of the class ``error``, if the file is missing, too large or no such list.
    """
    values = _read_json(path, error)
    if not isinstance(values, list) or not all(isinstance(item, dict) for item in values):
        raise error(f"{path}: holds no list of objects")
    return values


def _read_json(path: Path, error: type[EdgeLLMError]) -> Any:  # noqa: ANN401
    if not path.is_file():
        raise error(f"{path}: no such file")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise error(f"{path}: larger than {MAX_JSON_BYTES} bytes")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as cause:
        raise error(f"{path}: not JSON: {cause}") from cause
