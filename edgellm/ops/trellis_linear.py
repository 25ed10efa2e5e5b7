"""TrellisLinear: int8 activations times weights that overlapping codes choose."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.device import MatMul, Work
from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._integers import INT32_MAX, exact_matmul, saturate
from edgellm.ops._outliers import (
    MAX_COLUMNS,
    PORTS,
    add_outliers,
    body_products,
    none,
    outliers_fit,
)
from edgellm.ops._outliers import draw as draw_outliers
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import Demands, Use
from edgellm.ops._work import Sizes
from edgellm.trellis_codes import LEVELS, MULTIPLIER, STATES, num_planes, unpack_trellis

if TYPE_CHECKING:
    from onnx import FunctionProto

MAX_BITS = 8
"""A weight."""

SCHEMA = OpSchema(
    name="TrellisLinear",
    inputs=(Port("x", "int8", ("T", "K")), Port("codes", "uint8", ("N", "B")), *PORTS),
    outputs=(Port("acc", "int32", ("T", "N")),),
)


def work(sizes: Sizes) -> Work:
    """Return what a call amounts to."""
    bits = 8 * sizes["B"] / sizes["K"]
    outliers = sizes["Z"] if sizes["R"] > 1 else 0
    return MatMul(m=sizes["T"], k=sizes["K"], n=sizes["N"], weight_bits=bits, outliers=outliers)


def demands(use: Use) -> Demands:
    """Demand whole planes, no more than can differ."""
    columns, rows, row_bytes = use.sizes["K"], use.sizes["N"], use.sizes["B"]
    if not (isinstance(columns, int) and isinstance(rows, int) and isinstance(row_bytes, int)):
        return [(False, "its weight has a fixed size")]
    if columns < 1:
        return [(False, "a column, or more")]
    planes = num_planes(rows, columns, row_bytes)
    return [
        (columns <= MAX_COLUMNS, f"at most {MAX_COLUMNS} columns"),
        (planes >= 1, "a byte for each column, or more"),
        (8 * planes <= MAX_BITS * rows, f"at most {MAX_BITS} bits a weight"),
        *outliers_fit(use, rows, columns),
    ]


def reference(
    x: npt.NDArray[np.int8],
    codes: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int32],
    columns: npt.NDArray[np.int16],
    values: npt.NDArray[np.int16],
) -> npt.NDArray[np.int32]:
    """Return ``(weight + outliers) . x``, the weight as ``trellis/v1`` has it, saturated.

    Trellis-coded weights (QTIP, arXiv 2406.11235): what their levels are chosen by overlaps, and so
    they come nearer to the weights than any levels that are chosen one by one. The few that are too
    large for any level are outliers, as in SqueezeLLM (arXiv 2306.07629). Sums stay below 2^38.

    Args:
        x: (T, K), K <= 32,768.
        codes: (N, B) in the layout ``trellis/v1``, at least K bytes and at most 8 bits a weight.
        offsets: (R,), R = N + 1: row n has the outliers offsets[n] to offsets[n + 1] - 1; they
            ascend from 0 to at most Z. R = 1 where no row has any: [0].
        columns: (Z,) of the outliers, below K, ascending within a row.
        values: (Z,) what outliers are more than the weight in the trellis.
    """
    weight = unpack_trellis(codes, x.shape[1]).astype(np.int64)
    add_outliers(weight, (offsets, columns, values))
    return saturate(exact_matmul(x, weight.T), INT32_MAX).astype(np.int32)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, codes, *outliers = b.inputs
    rows, columns = codes.count(0), x.count(1)
    count = rows * codes.count(1) // columns
    end = (count * columns).reshape(1)
    held = b.node("Slice", [codes.reshape(-1), b.constant([0]), end], "uint8")
    planes = held.reshape(count.reshape(1), columns.reshape(1)).to("int64")
    firsts = b.range(b.constant(0), rows) * (count * 8) // rows
    place = firsts.shift_right(3)
    bits = planes.take(place)
    for i in (1, 2):
        after = place + i
        bits = bits + planes.take(after - after // count * count) * 256**i
    state = bits.shift_right((firsts & 7).reshape(-1, 1)) & (STATES - 1)
    mixed = (state * MULTIPLIER) & (STATES - 1)
    levels = b.constant(LEVELS, "int32")
    weight = levels.take(mixed.shift_right(8)) + levels.take(mixed.shift_right(4) & 15)
    dense = graph.exact_matmul(x, weight.to("int8").transpose(1, 0)).to("int64")
    offsets, places, values = outliers
    apart = body_products(x, (offsets, places, values), codes.size(0))
    return b.function(graph.saturate(dense + apart, INT32_MAX).to("int32"))


def _example(name: str, sizes: tuple[int, int, int], row_bytes: int, share: float = 0.0) -> Example:
    """Return random inputs; about ``share`` of the weights are outliers."""
    tokens, k, n = sizes
    rng = np.random.default_rng(16)
    codes = rng.integers(0, 256, (n, row_bytes), np.uint8)
    outliers = draw_outliers(rng, (n, k), share)
    return Example(name, (draw.codes(rng, tokens, k), codes, *outliers))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    for row_bytes in (20, 32, 40, 41, 48, 52, 64, 128):
        yield _example(f"random_{row_bytes}_bytes", (2, 128, 65), row_bytes)
    yield _example("one_of_all", (1, 1, 1), 1)
    yield _example("one_plane", (3, 70, 7), 10)
    yield _example("two_planes", (2, 200, 5), 80)
    yield _example("few_columns", (3, 20, 37), 7, 0.05)
    yield _example("last_columns", (1, 172, 67), 54, 0.02)
    yield _example("one_token", (1, 1100, 131), 344)
    yield _example("many_tokens", (19, 264, 70), 83, 0.01)
    yield _example("more_tokens", (67, 191, 65), 60, 0.02)
    # Bits that are all the same choose one state, and so one level, everywhere.
    x = np.repeat(np.array([[127], [-127], [-128]], np.int8), MAX_COLUMNS, axis=1)
    for name, byte in (("zeros", 0), ("ones", 255)):
        codes = np.full((2, MAX_COLUMNS // 2), byte, np.uint8)
        yield Example(f"largest_sums_{name}", (x, codes, *none()))
