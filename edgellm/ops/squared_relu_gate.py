"""SquaredReluGate: relu(gate)^2 * up from raw accumulators, exact in int64 (BitNet b1.58 2B4T)."""

import numpy as np
import numpy.typing as npt

from edgellm.ops._integers import join_scale, product, split_scale
from edgellm.ops._schema import OpSchema, Port

SCHEMA = OpSchema(
    name="SquaredReluGate",
    inputs=(
        Port("gate", "int32", ("T", "N")),
        Port("up", "int32", ("T", "N")),
        Port("scale", "int32", ("T", "2")),
    ),
    outputs=(Port("y", "int64", ("T", "N")), Port("out_scale", "int32", ("T", "2"))),
    attributes=("multiplier_mantissa", "multiplier_exponent"),
)

INPUT_LIMIT = 2_080_000
"""The largest input whose cube fits in int64; 127 * K is below it for K <= 16,377."""


def reference(
    gate: npt.NDArray[np.int32],
    up: npt.NDArray[np.int32],
    scale: npt.NDArray[np.int32],
    *,
    multiplier_mantissa: int,
    multiplier_exponent: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return ``relu(gate)^2 * up`` and its scale ``scale^3 * multiplier``.

    Args:
        gate: (T, N) accumulators, clamped to +-2,080,000.
        up: (T, N) likewise.
        scale: (T, 2) of the activations that both were computed from.
        multiplier_mantissa: with its exponent, ``gate weight scale^2 * up weight scale``.
        multiplier_exponent: see there.
    """
    positive = np.clip(gate.astype(np.int64), 0, INPUT_LIMIT)
    y = positive * positive * np.clip(up.astype(np.int64), -INPUT_LIMIT, INPUT_LIMIT)
    token = split_scale(scale)
    constant = (np.int64(multiplier_mantissa), np.int64(multiplier_exponent))
    cube = product(product(token, token), token)
    return y, join_scale(*product(cube, constant))
