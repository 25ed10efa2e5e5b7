"""Examine this machine: packages, processor, memory, kernel cache; status 1 if one is wrong."""

import argparse

from edgellm.commands._output import colored, fields_of, write, write_json

HELP = "examine this machine"
EXAMPLE = "edgellm doctor"

GREEN, RED = 32, 31


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--measure", action="store_true", help="also measure the memory and the dot products"
    )
    parser.add_argument("--json", action="store_true", help="one object: findings, and whether ok")


def run(options: argparse.Namespace) -> int:
    """Examine."""
    from edgellm import api

    findings = api.examine(measure=options.measure)
    healthy = all(finding.ok for finding in findings)
    if options.json:
        write_json({"ok": healthy, "findings": [fields_of(item) for item in findings]})
        return 0 if healthy else 1
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark = colored(options, "ok  ", GREEN) if finding.ok else colored(options, "FAIL", RED)
        write(f"{mark}  {finding.name.ljust(width)}  {finding.value}")
    return 0 if healthy else 1
