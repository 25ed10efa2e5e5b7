"""The constants of the integer lowerings: what scales sums of linears, and fixed points."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgellm.errors import ExportError
from edgellm.exporters.fixed_point import multipliers
from edgellm.exporters.graph import GraphBuilder
from edgellm.exporters.lowering.integer_values import Codes, Floats, check_shift_for


class ScaledSums(Protocol):
    """int32 sums of a linear: real = sum * scale of x * weight_scale[n], and a bias."""

    @property
    def path(self) -> str:
        """Of the checkpoint."""

    @property
    def x(self) -> Codes:
        """What was multiplied."""

    @property
    def weight_scale(self) -> Floats:
        """(N,)."""


def add_multiplier(graph: GraphBuilder, sums: ScaledSums, frame: int) -> tuple[str, int]:
    """Add what takes sums to a fixed point: int32 factors, and the shift that goes with them."""
    name = f"{sums.path}.weight"
    factors = multipliers(sums.weight_scale * 2.0**frame, name)
    check_shift_for(sums.x, factors.shift, name)
    return graph.initializer(f"{sums.path}.multiplier", factors.values), factors.shift


def add_fixed(graph: GraphBuilder, name: str, values: npt.NDArray[np.floating], frame: int) -> str:
    """Add real values in a fixed point, int32.

    Raises:
        ExportError: they do not fit.
    """
    wide = np.ldexp(values.astype(np.float64), frame)
    peak = float(np.abs(wide).max(initial=0))
    if peak >= 2**31 - 1:
        raise ExportError(
            f"{name}: {peak / 2**frame:g} is out of range; allowed are magnitudes below "
            f"{2 ** (31 - frame)}"
        )
    return graph.initializer(name, np.rint(wide).astype(np.int32))
