"""Simulated devices in Python: list them, simulate on them, compare with what was published."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellm.errors import ConfigError

if TYPE_CHECKING:
    from edgellm.device import Device, Workload
    from edgellm.devices._simulation import Request, Simulation
    from edgellm.devices._trace import Trace
    from edgellm.devices._validation import Outcome
    from edgellm.runtime.functional import FunctionalReport
    from edgellm.runtime.placement import Placed

PathLike = str | os.PathLike[str]
DEFAULT_PRECISION = "w4a8g128"


@dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """A device that can be simulated."""

    name: str
    kind: str
    summary: str
    supports: str
    source: str
    statuses: dict[str, int]
    has_instructions: bool


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What to simulate: a bundle, or a published shape.

    Args:
        bundle: a directory made by ``edgellm export``.
        shape: "llama2-7b" and the like, or "weights-13b" for so many weights; instead of a bundle.
        precision: of a shape: "w4a8", with groups of 128 weights "w4a8g128".
    """

    bundle: PathLike | None = None
    shape: str | None = None
    precision: str = DEFAULT_PRECISION

    def workload(self) -> "Workload":
        """Return what devices are asked about.

        Raises:
            ConfigError: not one of bundle and shape is given.
            BundleError: the bundle is damaged.
            UnknownNameError: there is no such shape.
        """
        if (self.bundle is None) == (self.shape is None):
            raise ConfigError("give a bundle, or a shape (--shape llama2-7b), and not both")
        if self.shape is not None:
            from edgellm.devices import _shapes

            return _shapes.workload(self.shape, self.precision)
        from edgellm.bundle import open_bundle
        from edgellm.runtime.calls import PlanWorkload
        from edgellm.runtime.loader import load_plan

        bundle = open_bundle(self.bundle or "")
        return PlanWorkload(bundle, load_plan(bundle))


def devices() -> list[DeviceInfo]:
    """Return the devices that come with edgellm.

    Raises:
        DeviceError: a description is wrong.
    """
    from collections import Counter

    from edgellm.devices import _catalog
    from edgellm.devices._events import Compiler

    found = []
    for name in _catalog.names():
        description = _catalog.describe(name)
        about = description.device
        statuses = Counter(origin.status for origin in description.provenance.values())
        found.append(
            DeviceInfo(
                name=name,
                kind=about.kind,
                summary=about.summary,
                supports=about.supports,
                source=about.paper or "none: a model for comparison",
                statuses=dict(statuses),
                has_instructions=isinstance(_catalog.make(description), Compiler),
            )
        )
    return found


def simulate(
    subject: Subject,
    device: str,
    request: "Request | None" = None,
    *,
    host: str | None = None,
    changes: Sequence[str] = (),
) -> "Simulation":
    """Return what a prompt and the tokens after it cost on a device; everything is simulated.

    Args:
        subject: a bundle or a shape.
        device: its name, or a path to a description.
        request: lengths, and the engine; default: 128 + 512 tokens, by equations.
        host: a device that runs what the first one refuses; else that is left out, and said.
        changes: of the description: "memory.bw_gbs=460".

    Raises:
        UnknownNameError: no such device or shape.
        ConfigError: lengths are out of range, or a change cannot be made.
        DeviceError: the device has no rule for an operator, or takes none of them.
        BundleError: the bundle is damaged.
    """
    from edgellm.devices import _catalog, _simulation

    where = _catalog.load(device, changes)
    other = None if host is None else _catalog.load(host)
    return _simulation.run(where, subject.workload(), request or _simulation.Request(), other)


def trace(
    subject: Subject, device: str, result: "Simulation", *, changes: Sequence[str] = ()
) -> "Trace":
    """Return the last pass of a simulation as a Chrome trace, which Perfetto opens.

    Raises:
        As ``simulate``.
    """
    from edgellm.devices import _catalog, _trace

    return _trace.trace(_catalog.load(device, changes), subject.workload(), result)


def plot(result: "Simulation", file: PathLike, device: str, *, changes: Sequence[str] = ()) -> None:
    """Draw the operators of a simulation on a roofline, and where the time goes, into a PNG.

    Raises:
        MissingDependencyError: Pillow is not installed (``pip install edgellm[vision]``).
    """
    from edgellm.devices import _catalog, _plot

    _plot.draw(result, _catalog.describe(device, changes), os.fspath(file))


def functional(
    bundle: PathLike, device: str, *, prompt: int = 16, new: int = 4, changes: Sequence[str] = ()
) -> "FunctionalReport":
    """Compute a bundle's answer on a device and on the CPU, and compare them to the last bit.

    Args:
        bundle: what to run.
        device: its name.
        prompt: tokens of the prompt; of an encoder, of each of two sequences.
        new: tokens decoded after it.
        changes: of the description.

    Raises:
        UnknownNameError: no such device.
        BundleError: the bundle is damaged.
        ContextLengthError: the tokens do not fit in the context.
    """
    from edgellm.bundle import open_bundle
    from edgellm.runtime.functional import compare

    return compare(open_bundle(bundle), _load(device, changes), prompt, new)


def placement(bundle: PathLike, device: str, *, prompt: int = 1) -> "tuple[Placed, ...]":
    """Return where each step of a bundle runs, and why it does not run on the device.

    Raises:
        UnknownNameError: no such device.
        BundleError: the bundle is damaged.
    """
    from edgellm.bundle import open_bundle
    from edgellm.device import ForwardPass
    from edgellm.runtime.calls import PlanWorkload
    from edgellm.runtime.loader import load_plan
    from edgellm.runtime.placement import place

    found = open_bundle(bundle)
    plan = load_plan(found)
    sizes = PlanWorkload(found, plan).sizes(ForwardPass(tokens=prompt))
    return place(plan, _load(device, ()), sizes)


def validate(names: Sequence[str] = ()) -> "list[Outcome]":
    """Compare published results with ours: the points of some devices, or of all.

    Raises:
        UnknownNameError: no such device.
        DeviceError: a point cannot be computed.
    """
    from edgellm.devices import _catalog, _validation

    chosen = names or _catalog.names()
    return [outcome for name in chosen for outcome in _validation.outcomes(name)]


def _load(device: str, changes: Sequence[str]) -> "Device":
    from edgellm.devices import _catalog

    return _catalog.load(device, changes)
