"""CodebookLinear: int8 activations times weights that codes choose from tables, and outliers."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.device import MatMul, Work
from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._bit_planes import pad_last
from edgellm.ops._body import Body, Value
from edgellm.ops._integers import INT32_MAX, exact_matmul, saturate
from edgellm.ops._outliers import MAX_COLUMNS, PORTS, add_outliers, body_products, outliers_fit
from edgellm.ops._outliers import draw as draw_outliers
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import Demands, Use
from edgellm.ops._work import Sizes
from edgellm.row_codes import BITS, BLOCK, bit_places, pack_row_codes, row_bytes, unpack_row_codes

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="CodebookLinear",
    inputs=(
        Port("x", "int8", ("T", "K")),
        Port("codes", "uint8", ("N", "B")),
        Port("levels", "int8", ("N", "G", "L")),
        *PORTS,
    ),
    outputs=(Port("acc", "int32", ("T", "N")),),
    attributes={"group_size": (BLOCK, MAX_COLUMNS)},
)

MAX_BITS = BITS[-1]


def work(sizes: Sizes) -> Work:
    """Return what a call amounts to; a level has 8 bits."""
    return MatMul(
        m=sizes["T"],
        k=sizes["K"],
        n=sizes["N"],
        weight_bits=sizes["L"].bit_length() - 1,
        group_size=sizes["group_size"],
        group_bits=8 * sizes["L"],
        levels=sizes["L"],
        outliers=sizes["Z"] if sizes["R"] > 1 else 0,
    )


def demands(use: Use) -> Demands:
    """Demand codes and tables that fit each other, and outliers inside of the matrix."""
    columns, rows, levels = use.sizes["K"], use.sizes["N"], use.sizes["L"]
    if not isinstance(columns, int) or not isinstance(rows, int) or not isinstance(levels, int):
        return [(False, "its weight has a fixed size")]
    size, bits = use.attributes["group_size"], levels.bit_length() - 1
    allowed = bits in BITS and levels == 1 << bits
    shapes = [
        (columns <= MAX_COLUMNS, f"at most {MAX_COLUMNS} columns"),
        (allowed, "a table has 4, 8 or 16 levels"),
        (size % BLOCK == 0, f"a group is a multiple of {BLOCK} columns"),
        (
            allowed and use.sizes["B"] == row_bytes(columns, bits),
            "its codes have another number of columns than the activations",
        ),
        (use.sizes["G"] == -(-columns // size), "it has one table for each group"),
    ]
    return [*shapes, _levels_fit(use), *outliers_fit(use, rows, columns)]


def _levels_fit(use: Use) -> tuple[bool, str]:
    """Demand levels that are stored, and whose negatives are int8."""
    levels = use.stored.get(use.inputs[2])
    fits = levels is not None and bool((levels.astype(np.int8) > -128).all())
    return fits, "its levels are stored in the bundle, and are from -127 to 127"


def reference(
    x: npt.NDArray[np.int8],
    codes: npt.NDArray[np.uint8],
    levels: npt.NDArray[np.int8],
    offsets: npt.NDArray[np.int32],
    columns: npt.NDArray[np.int16],
    values: npt.NDArray[np.int16],
    *,
    group_size: int,
) -> npt.NDArray[np.int32]:
    """Return ``(levels chosen by the codes + outliers) . x``, saturated.

    Non-uniform levels and sparse outliers, SqueezeLLM's weights (arXiv 2306.07629), with one unit
    for all integers of a row, so that nothing is scaled before the end. The sum stays below 2^38.

    Args:
        x: (T, K), K <= 32,768.
        codes: (N, B) codes of P = log2(L) bits in the layout ``row-codes/v1``.
        levels: (N, G, L) weights to choose from, in [-127, 127]; L = 4, 8 or 16, G = ceil(K /
            group_size).
        offsets: (R,), R = N + 1: row n has the outliers offsets[n] to offsets[n + 1] - 1; they
            ascend from 0 to at most Z. R = 1 where no row has any: [0].
        columns: (Z,) of the outliers, below K, ascending within a row.
        values: (Z,) what outliers are more than the level of their code.
        group_size: columns of a group, a multiple of 64; the last group may be shorter.
    """
    rows, width = len(codes), x.shape[1]
    chosen = unpack_row_codes(codes, levels.shape[2].bit_length() - 1, width)
    groups = np.arange(width) // group_size
    weight = levels[np.arange(rows)[:, None], groups, chosen].astype(np.int64)
    add_outliers(weight, (offsets, columns, values))
    return saturate(exact_matmul(x, weight.T), INT32_MAX).astype(np.int32)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, codes, levels, offsets, columns, values = b.inputs
    size, groups, rows = b.attribute("group_size").reshape(1), levels.size(1), levels.size(0)
    chosen = _body_codes(codes, levels.count(2) // 8)  # (N, columns of whole blocks)
    fitted = pad_last(chosen, 2, groups * size - chosen.size(1)).reshape(rows, groups, size)
    found = b.node("GatherElements", [levels, fitted.to("int64")], "int8", {"axis": 2})
    weight = found.reshape(rows, -1).columns(x.size(1))
    dense = graph.exact_matmul(x, weight.transpose(1, 0)).to("int64")
    outliers = body_products(x, (offsets, columns, values), rows)
    return b.function(graph.saturate(dense + outliers, INT32_MAX).to("int32"))


def _body_codes(packed: Value, kind: Value) -> Value:
    """Return the codes (N, columns of whole blocks) as int32; kind is 0, 1, 2 for 2, 3, 4 bits."""
    body = packed.body
    places = np.zeros((len(BITS), MAX_BITS, BLOCK), np.int64)
    worth = np.zeros((len(BITS), MAX_BITS, 1), np.int64)
    for index, bits in enumerate(BITS):
        places[index, :bits] = bit_places(bits)
        worth[index, :bits, 0] = 1 << np.arange(bits)
    block_bytes = body.constant([BLOCK // 8 * bits for bits in BITS]).take(kind).reshape(1)
    blocks = packed.reshape(packed.size(0), -1, block_bytes)
    bytes_ = blocks.take(body.constant(places // 8).take(kind), axis=2)  # (N, blocks, 4, 64)
    bits_ = bytes_.shift_right(body.constant(places % 8).take(kind).to("uint8")) & 1
    weighed = bits_.to("int32") * body.constant(worth, "int32").take(kind)
    summed = body.node("ReduceSum", [weighed, body.constant([2])], "int32")
    return summed.reshape(packed.size(0), -1)


def _example(
    name: str, sizes: tuple[int, int, int], bits: int, group: int, share: float = 0.0
) -> Example:
    """Return random inputs; about ``share`` of the weights are outliers."""
    tokens, k, n = sizes
    rng = np.random.default_rng(13)
    codes = rng.integers(0, 2**bits, (n, k), np.int64).astype(np.uint8)
    levels = rng.integers(-127, 128, (n, -(-k // group), 2**bits), np.int64).astype(np.int8)
    weight = (pack_row_codes(codes, bits), levels, *draw_outliers(rng, (n, k), share))
    return Example(name, (draw.codes(rng, tokens, k), *weight), {"group_size": group})


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    for bits in BITS:
        yield _example(f"random_{bits}_bits", (2, 128, 65), bits, 64)
        yield _example(f"outliers_{bits}_bits", (2, 200, 37), bits, 64, 0.05)
        yield _example(f"many_tokens_{bits}_bits", (19, 264, 70), bits, 128, 0.01)
        yield _example(f"one_token_{bits}_bits", (1, 1100, 131), bits, 128)
    yield _example("one_of_all", (1, 1, 1), 2, 64)
    yield _example("all_outliers", (3, 70, 6), 3, 128, 1.0)
    yield _example("one_group", (5, 520, 9), 4, 576, 0.02)
    yield _example("more_tokens", (67, 172, 65), 3, 192, 0.02)
    x = np.repeat(np.array([[127], [-127], [-128]], np.int8), 32_768, axis=1)
    codes = pack_row_codes(np.full((3, 32_768), 3, np.uint8), 2)
    columns = np.tile(np.arange(32_768, dtype=np.int16), 3)
    for level, value in ((-127, -32_768), (127, 32_767), (127, -300), (-127, 1)):
        tables = np.full((3, 2, 4), level, np.int8)
        offsets = np.arange(4, dtype=np.int32) * 32_768
        values = np.full(len(columns), value, np.int16)
        inputs = (x, codes, tables, offsets, columns, values)
        yield Example(f"largest_sums_{level}_{value}", inputs, {"group_size": 16_384})
