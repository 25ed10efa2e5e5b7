"""Prove that a bundle computes on this machine what it computed where it was exported.

Checks the checksum of every file, the golden cases on each executor, and that the executors agree
with each other. On a difference it names the first operator that differs and ends with status 4.
"""

import argparse

from edgellm.commands._output import printable, progress_bar, write, write_json

HELP = "prove that a bundle computes the same integers here"
EXAMPLE = "edgellm verify bundle --executor all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="directory made by edgellm export")
    add("--executor", choices=("reference", "onnxruntime", "numba", "all"), default="all",
        help="what to check (default: all)")  # fmt: skip
    add("-t", "--threads", type=int, help="default: one for each core")
    add("--json", action="store_true", help="one object: what was checked, and differences")


def run(options: argparse.Namespace) -> int:
    """Verify."""
    from edgellm import api
    from edgellm.errors import VerificationError

    chosen = None if options.executor == "all" else [options.executor]
    with progress_bar(options, "verifying", "step") as progress:
        report = api.check(
            options.bundle, executors=chosen, threads=options.threads, progress=progress
        )
    if options.json:
        write_json(report)
    else:
        for check in report.checks:
            line = printable(f"{check.name}: {check.detail}")
            write(f"{'ok  ' if check.passed else 'FAIL'}  {line}")
    if not report.passed:
        raise VerificationError(report.first_failure)
    return 0
