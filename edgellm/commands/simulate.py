"""Say what a bundle, or a published shape, costs on a simulated device: time, bytes, energy.

Nothing here is measured. Time to first token, tokens a second, how busy each unit is, bytes by
memory, energy a token by part, and what bounds each operator come from the device's description,
whose numbers have their sources (edgellm devices NAME). --functional computes the answer, too.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.commands._output import (
    human_bytes,
    note,
    printable,
    write,
    write_json,
    write_pairs,
    write_table,
)
from edgellm.errors import ConfigError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellm.device_api import Subject
    from edgellm.devices._simulation import Simulation

HELP = "simulate a device: time, energy, bytes, and the same integers"
EXAMPLE = "edgellm simulate --shape llama2-7b --device reference --prompt 128 --new 512"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add_subject(parser)
    add("--engine", choices=("analytic", "events"), default="analytic",
        help="by equations, or by running the instructions (default: analytic)")  # fmt: skip
    add("--host", metavar="DEVICE", help="runs what the device refuses; else that is left out")
    add("--set", action="append", default=[], metavar="KEY=VALUE",
        help="change the description: memory.bw_gbs=460; several times")  # fmt: skip
    add("--functional", action="store_true",
        help="compute the answer on the device and on the CPU, and compare them")  # fmt: skip
    add("--trace", type=Path, metavar="FILE", help="write the last pass for Perfetto")
    add("--plot", type=Path, metavar="FILE.png", help="draw a roofline and where the time goes")
    add("--json", action="store_true", help="one object with everything")


def add_subject(parser: argparse.ArgumentParser) -> None:
    """Declare what to simulate, and where."""
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", nargs="?", help="directory made by edgellm export")
    add("--shape", metavar="NAME", help="instead: llama2-7b and the like, or weights-13b")
    add("--precision", default="w4a8g128", metavar="wXaY[gN]",
        help="of a shape: bits of weights and activations, weights a group "
        "(default: w4a8g128)")  # fmt: skip
    add("--device", required=True, metavar="NAME", help="see edgellm devices; or a .toml file")
    add("--prompt", type=int, default=128, metavar="N", help="tokens of it (default: 128)")
    add("--new", type=int, default=512, metavar="N", help="tokens after it (default: 512)")
    add("--sequences", type=int, default=1, metavar="N", help="side by side (default: 1)")


def subject_of(options: argparse.Namespace) -> "Subject":
    """Return what the options say to simulate."""
    from edgellm.device_api import Subject

    return Subject(bundle=options.bundle, shape=options.shape, precision=options.precision)


def run(options: argparse.Namespace) -> int:
    """Simulate."""
    if options.functional:
        return _run_functional(options)
    from edgellm import device_api
    from edgellm.devices._simulation import Request

    subject, changes = subject_of(options), tuple(options.set)
    request = Request(
        prompt=options.prompt,
        new=options.new,
        sequences=options.sequences,
        engine=options.engine,
    )
    result = device_api.simulate(
        subject, options.device, request, host=options.host, changes=changes
    )
    if options.trace:
        content = device_api.trace(subject, options.device, result, changes=changes)
        options.trace.write_text(json.dumps(content), encoding="utf-8")
        note(options, f"{options.trace}: open it at https://ui.perfetto.dev")
    if options.plot:
        device_api.plot(result, options.plot, options.device, changes=changes)
    if options.json:
        write_json(result)
    else:
        _write(result)
    return 0


def _run_functional(options: argparse.Namespace) -> int:
    from edgellm import device_api

    if options.bundle is None:
        raise ConfigError("--functional computes, so it needs a bundle; a shape has no weights")
    report = device_api.functional(
        options.bundle,
        options.device,
        prompt=options.prompt,
        new=options.new,
        changes=tuple(options.set),
    )
    if options.json:
        write_json(report)
    else:
        for place, counts in ((report.device, report.on_device), ("cpu", report.on_cpu)):
            ran = ", ".join(f"{count} {name}" for name, count in counts.items())
            write(f"{place}: {ran or 'nothing'}")
        write(f"{report.calls} calls, {report.integers} integers of all steps compared")
    if not report.passed:
        raise VerificationError(f"{report.device} differs: {report.difference}")
    if not options.json:
        write("equal, integer for integer")
    return 0


def _write(result: "Simulation") -> None:
    lengths = f"{result.prompt} + {result.new} tokens"
    lengths += f", {result.sequences} sequences" if result.sequences > 1 else ""
    pairs: list[tuple[str, object]] = [
        ("simulated", f"{result.workload} on {result.device}, {lengths} ({result.engine})")
    ]
    if result.prefill is not None:
        pairs.append(("first token", f"{result.time_to_first_token_s * 1e3:.4g} ms"))
    if result.decode is not None:
        pairs.append(("decode", f"{result.tokens_per_s:.4g} tokens/s"))
    pairs += [
        ("busy", _shares(result.utilisation)),
        ("bytes a token", _amounts(result.bytes_per_token) or "none"),
        ("energy a token", f"{result.joules_per_token:.3g} J ({_parts(result.energy_per_token)})"),
    ]
    write_pairs(pairs)
    for op_type, reason in result.refused.items():
        where = "in no figure here" if op_type in result.uncounted else "runs on the host"
        write(f"refused: {printable(op_type)}: {printable(reason)}; {where}")
    write()
    _write_operators(result)


def _write_operators(result: "Simulation") -> None:
    last = result.last
    write(f"one pass of {last.forward.tokens} tokens after {last.forward.past}:")
    rows: list[tuple[object, ...]] = [
        ("operator", "calls", "us", "share", "MMAC", "bytes", "bound by")
    ]
    whole = sum(item.cost.seconds for item in last.operators) or 1.0
    rows += [
        (
            item.name,
            item.calls,
            f"{item.cost.seconds * 1e6:.2f}",
            f"{item.cost.seconds / whole:.1%}",
            f"{item.cost.macs / 1e6:.2f}",
            human_bytes(sum(item.cost.bytes.values())),
            item.cost.bound,
        )
        for item in last.operators
    ]
    write_table(rows)


def _shares(amounts: "Mapping[str, float]") -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in amounts.items()) or "nothing"


def _amounts(amounts: "Mapping[str, float]") -> str:
    return ", ".join(f"{name} {human_bytes(amount)}" for name, amount in amounts.items())


def _parts(energy: "Mapping[str, float]") -> str:
    whole = sum(energy.values()) or 1.0
    return ", ".join(f"{name} {amount / whole:.0%}" for name, amount in energy.items() if amount)
