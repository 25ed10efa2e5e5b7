"""Measure a bundle on this machine: prefill and decode rates, start-up, memory, bandwidth."""

import argparse
import statistics
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
    from edgellm.runtime.bench import BenchResult, TernaryWeights
    from edgellm.runtime.observations import Observation
    from edgellm.runtime.profile import CallFigures, Profile

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
    add("--by-op", action="store_true", help="also where the time of a call goes, by operator")
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
        by_operator=options.by_op,
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
            ("bundle", f"{result.bundle} ({result.model_type}, {result.num_parameters:,} weights)"),
            ("processor", f"{result.cpu_model} ({result.cpu_name})"),
            ("kernels", _kernels(result.kernel_variants)),
            *_ternary_weights(result.ternary_weights),
            ("peak memory", human_bytes(result.peak_memory_bytes)),
            *((item.name, _in_unit(item)) for item in result.observations),
        ]
    )
    write()
    _write_rates(result)
    if result.profile:
        write_profile(result.profile)


def _in_unit(item: "Observation") -> str:
    return human_bytes(item.value) if item.unit == "B" else f"{item.value:.1%}"


def _write_rates(result: "BenchResult") -> None:
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
        if row.threads > 1:
            waiting = [100 * share for share in row.waiting]
            median, low, high = statistics.median(waiting), min(waiting), max(waiting)
            cells = (f"{median:.1f}", f"{low:.1f}", f"{high:.1f}", "% of the time")
            rows.append(("threads wait", str(row.threads), *cells))
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


def _ternary_weights(found: "TernaryWeights | None") -> list[tuple[str, str]]:
    """Return what is said of their layouts: nothing where there are none."""
    if found is None:
        return []
    packed = " and ".join(found.run)
    if set(found.run) != set(found.stored):
        packed = f"{' and '.join(found.stored)}, packed again at load as {packed}"
    if not found.suited:
        packed += f"; edgellm export --layout {found.export_layout} suits this machine"
    return [("ternary weights", packed)]


def write_profile(profile: "Profile") -> None:
    """Write where the time of a decoded token and of a chunk of prefill goes."""
    peak = profile.products_per_s
    known = "" if peak is None else f", {peak / 1e9:.0f} GMAC/s of dot products"
    write()
    write(f"limits, one thread: {profile.bytes_per_s / 1e9:.1f} GB/s of reading{known}")
    _write_call("decode", profile.decode)
    _write_call("prefill", profile.prefill)


def _write_call(name: str, call: "CallFigures") -> None:
    write()
    milliseconds = call.seconds * 1000
    write(f"{name}: tokens {call.tokens} after {call.context}, one thread, {milliseconds:.2f} ms")
    rows = [("operator", "calls", "us", "share", "GB/s", "GMAC/s", "of limit", "kernel")]
    for item in call.operators:
        product = item.limit_share is not None
        rows.append(
            (item.operator, str(item.calls), f"{item.seconds * 1e6:.0f}", f"{item.share:.1%}",
             f"{item.bytes_per_s / 1e9:.1f}" if product else "",
             f"{item.products_per_s / 1e9:.1f}" if product else "",
             f"{item.limit_share:.0%}" if product else "", item.variant)
        )  # fmt: skip
    write_table(rows)
