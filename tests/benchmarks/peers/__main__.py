"""Compare our engine with llama.cpp and onnxruntime: the same shapes, taking turns.

    python -m tests.benchmarks.peers [--shapes 2b,2560x6912] [--engines ternary,TQ2_0] [...]

Each engine waits in its own process; in each round each measures once, and so does a loop that
reads from memory. A ratio is the median of the ratios of the rounds, with the least and the
greatest in brackets.
"""

import argparse
import json
import platform
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgellm.runtime import cpu
from tests.benchmarks.peers.contenders import (
    ALL_ENGINES,
    ALL_SHAPES,
    DEFAULT_ENGINES,
    OUR_MODELS,
    Workplace,
    prepare,
)
from tests.benchmarks.peers.measures import Measure
from tests.benchmarks.peers.report import Comparison, table
from tests.benchmarks.peers.rounds import Field
from tests.benchmarks.peers.shapes import PRODUCTS, STORIES

MODEL_MEASURES = ("decode-64", "prefill-128", "prefill-512")
PRODUCT_MEASURES = ("product-1", "product-128")
MEASURE = re.compile(r"(decode|prefill|product)-([1-9][0-9]{0,2})")
PACKAGES = ("edgellm", "llama-cpp-python", "gguf", "onnxruntime", "numpy", "numba", "llvmlite")


def main() -> None:
    options = read_options()
    place = Workplace(options.directory, options.checkpoint, write)
    prepared = {shape: prepare(shape, options.engines, place) for shape in options.shapes}
    if options.prepare:
        return
    host = cpu.host()
    write(f"{host.model} ({host.name}), {host.physical_cores} cores")
    comparisons = []
    for shape, engines in prepared.items():
        measures = chosen_measures(shape, options)
        if not engines:
            continue
        for one in Field(shape, engines, write).compare(measures, options.repeats):
            write(table(one))
            comparisons.append(one)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document(comparisons), indent=1))
    write(f"\nwritten: {options.json}")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.peers", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("--shapes", type=listed(ALL_SHAPES), default=ALL_SHAPES, metavar="LIST",
        help=f"of: {','.join(ALL_SHAPES)}")  # fmt: skip
    add("--engines", type=listed(ALL_ENGINES), default=DEFAULT_ENGINES, metavar="LIST",
        help=f"of: {','.join(ALL_ENGINES)}; ours are {', '.join(OUR_MODELS)}; default: all but "
        "those of few bits")  # fmt: skip
    measures = (*MODEL_MEASURES, *PRODUCT_MEASURES)
    add("--measures", type=read_measures, default=measures, metavar="LIST",
        help=f"phase and number of tokens; default: {','.join(measures)}")  # fmt: skip
    add("--threads", type=lambda text: [int(part) for part in text.split(",")], default=[1, 2],
        metavar="LIST", help="default: 1,2")  # fmt: skip
    add("--repeats", type=int, default=5, metavar="N", help="rounds, default: 5")
    add("--checkpoint", type=Path, metavar="DIRECTORY", help=f"of {STORIES.name}")
    add("--directory", type=Path, default=Path("build/peers"), metavar="DIRECTORY",
        help="for bundles and GGUF files, 14 GB for all; default: build/peers")  # fmt: skip
    add("--json", type=Path, default=Path("build/peers/result.json"), metavar="FILE")
    add("--prepare", action="store_true", help="make the files and stop")
    return parser.parse_args()


def read_measures(text: str) -> list[str]:
    """Return names such as decode-64."""
    names = text.split(",")
    for name in names:
        if not MEASURE.fullmatch(name):
            raise argparse.ArgumentTypeError(f"{name}: write it like decode-64 or prefill-128")
    return names


def listed(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a reader of names with commas between them."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in allowed]:
            raise argparse.ArgumentTypeError(f"{unknown[0]}: allowed are {', '.join(allowed)}")
        return names

    return read


def chosen_measures(shape: str, options: argparse.Namespace) -> list[Measure]:
    phases = ("product",) if shape in PRODUCTS else ("decode", "prefill")
    names = [name.split("-") for name in options.measures if name.startswith(phases)]
    return [
        Measure(phase, int(tokens), threads)
        for threads in options.threads
        for phase, tokens in names
    ]


def document(comparisons: list[Comparison]) -> dict[str, object]:
    """Return everything that was measured, to be written as JSON."""
    host = cpu.host()
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": host.model,
        "processor_name": host.name,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "comparisons": [asdict(one) for one in comparisons],
    }


def write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
