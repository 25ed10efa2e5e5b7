"""Explore designs of a simulated device: every combination of some numbers of its description.

Marked are the designs of the Pareto front: no other one is as good in tokens a second, joules a
token, multipliers and bandwidth, and better in one of them. It runs on all cores, or on a cluster.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.commands._generation import positive
from edgellm.commands._output import (
    fields_of,
    printable,
    progress_bar,
    write,
    write_json,
    write_table,
)
from edgellm.commands.simulate import add_subject, subject_of

if TYPE_CHECKING:
    from edgellm.sweep import Design

HELP = "explore designs of a simulated device"
EXAMPLE = "edgellm sweep --shape llama2-7b --device reference --set memory.bw_gbs=10,20,40"
MOST_ROWS = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add_subject(parser)
    add("--set", action="append", default=[], metavar="KEY=A,B,...",
        help="numbers of the description to combine: array.m=32,64; several times")  # fmt: skip
    add("-j", "--jobs", type=positive, metavar="N", help="processes (default: one for each core)")
    add("--scheduler", metavar="tcp://HOST:PORT", help="a Dask cluster that has edgellm, instead")
    add("--csv", type=Path, metavar="FILE", help="write all designs")
    add("--plot", type=Path, metavar="FILE.png", help="draw speed against energy")
    add("--json", action="store_true", help="one object with all designs")


def run(options: argparse.Namespace) -> int:
    """Explore."""
    from edgellm import sweep
    from edgellm.devices import _catalog
    from edgellm.devices._simulation import Request

    request = Request(prompt=options.prompt, new=options.new, sequences=options.sequences)
    request.check()
    subject = subject_of(options)
    name = subject.workload().name
    _catalog.describe(options.device)
    jobs = [
        sweep.Job(subject=subject, device=options.device, request=request, changes=changes)
        for changes in sweep.combinations(options.set)
    ]
    with progress_bar(options, "simulating", "design", len(jobs)) as progress:
        designs = sweep.sweep(
            jobs, processes=options.jobs, scheduler=options.scheduler, progress=progress
        )
    if options.csv:
        sweep.write_csv(designs, options.csv)
    if options.plot:
        sweep.draw(designs, f"{name} on designs of {options.device}, simulated", options.plot)
    if options.json:
        write_json({"designs": [fields_of(design) for design in designs]})
    else:
        _write(designs)
    return 0


def _write(designs: "list[Design]") -> None:
    shown = designs
    if len(designs) > MOST_ROWS:
        shown = [design for design in designs if design.pareto][:MOST_ROWS]
        write(f"{len(designs)} designs; those of the Pareto front (--csv writes all):")
    rows: list[tuple[object, ...]] = [
        ("design", "tokens/s", "first token ms", "J/token", "multipliers", "GB/s", "bound", "")
    ]
    rows += [
        (
            " ".join(design.changes),
            f"{design.tokens_per_s:.4g}",
            f"{design.time_to_first_token_s * 1e3:.4g}",
            f"{design.joules_per_token:.3g}",
            design.multipliers,
            f"{design.bandwidth_gbs:g}",
            design.bound,
            "Pareto" if design.pareto else "",
        )
        for design in shown
        if not design.error
    ]
    write_table(rows)
    for design in shown:
        if design.error:
            write(printable(f"left out: {' '.join(design.changes)}: {design.error}"))
