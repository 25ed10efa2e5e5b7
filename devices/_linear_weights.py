"""The weights of a linear operator as one integer code each, whatever layout they come in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgellm.device import Array
from edgellm.dtypes import unpack_bit_planes, unpack_ternary_columns
from edgellm.ops._bit_planes import rounded
from edgellm.ternary_layouts import GATED_OPERATORS, LAYOUT_OF, TernaryLayout

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LinearWeights:
    """``y = sum over groups of scale * (codes . x - zero * sum of x)``, then maybe a shift.

    Attributes:
        codes: (N, K), 0 <= code < 2^bits.
        bits: of a code.
        zero: (G, N): the code that stands for 0.
        scale: (G, N).
        group_size: columns of a group; the last may be shorter.
        shift: by which the sum is shifted right and rounded; None where it is the result.
        gate: (T, N): where it is not positive the result is 0; None where all count.
    """

    codes: Int64
    bits: int
    zero: Int64
    scale: Int64
    group_size: int
    shift: int | None = None
    gate: Int64 | None = None

    def finish(self, total: Int64) -> npt.NDArray[np.int32]:
        """Return the accumulators of int64 sums over all groups."""
        sums = total if self.gate is None else np.where(self.gate > 0, total, 0)
        return sums.astype(np.int32) if self.shift is None else rounded(sums, self.shift)


Decoder = Callable[[Sequence[Array], Mapping[str, int]], LinearWeights]
"""(inputs, attributes) of a call -> its weights."""


def decode(op_type: str, inputs: Sequence[Array], attributes: Mapping[str, int]) -> LinearWeights:
    """Return the weights of a call of one of ``DECODERS``."""
    return DECODERS[op_type](inputs, attributes)


def _ternary(layout: TernaryLayout) -> Decoder:
    def decode(inputs: Sequence[Array], _: Mapping[str, int]) -> LinearWeights:
        weight = layout.unpack(inputs[1].astype(np.uint8), inputs[0].shape[1])
        return _one_group(weight, bits=2, zero=1)

    return decode


def _gated(layout: TernaryLayout) -> Decoder:
    def decode(inputs: Sequence[Array], attributes: Mapping[str, int]) -> LinearWeights:
        weights = DECODERS[layout.op_type](inputs, attributes)
        return replace(weights, gate=inputs[2].astype(np.int64))

    return decode


def _by_columns(inputs: Sequence[Array], _: Mapping[str, int]) -> LinearWeights:
    return _one_group(unpack_ternary_columns(inputs[1].astype(np.uint8)), bits=2, zero=1)


def _int8(inputs: Sequence[Array], _: Mapping[str, int]) -> LinearWeights:
    return _one_group(inputs[1], bits=8, zero=128)


def _one_group(weight: Array, *, bits: int, zero: int) -> LinearWeights:
    rows, columns = weight.shape
    codes = weight.astype(np.int64) + zero
    ones = np.ones((1, rows), np.int64)
    return LinearWeights(codes, bits, zero * ones, ones, columns)


def _grouped(inputs: Sequence[Array], attributes: Mapping[str, int]) -> LinearWeights:
    x, planes, scale, zero = inputs
    bits = unpack_bit_planes(planes.astype(np.uint8), scale.shape[1], x.shape[1]).astype(np.int64)
    codes = np.tensordot(1 << np.arange(len(bits)), bits, axes=1)
    return LinearWeights(
        codes,
        len(bits),
        zero.astype(np.int64),
        scale.astype(np.int64),
        attributes["group_size"],
        attributes["shift"],
    )


DECODERS: dict[str, Decoder] = {
    **{op_type: _ternary(layout) for op_type, layout in LAYOUT_OF.items()},
    **{op_type: _gated(LAYOUT_OF[op_type]) for op_type in GATED_OPERATORS},
    "ColumnBitLinear": _by_columns,
    "Int8Linear": _int8,
    "GroupLinear": _grouped,
}
