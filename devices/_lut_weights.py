"""The weights of a linear operator as bits that are looked up, and what is done with the sums."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgellm.device import Array
from edgellm.devices import _linear_weights, _lut_tables
from edgellm.devices._linear_weights import Int64, LinearWeights
from edgellm.dtypes import unpack_bit_planes
from edgellm.ops._bit_planes import rounded
from edgellm.ops._shift_alphas import unpack_alphas


class CodeWeights:
    """Codes with a zero and a scale a group."""

    def __init__(self, weights: LinearWeights) -> None:
        """Take the codes."""
        self._weights = weights
        self.group_size = weights.group_size

    def group_sums(self, table: Array, sums: Array, columns: range, inputs: range) -> Int64:
        """Return what a group adds to the outputs: its products, less the zeros, scaled.

        Args:
            table: (T, Q, 8) of the group's inputs.
            sums: (T, 1) of them.
            columns: which outputs.
            inputs: which inputs, all of one group.
        """
        own, group = self._weights, inputs.start // self.group_size
        codes = own.codes[np.ix_(columns, inputs)]
        products = _lut_tables.products(table, sums, codes, own.bits)
        some = slice(columns.start, columns.stop)
        centered = products - sums.astype(np.int64) * own.zero[group, some]
        scaled: Int64 = centered * own.scale[group, some]
        return scaled

    def finish(self, total: Int64) -> Array:
        """Return the accumulators of sums over all groups."""
        return self._weights.finish(total)


@dataclass(frozen=True)
class ShiftAddWeights:
    """Signs in planes, each with a sum of powers of two a group.

    Attributes:
        planes: (P, N, K) 0 or 1.
        scales: (G, P, N).
        group_size: columns of a group.
        shift: of the sum.
    """

    planes: Array
    scales: Int64
    group_size: int
    shift: int

    def group_sums(self, table: Array, sums: Array, columns: range, inputs: range) -> Int64:
        """Return what a group adds to the outputs; signs need no sums."""
        del sums
        group = inputs.start // self.group_size
        total = np.zeros((len(table), len(columns)), np.int64)
        for plane, scale in zip(self.planes, self.scales[group], strict=True):
            looked = _lut_tables.look_up(table, plane[np.ix_(columns, inputs)])
            total += looked * scale[columns.start : columns.stop]
        return total

    def finish(self, total: Int64) -> Array:
        """Return the accumulators of sums over all groups."""
        return rounded(total, self.shift)


SignWeights = CodeWeights | ShiftAddWeights


def decode(op_type: str, inputs: Sequence[Array], attributes: Mapping[str, int]) -> SignWeights:
    """Return the weights of a call of one of ``DECODERS``."""
    if op_type != "ShiftAddLinear":
        return CodeWeights(_linear_weights.decode(op_type, inputs, attributes))
    x, planes, alphas = inputs
    bits = unpack_bit_planes(planes.astype(np.uint8), len(alphas), x.shape[1])
    scales = unpack_alphas(alphas.astype(np.uint8), planes.shape[2], attributes["terms"])
    return ShiftAddWeights(bits, scales, attributes["group_size"], attributes["shift"])


DECODERS = (*_linear_weights.DECODERS, "ShiftAddLinear")
