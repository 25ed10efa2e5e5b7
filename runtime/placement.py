"""Which operators run on a simulated device and which on the CPU, and running a plan that way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm import ops
from edgellm.device import Call, Device
from edgellm.errors import ConfigError, VerificationError
from edgellm.runtime.calls import call_of
from edgellm.runtime.plan import Plan, Step

Array = npt.NDArray[np.generic]

CPU = "cpu"


@dataclass(frozen=True)
class Placed:
    """Where a step runs; the reason is empty where the device takes it."""

    name: str
    op_type: str
    place: str
    reason: str


def place(plan: Plan, device: Device, sizes: Mapping[str, int]) -> tuple[Placed, ...]:
    """Return where each step of a plan runs.

    Args:
        plan: of a bundle.
        device: takes what it supports.
        sizes: of the plan's dynamic sizes, for which it is asked.
    """
    return tuple(_placed(call_of(plan, step, sizes), device) for step in plan.steps)


def _placed(call: Call, device: Device) -> Placed:
    refusal = device.supports(call)
    if refusal is None:
        return Placed(call.name, call.op_type, device.name, "")
    return Placed(call.name, call.op_type, CPU, refusal.reason)


class PlacedExecutor:
    """Runs a plan step by step: on the device what it takes, the rest by the references.

    The references are slow; what matters here is that the device's integers go through a model.
    """

    def __init__(self, plan: Plan, device: Device) -> None:
        """Take a plan and a device; ``placed`` says where each step of the last call ran."""
        self._plan = plan
        self._device = device
        self.placed: dict[str, Placed] = {}

    def run(self, feeds: Mapping[str, Array], *, trace: bool = False) -> dict[str, Array]:
        """Return the graph's outputs by name, or every value that a step makes when tracing.

        Raises:
            VerificationError: the device returns arrays of a wrong type or shape.
        """
        values: dict[str, Array] = {**self._plan.constants, **feeds}
        sizes = _dynamic_sizes(self._plan, feeds)
        made: dict[str, Array] = {}
        for step in self._plan.steps:
            results = self._run_step(step, [values[name] for name in step.inputs], sizes)
            made.update(zip(step.outputs, results, strict=True))
            values.update(zip(step.outputs, results, strict=True))
        return made if trace else {name: made[name] for name in self._plan.outputs}

    def _run_step(
        self, step: Step, inputs: Sequence[Array], sizes: Mapping[str, int]
    ) -> tuple[Array, ...]:
        call = call_of(self._plan, step, sizes)
        self.placed[step.name] = placed = _placed(call, self._device)
        if placed.place == CPU:
            results = ops.find(step.op_type).reference(*inputs, **step.attributes)
            return results if isinstance(results, tuple) else (results,)
        results = self._device.run(call, inputs)
        wanted = [(output.dtype, output.shape) for output in call.outputs]
        if [(array.dtype.name, array.shape) for array in results] != wanted:
            raise VerificationError(
                f"{self._device.name}: {call.name} returns "
                f"{[(array.dtype.name, array.shape) for array in results]}, not {wanted}"
            )
        return results


def _dynamic_sizes(plan: Plan, feeds: Mapping[str, Array]) -> dict[str, int]:
    """Return the sizes of a call, which its inputs have."""
    sizes: dict[str, int] = {}
    for name in plan.inputs:
        for dim, size in zip(plan.values[name].shape, feeds[name].shape, strict=True):
            if isinstance(dim, str):
                sizes[dim] = size
    return sizes


class PlacedMachine:
    """Does for an encoder what ``Machine`` does, with a device instead of compiled kernels."""

    def __init__(self, plan: Plan, device: Device) -> None:
        """Take a plan and a device."""
        self._plan = plan
        self._executor = PlacedExecutor(plan, device)
        self._arrays: dict[str, Array] = {}

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of the plan."""
        return self._plan.steps

    def bind(self, name: str, array: Array) -> None:
        """Say where a graph input is, or where an output goes."""
        self._arrays[name] = array

    def resize(self, sizes: Mapping[str, int]) -> None:
        """Do nothing: the sizes are those of the arrays."""

    def divide_by_rows(self, by_rows: bool) -> None:
        """Do nothing: there are no threads."""

    def run(self, first: int = 0, count: int | None = None, *, alone: bool = False) -> None:
        """Run all steps; they cannot be run apart, and there are no threads.

        Raises:
            ConfigError: some steps only are wanted.
        """
        del alone
        if first or count is not None:
            raise ConfigError("a device runs all steps of a call; trace with PlacedExecutor")
        outputs = self._executor.run({name: self._arrays[name] for name in self._plan.inputs})
        for name, array in outputs.items():
            np.copyto(self._arrays[name], array)

    def copy_value(self, name: str) -> Array | None:
        """Return None: values between steps are not kept."""
        del name
        return None

    def close(self) -> None:
        """Nothing to release."""
