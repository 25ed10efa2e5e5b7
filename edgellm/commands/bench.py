"""Measure a bundle on this machine: prefill and decode rates, start-up, memory, bandwidth."""

import argparse
from typing import TYPE_CHECKING

from edgellm.commands._generation import positive
from edgellm.commands._output import (
    human_bytes,
    note,
    write,
    write_json,
    write_pairs,
    write_table,
)

if TYPE_CHECKING:
    from edgellm.runtime.bench import BenchResult

HELP = "measure rates, start-up time, memory and bandwidth"
EXAMPLE = "edgellm bench bundle -p 128 -n 64 -t 1,2 -r 5"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="directory made by edgellm export")
    add("-p", "--prompt", type=counts, default=(128,), metavar="P,...",
        help="prompt lengths to prefill (default: 128)")  # fmt: skip
    add("-n", "--generate", type=counts, default=(64,), metavar="N,...",
        help="numbers of tokens to decode (default: 64)")  # fmt: skip
    add("-t", "--threads", type=counts, default=(), metavar="T,...",
        help="numbers of threads (default: one for each core)")  # fmt: skip
    add("-r", "--repetitions", type=positive, default=5, metavar="R",
        help="how often each is measured, after one run to warm up (default: 5)")  # fmt: skip
    add("--context", type=positive, metavar="N", help="context to load with; default: the bundle's")
    add("--json", action="store_true", help="one object with everything")


def run(options: argparse.Namespace) -> int:
    """Measure."""
    from edgellm import api
    from edgellm.runtime.bench import BenchRequest

    request = BenchRequest(
        prompt_lengths=options.prompt,
        generation_lengths=options.generate,
        threads=options.threads,
        repetitions=options.repetitions,
        context=options.context,
    )
    result = api.bench(options.bundle, request, progress=lambda line: note(options, line))
    if options.json:
        write_json(result)
    else:
        _write(result)
    return 0


def counts(text: str) -> tuple[int, ...]:
    """Parse a list such as 1,2,4."""
    return tuple(positive(part) for part in text.split(","))


def _write(result: "BenchResult") -> None:
    write_pairs(
        [
            ("bundle", f"{result.bundle} ({result.model_type}, {result.num_parameters} weights)"),
            ("processor", f"{result.cpu_model} ({result.cpu_name})"),
            ("kernels", _kernels(result.kernel_variants)),
            ("bytes read a token", human_bytes(result.bytes_per_token)),
            ("peak memory", human_bytes(result.peak_memory_bytes)),
        ]
    )
    write()
    rows: list[tuple[str, ...]] = [("measure", "threads", "median", "min", "max", "")]
    for row in result.rows:
        for name, rates in (("prefill", row.prefill), ("decode", row.decode)):
            rows += [
                (f"{name} {rate.tokens}", str(row.threads), f"{rate.median:.1f}",
                 f"{rate.min:.1f}", f"{rate.max:.1f}", "tokens/s")
                for rate in rates
            ]  # fmt: skip
        first = f"{row.time_to_first_token_s * 1000:.1f}"
        rows.append(("first token", str(row.threads), first, "", "", "ms"))
        rows.append(("load", str(row.threads), f"{row.load_time_s * 1000:.1f}", "", "", "ms"))
    for speed in result.read_bandwidth:
        rate = f"{speed.bytes_per_s / 1e9:.1f}"
        rows.append(("read bandwidth", str(speed.threads), rate, "", "", "GB/s"))
        share = f"{speed.decode_share:.1%}"
        rows.append(("used by decode", str(speed.threads), share, "", "", ""))
    write_table(rows)


def _kernels(variants: dict[str, str]) -> str:
    """Return which operators run which kernels: ``avx2: BitLinear; portable: Requantize``."""
    groups: dict[str, list[str]] = {}
    for op_type, variant in variants.items():
        groups.setdefault(variant, []).append(op_type)
    return "; ".join(f"{variant}: {', '.join(names)}" for variant, names in sorted(groups.items()))
