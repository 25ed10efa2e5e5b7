"""Published results beside ours: the reproduction table, from the descriptions' own points."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgellm.device import Measured
from edgellm.devices import _catalog, _shapes, _simulation
from edgellm.devices._sections import Point
from edgellm.devices._simulation import Simulation
from edgellm.errors import DeviceError


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A published result and ours.

    Attributes:
        device: whose result it is.
        point: what was published.
        ours: in the same unit.
        deviation: ours / published - 1.
        fits: numbers of the description that were fitted on this very point.
        passed: whether ours is inside the tolerance.
    """

    device: str
    point: Point
    ours: float
    deviation: float
    fits: tuple[str, ...]
    passed: bool


def _watts(result: Simulation) -> float:
    return result.joules_per_token * result.tokens_per_s


def _total_seconds(result: Simulation) -> float:
    return result.time_to_first_token_s + (result.decode.seconds if result.decode else 0.0)


METRICS: dict[str, Callable[[Simulation], float]] = {
    "decode_tokens_per_s": lambda result: result.tokens_per_s,
    "prefill_ms": lambda result: result.time_to_first_token_s * 1e3,
    "seconds": _total_seconds,
    "joules_per_token": lambda result: result.joules_per_token,
    "joules": lambda result: result.joules_per_token * result.new * result.sequences,
    "watts": _watts,
}
"""Metrics that every device has; others are its own (``Measured``)."""


def outcomes(name: str) -> Iterator[Outcome]:
    """Compute the points of a device.

    Raises:
        DeviceError: a point cannot be computed.
    """
    description = _catalog.describe(name)
    for point in description.validation.point:
        fits = [
            path
            for path, origin in description.provenance.items()
            if point.id in origin.fitted_on.replace(",", " ").split()
        ]
        ours = compute(name, point)
        deviation = ours / point.published - 1
        yield Outcome(
            device=name,
            point=point,
            ours=ours,
            deviation=deviation,
            fits=tuple(fits),
            passed=abs(deviation) <= point.tol_rel,
        )


def compute(name: str, point: Point) -> float:
    """Return our value of a point of a device, divided by another device's where it says so.

    Raises:
        DeviceError: the metric is unknown to the device, or another device's figure is 0.
    """
    ours = _figure(name, point, point.set)
    if not point.relative_to:
        return ours
    other = _figure(point.relative_to, point, ())
    if other == 0:
        raise DeviceError(f"{name}: {point.id}: {point.relative_to} has {point.metric} 0")
    return ours / other


def _figure(name: str, point: Point, changes: tuple[str, ...]) -> float:
    device = _catalog.load(name, changes)
    if point.metric not in METRICS:
        if isinstance(device, Measured):
            return device.metric(point.metric)
        raise DeviceError(f"{name}: {point.id}: unknown metric {point.metric!r}")
    workload = _shapes.workload(point.shape, point.weights)
    request = _simulation.Request(prompt=point.prompt, new=point.new, sequences=point.sequences)
    return METRICS[point.metric](_simulation.run(device, workload, request))
