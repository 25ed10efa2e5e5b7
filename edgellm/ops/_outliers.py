"""What operators with a few outliers share: weights stored apart from the others, row after row."""

import numpy as np
import numpy.typing as npt

from edgellm.ops._bit_planes import pad_last
from edgellm.ops._body import Value
from edgellm.ops._integers import Int64
from edgellm.ops._schema import Port
from edgellm.ops._use import Demands, Use

PORTS = (
    Port("offsets", "int32", ("R",)),
    Port("columns", "int16", ("Z",)),
    Port("values", "int16", ("Z",)),
)
"""Row n has the outliers offsets[n] to offsets[n + 1] - 1, R = N + 1; R = 1 where no row has any:
[0]. Offsets ascend from 0 to at most Z, columns within a row, and a value is added to a weight."""

MAX_COLUMNS = 32_768
"""Columns that an int16 counts."""

Outliers = tuple[npt.NDArray[np.int32], npt.NDArray[np.int16], npt.NDArray[np.int16]]
"""What the ports take."""


def outliers_fit(use: Use, rows: int, width: int) -> Demands:
    """Demand outliers that are stored, row after row, each in a column that there is.

    Args:
        use: its last three inputs are those of ``PORTS``.
        rows: of the weight.
        width: its columns.
    """
    counted = (use.sizes["R"] in (1, rows + 1), "it has one offset, or one more than rows")
    names = use.inputs[-3:-1]
    if any(name not in use.stored for name in names):
        return [counted, (False, "the places of its outliers are stored in the bundle")]
    offsets, columns = (use.stored[name].astype(np.int64) for name in names)
    counts = np.diff(offsets)
    if offsets[0] != 0 or (counts < 0).any() or offsets[-1] > len(columns):
        said = "the offsets of its outliers ascend from 0 to their number or less"
        return [counted, (False, said)]
    used = columns[: offsets[-1]]
    places = used + np.repeat(np.arange(len(counts)), counts) * width
    return [
        counted,
        (bool(((used >= 0) & (used < width)).all()), f"outliers are in columns below {width}"),
        (bool((np.diff(places) > 0).all()), "the columns of a row's outliers ascend"),
    ]


def add_outliers(weight: Int64, outliers: Outliers) -> None:
    """Add outliers to a weight (N, K)."""
    offsets, columns, values = outliers
    counts = np.diff(offsets) if len(offsets) > 1 else np.zeros(len(weight), np.int64)
    stored = counts.sum()
    weight[np.repeat(np.arange(len(weight)), counts), columns[:stored]] += values[:stored]


def body_products(x: Value, outliers: tuple[Value, Value, Value], rows: Value) -> Value:
    """Return the products of x with the outliers, (T, N) int64; ``rows`` is N, of shape (1,)."""
    b = x.body
    offsets, columns, values = outliers
    products = x.to("int64").take(columns.to("int64"), axis=1) * values.to("int64")
    sums = b.node("CumSum", [products, b.constant(1)], "int64")
    nothing = b.constant([0, 1, 0, 0])
    before = b.node("Pad", [sums, nothing], "int64")  # (T, Z + 1)
    ends = pad_last(offsets.to("int64"), 1, rows + 1 - offsets.size(0))
    first = b.node("Slice", [ends, b.constant([0]), rows], "int64")
    last = b.node("Slice", [ends, b.constant([1]), rows + 1], "int64")
    return before.take(last, axis=1) - before.take(first, axis=1)


def draw(rng: np.random.Generator, shape: tuple[int, int], share: float) -> Outliers:
    """Return outliers for about such a share of the weights (N, K)."""
    is_outlier = rng.random(shape) < share
    offsets = np.concatenate([[0], is_outlier.sum(axis=1).cumsum()]).astype(np.int32)
    columns = np.nonzero(is_outlier)[1].astype(np.int16)
    values = rng.integers(-(2**15), 2**15, columns.shape, np.int64).astype(np.int16)
    return (offsets, columns, values) if len(columns) else none()


def none() -> Outliers:
    """Return no outliers; an array has at least one element."""
    return np.zeros(1, np.int32), np.zeros(1, np.int16), np.zeros(1, np.int16)
