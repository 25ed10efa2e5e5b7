"""Time kernels and numbers of threads on this machine, and remember the fastest for a bundle."""

import argparse
from typing import TYPE_CHECKING

from edgellm.commands._generation import positive
from edgellm.commands._output import compile_bar, note, write, write_json, write_table

if TYPE_CHECKING:
    from edgellm.runtime.tuner import TuneResult

HELP = "find the fastest kernels and number of threads"
EXAMPLE = "edgellm tune bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("bundle", metavar="BUNDLE", help="directory made by edgellm export")
    parser.add_argument("--context", type=positive, metavar="N", help="most tokens of a text")
    parser.add_argument("--json", action="store_true", help="one object with all measurements")


def run(options: argparse.Namespace) -> int:
    """Tune."""
    from edgellm import api

    with compile_bar(options) as compiled:
        result = api.tune(
            options.bundle,
            context=options.context,
            compiled=compiled,
            progress=lambda line: note(options, f"timing {line}"),
        )
    if options.json:
        write_json(result)
    else:
        _write(result)
    note(options, f"remembered in {result.path} ({result.seconds:.1f} s)")
    return 0


def _write(result: "TuneResult") -> None:
    """Write a row for each operator, in microseconds a step, and for each number of threads."""
    times = {
        (item.operator, item.tokens, item.variant): item.seconds * 1e6 for item in result.variants
    }
    chosen = [item for item in result.variants if item.chosen]
    variants = list(dict.fromkeys(item.variant for item in result.variants))
    rows = [["operator", "tokens", *(f"us {name}" for name in variants), "chosen"]]
    for item in chosen:
        taken = [times.get((item.operator, item.tokens, name)) for name in variants]
        cells = ["" if value is None else f"{value:.1f}" for value in taken]
        rows.append([item.operator, str(item.tokens), *cells, item.variant])
    write_table(rows)
    write()
    if result.layouts:
        rows = [["ternary weights", "us a decoded token", ""]]
        for layout in result.layouts:
            name = "looked up" if layout.look_ups else "multiplied"
            rows.append([name, f"{layout.seconds * 1e6:.0f}", "chosen" if layout.chosen else ""])
        write_table(rows)
        write()
    rows = [["threads", "us a decoded token", ""]]
    for count in result.threads:
        mark = "chosen" if count.chosen else ""
        rows.append([str(count.threads), f"{count.seconds * 1e6:.0f}", mark])
    write_table(rows)
