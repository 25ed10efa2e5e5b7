"""Descriptions: what is read, and what is refused."""

import copy
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgellm.devices import _catalog
from edgellm.devices._description import from_tables, read_description
from edgellm.errors import ConfigError, DeviceError, UnknownNameError

SOUND = """
schema_version = 1
[device]
model = "reference"
kind = "asic"
summary = "for a test"
supports = "all"
[clock]
core_mhz = { value = 225, source = "a paper", status = "published" }
[[array]]
id = "mac"
m = 1
n = 2
k = 3
dataflow = "os"
source = "a repository"
status = "artifact"
quantum = { m = 4 }
[[memory]]
id = "ram"
bw_gbs = { value = 10, source = "made to fit", status = "fitted", fitted_on = "p1" }
channels = 8
[energy]
static_w = 1
[[validation.point]]
id = "p1"
row = "X1"
metric = "decode_tokens_per_s"
published = 5
tol_rel = 0.1
gate = false
source = "a paper"
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "some.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_numbers_keep_where_they_come_from(tmp_path: Path) -> None:
    found = read_description(write(tmp_path, SOUND))

    assert found.name == "some"
    clock = found.provenance["clock.core_mhz"]
    assert (found.clock.core_mhz, clock.status, clock.value) == (225, "published", 225)
    assert not any(path.startswith("validation") for path in found.provenance)
    assert found.provenance["array.mac.n"].source == "a repository"
    assert found.provenance["array.mac.quantum.m"].status == "artifact"
    assert found.provenance["energy.static_w"].status == "assumed"
    assert found.provenance["memory.ram.bw_gbs"].fitted_on == "p1"
    assert found.validation.point[0].published == 5


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("static_w = 1", "static = 1", "energy.static is unknown here; near are: static_w"),
        ("static_w = 1", "", "energy.static_w is missing"),
        ("m = 1", "m = 0", "array.mac.m is 0"),
        ("m = 1", "m = 1.5", "array.mac.m is 1.5"),
        ("static_w = 1", "static_w = nan", "energy.static_w is nan"),
        ("static_w = 1", "static_w = true", "energy.static_w is True"),
        ("static_w = 1", "static_w = {value = 1, unit = 'W'}", "a figure has value, source"),
        ('status = "published"', 'status = "heard"', "clock.core_mhz has status 'heard'"),
        ('source = "a paper", ', "", "is published, so it needs a source"),
        (', fitted_on = "p1"', "", "is fitted, so it needs fitted_on"),
        ('fitted_on = "p1"', 'fitted_on = "p2"', "was fitted on 'p2': no such point"),
        ("gate = false", "gate = true", "was fitted on 'p1', so that is no gate"),
        ("channels = 8", "channels = 8\nchannels_used = 9", "channels_used is 9; there are 8"),
        ("schema_version = 1", "schema_version = 2", "schema_version is 2"),
        ("[energy]", "[energy", "no description"),
        ('dataflow = "os"', 'dataflow = "up"', "array.mac.dataflow is 'up'"),
        ("[[memory]]", "[memory]", "memory needs a list of tables"),
    ],
)
def test_what_is_wrong_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SOUND
    with pytest.raises(DeviceError) as caught:
        read_description(write(tmp_path, SOUND.replace(old, new, 1)))

    assert message in str(caught.value)


def test_numbers_can_be_changed(tmp_path: Path) -> None:
    file = write(tmp_path, SOUND)

    found = read_description(file, ["array.m=64", "memory.ram.bw_gbs=460", "cores.count=3"])

    assert (found.array[0].m, found.memory[0].bw_gbs, found.cores.count) == (64, 460, 3)
    assert found.provenance["memory.ram.bw_gbs"].source == "changed by the user"


@pytest.mark.parametrize(
    "change", ["array.m", "m=1", "array.m=", "array.m=x", "array.q=1", "array.m=0", "clock=1"]
)
def test_a_change_that_cannot_be_made_is_refused(tmp_path: Path, change: str) -> None:
    with pytest.raises(ConfigError):
        read_description(write(tmp_path, SOUND), [change])


def test_an_unknown_device_gets_the_nearest_names() -> None:
    with pytest.raises(UnknownNameError, match="nearest: reference"):
        _catalog.load("refrence")


def test_parameters_are_those_that_the_device_declares(tmp_path: Path) -> None:
    file = write(tmp_path, SOUND + "[parameters]\nspeed = 1\n")

    with pytest.raises(DeviceError, match="missing: none; unknown: speed"):
        _catalog.load(str(file))


JUNK = (None, -1, 0, 1e300, float("inf"), float("nan"), "x", [], {}, True, [1], ["a"], 10**30)
"""Instead of what stands in a file; None leaves it out."""


def places(table: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where something stands in a table, at any depth."""
    for key, value in table.items() if isinstance(table, dict) else enumerate(table):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


@pytest.mark.parametrize("name", ["mixpe", "raspberry-pi-5", "reference"])
def test_junk_anywhere_is_read_or_refused(name: str) -> None:
    tables = tomllib.loads((_catalog.FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    refusals = []
    for place in list(places(tables)):
        for junk in JUNK:
            spoilt = copy.deepcopy(tables)
            parent = spoilt
            for key in place[:-1]:
                parent = parent[key]
            if junk is None:
                del parent[place[-1]]
            else:
                parent[place[-1]] = junk
            try:
                from_tables(spoilt, name)
            except DeviceError as error:
                refusals.append(str(error))
    assert len(refusals) > 100
    assert all(text.startswith(name) for text in refusals)
