"""Descriptions of devices: a TOML file, checked; each number with where it comes from.

Any number may be written ``{ value = x, source = "...", status = "..." }``, the status published,
artifact, fitted (with ``fitted_on``, a validation point) or assumed. A table may have ``source``
and ``status`` for all numbers in it; else they are assumed.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgellm.devices._fields import Provenance, Reader, count, numbers, section, sections
from edgellm.devices._sections import (
    ArrayUnit,
    Buffer,
    Clock,
    Compile,
    Cores,
    Energy,
    Identity,
    Isa,
    Memory,
    Placement,
    Validation,
    VectorUnit,
)
from edgellm.errors import ConfigError, DeviceError

SCHEMA_VERSION = 1
MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Description:
    """A device, as its file describes it.

    Attributes:
        parameters: numbers that the device's own class declares and nobody else knows.
        name: of the file, and so of the device.
        provenance: where each number comes from, by its path: "memory.hbm.bw_gbs".
    """

    schema_version: int = count(SCHEMA_VERSION, SCHEMA_VERSION)
    device: Identity = section(Identity)
    clock: Clock = section(Clock)
    cores: Cores = section(Cores, default=Cores())
    array: tuple[ArrayUnit, ...] = sections(ArrayUnit)
    buffer: tuple[Buffer, ...] = sections(Buffer)
    memory: tuple[Memory, ...] = sections(Memory)
    placement: Placement | None = section(Placement, default=None)
    sfu: tuple[VectorUnit, ...] = sections(VectorUnit)
    isa: Isa | None = section(Isa, default=None)
    compile: Compile = section(Compile, default=Compile())
    energy: Energy = section(Energy)
    parameters: dict[str, float] = numbers(-1e15, 1e15)
    validation: Validation = section(Validation, default=Validation())
    name: str = ""
    provenance: Mapping[str, Provenance] = field(default_factory=dict)

    def memory_named(self, name: str) -> Memory:
        """Return the memory of that id."""
        return self._named("memory", self.memory, name)

    def array_named(self, name: str) -> ArrayUnit:
        """Return the array of that id."""
        return self._named("array", self.array, name)

    def vector_unit(self, kind: str) -> VectorUnit:
        """Return the unit that does a kind of Elementwise; "*" is for the kinds not named."""
        units = {unit.op: unit for unit in self.sfu}
        if found := units.get(kind, units.get("*")):
            return found
        raise DeviceError(f"{self.name}: no [[sfu]] for {kind!r}; there are {', '.join(units)}")

    def hz(self) -> float:
        """Return the core clock in cycles a second."""
        return self.clock.core_mhz * 1e6

    def _named(self, kind: str, items: Sequence[Any], name: str) -> Any:  # noqa: ANN401
        for item in items:
            if item.id == name:
                return item
        known = ", ".join(item.id for item in items) or "none"
        raise DeviceError(f"{self.name}: no {kind} {name!r}; there are {known}")


def read_description(file: Path, changes: Sequence[str] = ()) -> Description:
    """Read and check a description.

    Args:
        file: a TOML file.
        changes: of its numbers: "memory.hbm.bw_gbs=460", "array.m=64" where there is one array.

    Raises:
        DeviceError: it is no description: unknown or missing keys, impossible values, a fitted
            number without the point that it was fitted on, or one that is a gate.
        ConfigError: a change that cannot be made.
    """
    tables = _read_tables(file)
    for change in changes:
        _change(tables, change)
    try:
        return from_tables(tables, file.stem)
    except DeviceError as error:
        if changes:
            raise ConfigError(f"{error} (with {', '.join(changes)})") from error
        raise


def from_tables(tables: Mapping[str, object], name: str) -> Description:
    """Return the description that some tables are.

    Raises:
        DeviceError: they are none; see ``read_description``.
    """
    reader = Reader(name)
    found: Description = reader.table(Description, tables, "")
    found = replace(found, name=name, provenance=_of_the_device(reader.provenance))
    _check(found)
    return found


def _of_the_device(provenance: Mapping[str, Provenance]) -> dict[str, Provenance]:
    """Leave out numbers that are not the device's: published results have sources of their own."""
    return {
        path: origin
        for path, origin in provenance.items()
        if not path.startswith(("validation.", "schema_version"))
    }


