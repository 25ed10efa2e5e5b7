"""List the simulated devices, or compare them with what was published about them.

With --validate every published result that a device's description knows is computed and shown
beside it: those that are gates (tests hold them), those that a number was fitted on, and those that
miss. A name shows one device with where each number of its description comes from.
"""

import argparse
from typing import TYPE_CHECKING

from edgellm.commands._output import fields_of, write, write_json, write_pairs, write_table

if TYPE_CHECKING:
    from edgellm.device_api import DeviceInfo
    from edgellm.devices._fields import Provenance
    from edgellm.devices._validation import Outcome

HELP = "list simulated devices, and compare them with published results"
EXAMPLE = "edgellm devices --validate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("names", metavar="DEVICE", nargs="*", help="some devices only, in detail")
    add("--validate", action="store_true", help="published results beside ours")
    add("--json", action="store_true", help="one object with everything")


def run(options: argparse.Namespace) -> int:
    """List, or compare."""
    from edgellm import device_api

    if options.validate:
        outcomes = device_api.validate(options.names)
        if options.json:
            write_json({"points": [fields_of(outcome) for outcome in outcomes]})
        else:
            _write_outcomes(outcomes)
        return 0
    found = device_api.devices()
    if options.names:
        return _show(options)
    if options.json:
        write_json({"devices": [fields_of(item) for item in found]})
    else:
        _write_list(found)
    return 0


def _write_list(found: "list[DeviceInfo]") -> None:
    for item in found:
        numbers = ", ".join(f"{count} {status}" for status, count in sorted(item.statuses.items()))
        engine = "equations and instructions" if item.has_instructions else "equations"
        write(f"{item.name} ({item.kind}): {item.summary}")
        write_pairs(
            [
                ("  runs", item.supports),
                ("  source", item.source),
                ("  numbers", numbers),
                ("  engines", engine),
            ]
        )


def _show(options: argparse.Namespace) -> int:
    from edgellm.devices import _catalog

    for name in options.names:
        description = _catalog.describe(name)
        if options.json:
            write_json(description)
            continue
        write(f"{name}: {description.device.summary}")
        write_pairs(
            (f"  {path} = {origin.value}", _origin(origin))
            for path, origin in description.provenance.items()
        )
    return 0


def _origin(origin: "Provenance") -> str:
    fits = f"on {origin.fitted_on}" if origin.fitted_on else ""
    return ", ".join(filter(None, (f"{origin.status} {fits}".strip(), origin.source)))


def _write_outcomes(outcomes: "list[Outcome]") -> None:
    rows: list[tuple[object, ...]] = [
        ("row", "device", "what", "published", "ours", "off", "allowed", "")
    ]
    rows += [
        (
            item.point.row,
            item.device,
            _what(item),
            f"{item.point.published:.4g}",
            f"{item.ours:.4g}",
            f"{item.deviation:+.1%}",
            f"{item.point.tol_rel:.0%}",
            _verdict(item),
        )
        for item in sorted(outcomes, key=lambda item: (item.point.row, item.device))
    ]
    write_table(rows)


def _what(item: "Outcome") -> str:
    point = item.point
    lengths = f"{point.prompt}+{point.new}" if point.shape else ""
    many = f"x{point.sequences}" if point.sequences > 1 else ""
    against = f"/ {point.relative_to}" if point.relative_to else ""
    parts = (point.metric, against, point.shape, point.weights, lengths + many, *point.set)
    return " ".join(filter(None, parts))


def _verdict(item: "Outcome") -> str:
    if item.point.gate:
        return "gate: ok" if item.passed else "gate: MISSED"
    if item.fits:
        return "fitted here"
    return "reported" if item.passed else "reported, misses"
