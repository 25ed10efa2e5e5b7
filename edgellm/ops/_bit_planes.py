"""What the operators on weights in bit planes share: sums of activations by group, and bodies."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edgellm.dtypes import PLANE_COLUMNS, PLANE_ROWS, bit_plane_shape
from edgellm.ops import _body_integers as graph
from edgellm.ops._body import Body, Value
from edgellm.ops._integers import INT32_MAX, Int64, exact_matmul, round_shift, saturate
from edgellm.ops._use import Demands, Use

Scalar = TypeVar("Scalar", bound=np.generic)

MAX_COLUMNS = 65_536
MAX_PLANES = 8
GROUP_SIZE = (8, 65_536)


def planes_fit(use: Use) -> Demands:
    """Demand planes of as many rows and columns as scales and activations have."""
    sizes, group = use.sizes, use.attributes["group_size"]
    columns, rows, planes = sizes["K"], sizes["N"], sizes["P"]
    if not isinstance(columns, int) or not isinstance(rows, int) or not isinstance(planes, int):
        return [(False, "its weight has a fixed size")]
    blocks, octets, _, _ = bit_plane_shape(rows, columns, planes)
    return [
        (columns <= MAX_COLUMNS, f"at most {MAX_COLUMNS} columns"),
        (1 <= planes <= MAX_PLANES, f"1 to {MAX_PLANES} planes"),
        (group % PLANE_COLUMNS == 0, f"a group is a multiple of {PLANE_COLUMNS} columns"),
        (
            (sizes["B"], sizes["C"]) == (blocks, octets),
            "its planes have another number of rows or columns than scales and activations",
        ),
    ]


def group_count(use: Use) -> int:
    """Return how many groups the columns make, -1 where they are not fixed."""
    columns = use.sizes["K"]
    return -(-columns // use.attributes["group_size"]) if isinstance(columns, int) else -1


def split_groups(matrix: npt.NDArray[Scalar], size: int) -> npt.NDArray[Scalar]:
    """Return (..., K) as (..., G, size); the last group is filled up with zeros."""
    columns = matrix.shape[-1]
    groups = -(-columns // size)
    width = [(0, 0)] * (matrix.ndim - 1) + [(0, groups * size - columns)]
    return np.pad(matrix, width).reshape(*matrix.shape[:-1], groups, size)


def group_products(x: npt.NDArray[np.int8], weight: npt.NDArray[np.integer], size: int) -> Int64:
    """Return the products of each group apart.

    Args:
        x: (T, K).
        weight: (N, K).
        size: columns of a group.

    Returns:
        (G, T, N) int64.
    """
    left, right = split_groups(x, size), split_groups(weight, size)
    groups = range(left.shape[1])
    return np.stack([exact_matmul(left[:, g], right[:, g].T) for g in groups])


def rounded(total: Int64, shift: int) -> npt.NDArray[np.int32]:
    """Return int64 sums as int32 accumulators, rounded once and saturated."""
    return saturate(round_shift(total, shift), INT32_MAX).astype(np.int32)


def body_bits(planes: Value, rows: Value, columns: Value) -> Value:
    """Return the bits of packed planes, (P, rows, columns) uint8; rows and columns of shape (1,).

    Columns past those of the packed blocks are zero.
    """
    body = planes.body
    shifts = body.constant(list(range(PLANE_COLUMNS)), "uint8").reshape(1, 1, 1, 1, -1)
    bits = planes.unsqueeze(4).shift_right(shifts) & 1  # (B, C, P, 64, 8)
    whole = bits.transpose(2, 0, 3, 1, 4)
    flat = whole.reshape(planes.size(2), planes.size(0) * PLANE_ROWS, -1)
    start, axis = body.constant([0]), body.constant([1])
    chosen = body.node("Slice", [flat, start, rows, axis], "uint8")
    return pad_last(chosen, 3, columns - planes.size(1) * PLANE_COLUMNS)


def pad_last(value: Value, rank: int, count: Value) -> Value:
    """Append ``count`` (shape (1,)) zeros to the last axis; a negative count takes away."""
    body = value.body
    nothing = body.constant([0] * (2 * rank - 1))
    pads = body.concat([nothing, count], axis=0)
    return body.node("Pad", [value, pads], value.dtype)


def body_groups(body: Body, x: Value, groups: Value, size: Value) -> tuple[Value, Value]:
    """Return activations by group, uint8 + 128 of (G, T, size), and their sums, (G, T, 1) int64."""
    padded = pad_last(x.to("int32"), 2, groups * size - x.size(1))
    by_group = padded.reshape(0, groups, size).transpose(1, 0, 2)
    total = by_group.row_sum().to("int64")
    return (by_group + 128).to("uint8"), total


def body_products(left: Value, right: Value) -> Value:
    """Return int64 products of uint8 + 128 activations and small uint8 weights."""
    zero_points = [left.body.constant(128, "uint8"), left.body.constant(0, "uint8")]
    return left.body.node("MatMulInteger", [left, right, *zero_points], "int32").to("int64")


def body_rounded(total: Value, shift: Value) -> Value:
    """Return int64 sums as int32 accumulators, as ``rounded``."""
    return graph.saturate(graph.round_shift(total, shift), INT32_MAX).to("int32")