def _read_tables(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise DeviceError(f"{file}: larger than {MAX_FILE_BYTES} bytes")
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, RecursionError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DeviceError(f"{file}: no description: {error}") from error


def _change(tables: dict[str, Any], change: str) -> None:
    """Make a change "path=value" in the tables of a file."""
    path, equals, literal = change.partition("=")
    parts = path.strip().split(".")
    try:
        value = tomllib.loads(f"value = {literal}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{change!r}: the value is none of TOML: {error}") from error
    if not equals or len(parts) < 2 or not all(parts):
        raise ConfigError(f"{change!r}: a change is SECTION.KEY=VALUE, such as clock.core_mhz=300")
    place: Any = tables
    for part in parts[:-1]:
        place = _step_into(place, part, change)
    if isinstance(place, list):
        place = _only(place, change)
    place[parts[-1]] = {"value": value, "source": "changed by the user", "status": "assumed"}
    if not isinstance(value, int | float) or isinstance(value, bool):
        place[parts[-1]] = value


def _step_into(place: Any, part: str, change: str) -> Any:  # noqa: ANN401 (TOML)
    if isinstance(place, list):
        for item in place:
            if isinstance(item, dict) and part in (item.get("id"), item.get("op")):
                return item
        place = _only(place, change)
    inside = place.setdefault(part, {}) if isinstance(place, dict) else None
    if not isinstance(inside, dict | list):
        raise ConfigError(f"{change!r}: {part} is no section")
    return inside


def _only(items: list[Any], change: str) -> Any:  # noqa: ANN401 (TOML)
    if len(items) != 1 or not isinstance(items[0], dict):
        ids = [item.get("id") or item.get("op") for item in items if isinstance(item, dict)]
        raise ConfigError(f"{change!r}: which one? There are {', '.join(map(str, ids)) or 'none'}")
    return items[0]


def _check(found: Description) -> None:
    """Check what the tables say of each other."""
    for memory in found.memory:
        if (memory.channels_used or 0) > memory.channels:
            raise DeviceError(
                f"{found.name}: memory.{memory.id}.channels_used is {memory.channels_used}; there "
                f"are {memory.channels}"
            )
    if found.placement is not None:
        place = found.placement
        for name in (place.weights, place.kv, place.activations, place.instructions):
            if name:
                found.memory_named(name)
    kinds = [unit.op for unit in found.sfu]
    if len(set(kinds)) != len(kinds):
        raise DeviceError(f"{found.name}: sfu: an op is there twice: {', '.join(kinds)}")
    _check_arrays(found)
    _check_fits(found)


def _check_arrays(found: Description) -> None:
    arrays = {array.id for array in found.array}
    for buffer in found.buffer:
        for fed in buffer.feeds:
            if fed.partition(".")[0] not in arrays:
                raise DeviceError(f"{found.name}: buffer.{buffer.id}.feeds: no array {fed!r}")
    for array in found.array:
        rule = array.sparsity
        if rule is not None and not all(1 <= kept <= rule.m for kept in rule.n):
            raise DeviceError(f"{found.name}: array.{array.id}.sparsity.n: from 1 to {rule.m}")


def _check_fits(found: Description) -> None:
    """Check that what is fitted names a point, and one that proves nothing."""
    gates = {point.id: point.gate for point in found.validation.point}
    for path, origin in found.provenance.items():
        if not origin.fitted_on:
            continue
        for point in origin.fitted_on.replace(",", " ").split():
            if point not in gates:
                raise DeviceError(f"{found.name}: {path} was fitted on {point!r}: no such point")
            if gates[point]:
                raise DeviceError(
                    f"{found.name}: {path} was fitted on {point!r}, so that is no gate"
                )
