"""SequenceQuantize: keys or values of whole sequences to int8, their mean taken off.

What the rows of a sequence have in common takes no part of the int8 codes: the softmax does not see
it in keys ("smooth K", SageAttention, arXiv 2410.02367), and EncoderAttention adds it to the mean
of the values. A sequence's columns have scales of their own (values), or groups of them (the keys
of a head): both leave the sums that attention makes of them.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._integers import INT32_MAX, Int64, absmax_codes, saturate
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._sequences import column_peaks, means, members, sequence_of_rows
from edgellm.ops._use import MAX_COLUMNS, Demands, Use, divides, whole_sequences
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="SequenceQuantize",
    inputs=(Port("x", "int32", ("T", "M")), Port("ends", "int64", ("B",))),
    outputs=(
        Port("codes", "int8", ("T", "M")),
        Port("peak", "int32", ("B", "M")),
        Port("mean", "int32", ("B", "M")),
    ),
    attributes={"group": (1, MAX_COLUMNS)},
)
work = elements("quantize", "T", "M")


def demands(use: Use) -> Demands:
    """Demand whole sequences, and rows of whole groups."""
    whole = divides(use.attributes["group"], use.sizes["M"])
    return [*whole_sequences(use), (whole, "a row is whole groups of columns")]


OFFSET = 2**31
"""Makes sums non-negative before they are divided."""


def reference(
    x: npt.NDArray[np.int32], ends: npt.NDArray[np.int64], *, group: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Quantise ``x - mean`` of each sequence.

    Args:
        x: (T, M), |x| <= 2^31 - 1.
        ends: (B,) rows up to and without ``ends[i]`` belong to the sequences 0 to i; rising, the
            last is T; a sequence has at most 65,535 rows.
        group: how many neighbouring columns share a scale; it divides M.

    Returns:
        codes (T, M) in [-127, 127]; peak (B, M), the largest |x - mean| of a column's group, so
        that x is about ``codes * peak / 127 + mean``; mean (B, M), rounded half up.
    """
    codes = np.empty(x.shape, np.int8)
    peaks = np.empty((len(ends), x.shape[1]), np.int32)
    averages = np.empty_like(peaks)
    begin = 0
    for number, end in enumerate(ends.tolist()):
        rows = x[begin:end].astype(np.int64)
        mean = _mean(rows)
        centred = saturate(rows - mean, INT32_MAX)
        peak = np.abs(centred).max(axis=0).reshape(-1, group).max(axis=1).repeat(group)
        codes[begin:end] = absmax_codes(centred, peak)
        peaks[number], averages[number] = peak, mean
        begin = end
    return codes, peaks, averages


def _mean(rows: Int64) -> Int64:
    total = (rows + OFFSET).sum(axis=0)  # below 2^48
    return (total + rows.shape[0] // 2) // rows.shape[0] - OFFSET


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, ends = b.inputs
    wide = x.to("int64")
    sequence = sequence_of_rows(x, ends)
    inside = members(sequence, ends)
    mean = means(wide, inside, ends, OFFSET)
    own = sequence.reshape(-1)
    centred = graph.saturate(wide - mean.take(own), INT32_MAX)
    group = b.node("Reshape", [b.attribute("group"), b.constant([1])], "int64")
    peak = column_peaks(centred, inside, ends).reshape(0, -1, group).row_max()  # (B, groups, 1)
    shape = b.concat([ends.size(0), b.constant([-1]), group], axis=0)
    shape_of_rows = b.concat([x.size(0), b.constant([-1]), group], axis=0)
    rows = b.node("Reshape", [centred, shape_of_rows], "int64")
    codes = graph.absmax_codes(rows, peak.take(own)).to("int8").reshape(x.size(0), x.size(1))
    zeros = b.node("Reshape", [mean * 0, shape], "int64")
    peaks = (zeros + peak).reshape(ends.size(0), x.size(1))
    return b.function(codes, peaks.to("int32"), mean.to("int32"))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(32)
    cases: tuple[tuple[list[int], int, int], ...] = (
        ([1], 1, 1),
        ([5, 6, 40], 64, 16),
        ([5, 6, 40], 64, 1),
        ([3], 21, 7),
        ([70, 150], 8, 8),
    )
    for ends, columns, group in cases:
        inputs = (draw.narrow(rng, 20, ends[-1], columns), np.array(ends))
        name = f"random_{'_'.join(map(str, ends))}x{columns}_by_{group}"
        yield Example(name, inputs, {"group": group})
    same = np.repeat(draw.narrow(rng, 30, 1, 6), 4, axis=0)
    yield Example("equal_rows", (same, np.array([3, 4])), {"group": 2})
    top = draw.alternating(9, INT32_MAX, np.int32).reshape(9, 1)
    last = np.array([2, 9])
    yield Example("extremes", (np.concatenate([top, top, -top], axis=1), last), {"group": 3})
    yield Example("extremes_by_column", (np.concatenate([top, -top], axis=1), last), {"group": 1})
