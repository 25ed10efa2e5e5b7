"""The null device: takes everything, computes nothing, costs nothing, and says so.

For what lies around a device: how long placement and hand-over take when the device takes none.
"""

from collections.abc import Sequence

import numpy as np

from edgellm.device import Array, Call, Cost, Refusal
from edgellm.devices._description import Description


class Device:
    """Answers zeros."""

    def __init__(self, description: Description) -> None:
        """Build the device of a description."""
        self.name = description.name
        self.description = description

    def supports(self, call: Call) -> Refusal | None:
        """Take everything whose outputs are known."""
        return None if call.outputs else Refusal(f"{call.name}: the shapes of its outputs are open")

    def run(self, call: Call, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Return zeros in the shapes of the outputs."""
        del inputs
        return tuple(np.zeros(output.shape, output.dtype) for output in call.outputs)

    def cost(self, call: Call) -> Cost:
        """Return nothing but the bill: this device alone is free, by its definition."""
        return Cost(
            cycles=0,
            seconds=0,
            macs=call.work.macs,
            bytes={},
            busy_s={},
            energy_pj={},
            bound="nothing",
            basis="null: nothing is computed",
        )
