"""Checked reading of TOML tables into frozen dataclasses, with where each number comes from.

A field declares what it may hold (``number``, ``count``, ``text``, ``flag``, ``choice``,
``section``, ...); unknown keys, missing ones and values out of range are refused. The unit of a
number is in its name, so a key without its unit is an unknown key.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from edgellm.errors import DeviceError

STATUSES = ("published", "artifact", "fitted", "assumed")
FIGURE_KEYS = ("value", "source", "status", "fitted_on")


@dataclass(frozen=True)
class Provenance:
    """Where a number comes from.

    Attributes:
        status: published (paper, vendor), artifact (code or results that the authors published),
            fitted (to a published result: ``fitted_on`` says which), or assumed.
        source: which paper, page, table or file.
        fitted_on: ids of validation points of the same description.
        value: the number.
    """

    status: str
    source: str = ""
    fitted_on: str = ""
    value: object = None


ASSUMED = Provenance("assumed")


@dataclass
class Reader:
    """Reads one file; collects the provenance of each number by its path ("clock.core_mhz")."""

    file: str
    provenance: dict[str, Provenance] = dataclasses.field(default_factory=dict)

    def table(
        self,
        kind: type,
        values: object,
        path: str,
        inherited: Provenance = ASSUMED,
    ) -> Any:  # noqa: ANN401 (a dataclass of that kind)
        """Return a dataclass of the given kind, read from a table.

        Args:
            kind: a dataclass whose fields are declared with the functions below.
            values: what TOML has there.
            path: of the table, for errors and provenance.
            inherited: provenance of numbers of which the table does not say it.

        Raises:
            DeviceError: what is there is not what the dataclass declares.
        """
        if not isinstance(values, dict):
            raise self.fail(path, "is not a table")
        rules = {field.name: field for field in dataclasses.fields(kind) if field.metadata}
        default = self.default_provenance(values, path, rules, inherited)
        given = {key: value for key, value in values.items() if key in rules or key not in _NOTES}
        for key in given:
            if key not in rules:
                near = get_close_matches(key, rules, n=3, cutoff=0.4) or sorted(rules)
                raise self.fail(f"{path}.{key}", f"is unknown here; near are: {', '.join(near)}")
        read = {}
        for name, field in rules.items():
            place = f"{path}.{name}".lstrip(".")
            if name in given:
                read[name] = field.metadata["read"](self, given[name], place, default)
            elif field.default is dataclasses.MISSING and (
                field.default_factory is dataclasses.MISSING
            ):
                raise self.fail(place, f"is missing; needed is {field.metadata['what']}")
        return kind(**read)

    def figure(self, value: object, path: str, default: Provenance) -> object:
        """Return the bare value of a figure, and note where it comes from."""
        if not isinstance(value, dict):
            self.provenance[path] = dataclasses.replace(default, value=value)
            return value
        unknown = [key for key in value if key not in FIGURE_KEYS]
        if unknown or "value" not in value:
            allowed = ", ".join(FIGURE_KEYS)
            raise self.fail(path, f"has {', '.join(value)}; a figure has {allowed}, with a value")
        origin = self._provenance(value, path, default)
        self.provenance[path] = dataclasses.replace(origin, value=value["value"])
        return value["value"]

    def fail(self, path: str, what: str) -> DeviceError:
        """Return an error that names the file and the field."""
        return DeviceError(f"{self.file}: {path.lstrip('.')} {what}")

    def default_provenance(
        self,
        values: Mapping[str, object],
        path: str,
        rules: Mapping[str, object],
        inherited: Provenance,
    ) -> Provenance:
        """Return what a table says of all its numbers; "source" may be a field of its own."""
        notes = {key: values[key] for key in _NOTES if key in values and key not in rules}
        return self._provenance(notes, path, inherited)

    def _provenance(
        self, notes: Mapping[str, object], path: str, default: Provenance
    ) -> Provenance:
        texts = {key: notes.get(key, getattr(default, key)) for key in _NOTES}
        for key, text in texts.items():
            if not isinstance(text, str):
                raise self.fail(f"{path}.{key}", "must be a text")
        found = Provenance(**{key: str(text) for key, text in texts.items()})
        if found.status not in STATUSES:
            raise self.fail(path, f"has status {found.status!r}; allowed: {', '.join(STATUSES)}")
        if found.status != "assumed" and not found.source:
            raise self.fail(path, f"is {found.status}, so it needs a source")
        if (found.status == "fitted") != bool(found.fitted_on):
            raise self.fail(path, "is fitted, so it needs fitted_on, and only then has one")
        return found


_NOTES = ("status", "source", "fitted_on")

Read = Callable[[Reader, object, str, Provenance], object]


def _field(read: Read, what: str, default: object) -> Any:  # noqa: ANN401 (as dataclasses.field)
    return dataclasses.field(default=default, metadata={"read": read, "what": what})


def number(low: float, high: float, default: object = dataclasses.MISSING) -> Any:  # noqa: ANN401
    """Declare a finite number in [low, high]; it has a provenance."""
    what = f"a number from {low:g} to {high:g}"

    def read(reader: Reader, value: object, path: str, notes: Provenance) -> float:
        bare = reader.figure(value, path, notes)
        if isinstance(bare, bool) or not isinstance(bare, int | float):
            raise reader.fail(path, f"is {bare!r}; needed is {what}")
        if not math.isfinite(bare) or not low <= bare <= high:
            raise reader.fail(path, f"is {bare!r}; allowed is {what}")
        return float(bare)

    return _field(read, what, default)


def count(low: int, high: int, default: object = dataclasses.MISSING) -> Any:  # noqa: ANN401
    """Declare an integer in [low, high]; it has a provenance."""
    what = f"an integer from {low} to {high}"

    def read(reader: Reader, value: object, path: str, notes: Provenance) -> int:
        bare = reader.figure(value, path, notes)
        if type(bare) is not int or not low <= bare <= high:
            raise reader.fail(path, f"is {bare!r}; allowed is {what}")
        return bare

    return _field(read, what, default)


def text(default: object = dataclasses.MISSING) -> Any:  # noqa: ANN401
    """Declare a text."""

    def read(reader: Reader, value: object, path: str, _: Provenance) -> str:
        if not isinstance(value, str):
            raise reader.fail(path, f"is {value!r}; needed is a text")
        return value

    return _field(read, "a text", default)


def flag(default: object = dataclasses.MISSING) -> Any:  # noqa: ANN401
    """Declare true or false."""

    def read(reader: Reader, value: object, path: str, _: Provenance) -> bool:
        if not isinstance(value, bool):
            raise reader.fail(path, f"is {value!r}; needed is true or false")
        return value

    return _field(read, "true or false", default)


def choice(*allowed: str, default: object = dataclasses.MISSING) -> Any:  # noqa: ANN401
    """Declare one of some words."""
    what = f"one of {', '.join(allowed)}"

    def read(reader: Reader, value: object, path: str, _: Provenance) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise reader.fail(path, f"is {value!r}; allowed is {what}")
        return value

    return _field(read, what, default)


def names() -> Any:  # noqa: ANN401
    """Declare a list of texts, empty by default."""

    def read(reader: Reader, value: object, path: str, _: Provenance) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise reader.fail(path, "needs a list of texts")
        return tuple(value)

    return _field(read, "a list of texts", ())


def counts(low: int, high: int) -> Any:  # noqa: ANN401
    """Declare a list of integers in [low, high], empty by default; they have one provenance."""
    what = f"a list of integers from {low} to {high}"

    def read(reader: Reader, value: object, path: str, notes: Provenance) -> tuple[int, ...]:
        bare = reader.figure(value, path, notes)
        if not isinstance(bare, list) or not all(
            type(item) is int and low <= item <= high for item in bare
        ):
            raise reader.fail(path, f"is {bare!r}; allowed is {what}")
        return tuple(bare)

    return _field(read, what, ())


def numbers(low: float, high: float) -> Any:  # noqa: ANN401
    """Declare a table of numbers in [low, high] under any names, empty by default."""
    one = number(low, high).metadata["read"]

    def read(reader: Reader, value: object, path: str, notes: Provenance) -> dict[str, float]:
        if not isinstance(value, dict):
            raise reader.fail(path, "is not a table")
        own = reader.default_provenance(value, path, {}, notes)
        items = {key: item for key, item in value.items() if key not in _NOTES}
        return {key: one(reader, item, f"{path}.{key}", own) for key, item in items.items()}

    metadata = {"read": read, "what": "a table of numbers"}
    return dataclasses.field(default_factory=dict, metadata=metadata)


def section(kind: type, default: object = dataclasses.MISSING) -> Any:  # noqa: ANN401
    """Declare a table that is a dataclass of its own."""

    def read(reader: Reader, value: object, path: str, notes: Provenance) -> object:
        return reader.table(kind, value, path, notes)

    return _field(read, "a table", default)


def sections(kind: type) -> Any:  # noqa: ANN401
    """Declare a list of tables, empty by default; each is named by its id."""

    def read(reader: Reader, value: object, path: str, notes: Provenance) -> tuple[object, ...]:
        if not isinstance(value, list):
            raise reader.fail(path, "needs a list of tables: [[...]]")
        found = []
        for index, item in enumerate(value):
            label = item.get("id", index) if isinstance(item, dict) else index
            found.append(reader.table(kind, item, f"{path}.{label}", notes))
        ids = [getattr(item, "id", index) for index, item in enumerate(found)]
        if len(set(ids)) != len(ids):
            raise reader.fail(path, f"has an id twice: {', '.join(map(str, ids))}")
        return tuple(found)

    return _field(read, "a list of tables", ())
