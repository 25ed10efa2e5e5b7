"""Compile the kernels of a bundle for this processor and keep them: later starts are quick."""

import argparse
import time

from edgellm.commands._generation import add_runtime_arguments
from edgellm.commands._output import compile_bar, note

HELP = "compile the kernels now, for quick starts later"
EXAMPLE = "edgellm warmup bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_runtime_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Compile, and run each kernel once."""
    from edgellm import api

    begin = time.perf_counter()
    with compile_bar(options) as progress:
        folder = api.warmup(
            options.bundle, threads=options.threads, context=options.context, progress=progress
        )
    note(options, f"kernels are ready in {folder} ({time.perf_counter() - begin:.1f} s)")
    return 0
