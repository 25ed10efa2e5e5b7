"""ShiftAddLinear: int8 activations times sums of binary matrices with power-of-two scales."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.device import MatMul, Work
from edgellm.dtypes import pack_bit_planes, unpack_bit_planes
from edgellm.ops import _bit_planes
from edgellm.ops import _examples as draw
from edgellm.ops._bit_planes import GROUP_SIZE
from edgellm.ops._body import Body, Value
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._shift_alphas import (
    BLOCK_ROWS,
    GAPS,
    MAX_EXPONENT,
    MAX_TERMS,
    MINUS,
    POWERS,
    SIGNS,
    alpha_bytes,
    pack_nibbles,
    unpack_alphas,
)
from edgellm.ops._use import Demands, Use
from edgellm.ops._work import Sizes

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="ShiftAddLinear",
    inputs=(
        Port("x", "int8", ("T", "K")),
        Port("planes", "uint8", ("B", "C", "P", "64")),
        Port("alphas", "uint8", ("N", "A")),
    ),
    outputs=(Port("acc", "int32", ("T", "N")),),
    attributes={"group_size": GROUP_SIZE, "shift": (0, 62), "terms": (1, MAX_TERMS)},
)


def work(sizes: Sizes) -> Work:
    """Return what a call amounts to."""
    return MatMul(
        m=sizes["T"],
        k=sizes["K"],
        n=sizes["N"],
        weight_bits=sizes["P"],
        group_size=sizes["group_size"],
        group_bits=8 * alpha_bytes(sizes["P"], sizes["terms"]),
        shifts=sizes["P"] * sizes["terms"],
    )


def demands(use: Use) -> Demands:
    """Demand planes that fit the alphas and the activations."""
    fits, planes = _bit_planes.planes_fit(use), use.sizes["P"]
    size = alpha_bytes(planes, use.attributes["terms"]) if isinstance(planes, int) else -1
    of_each = use.sizes["A"] == _bit_planes.group_count(use) * size
    return [*fits, (of_each, "it has alphas for each plane of each group")]


def reference(
    x: npt.NDArray[np.int8],
    planes: npt.NDArray[np.uint8],
    alphas: npt.NDArray[np.uint8],
    *,
    group_size: int,
    shift: int,
    terms: int,
) -> npt.NDArray[np.int32]:
    """Return ``sum over groups, planes and terms of +-((b . x) << exponent)``, b of +1 and -1.

    ShiftAddLLM's product (arXiv 2406.05981) with activations in int8: every weight is
    ``sum of b_p * (+-2^e +-2^e ...)``, so look-ups, shifts and additions are enough, and they are
    exact. The signs of all terms are kept (its kernels lose them beyond the first). The int64 sum
    is shifted right by ``shift``, rounded once and saturated; it stays below 2^42:
    8 planes * 128 * 2^15 * K.

    Args:
        x: (T, K), K <= 65,536.
        planes: (B, C, P, 64) in the layout ``bit-planes/v1``, 1 for +1 and 0 for -1; N rows.
        alphas: (N, A) in the layout ``shift-alphas/v2``.
        group_size: columns of a group, a multiple of 8; the last group may be shorter.
        shift: 0 <= shift <= 62.
        terms: the most of an alpha.
    """
    bits = unpack_bit_planes(planes, len(alphas), x.shape[1])
    scales = unpack_alphas(alphas, planes.shape[2], terms)  # (G, P, N)
    total = np.zeros((len(x), len(alphas)), np.int64)
    for plane, plane_bits in enumerate(bits):
        products = _bit_planes.group_products(x, 2 * plane_bits.astype(np.int64) - 1, group_size)
        total += (products * scales[:, plane, None, :]).sum(axis=0)
    return _bit_planes.rounded(total, shift)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, planes, alphas = b.inputs
    size, rows, count = b.attribute("group_size").reshape(1), alphas.size(0), planes.size(2)
    groups = (x.size(1) + size - 1) // size
    bits = _bit_planes.body_bits(planes, rows, groups * size)
    by_columns = bits.reshape(count, rows, groups, size).transpose(0, 2, 3, 1)  # (P, G, size, N)
    left, sums = _bit_planes.body_groups(b, x, groups, size)
    products = _bit_planes.body_products(left.unsqueeze(0), by_columns)  # (P, G, T, N)
    signed = products * 2 - sums.unsqueeze(0)
    by_group = _body_bytes(alphas).reshape(groups, -1, rows)
    scales = _body_alphas(by_group, count).transpose(1, 0, 2, 3)  # (P, G, 1, N)
    total = b.node("ReduceSum", [signed * scales, b.constant([0, 1])], "int64").reshape(-1, rows)
    return b.function(_bit_planes.body_rounded(total, b.attribute("shift")))


def _body_bytes(alphas: Value) -> Value:
    """Return the bytes of alphas in the order of rows, (A, N)."""
    b, rows, row_bytes = alphas.body, alphas.count(0), alphas.count(1)
    row = b.range(b.constant(0), rows)
    begin = row // BLOCK_ROWS * BLOCK_ROWS
    width = (rows - begin).at_most(BLOCK_ROWS)
    each = b.range(b.constant(0), row_bytes).reshape(-1, 1)
    return alphas.reshape(-1).take(each * width + begin * row_bytes + row - begin)


def _body_alphas(alphas: Value, planes: Value) -> Value:
    """Return the alphas of bytes (G, H, N) as integers, (G, P, 1, N)."""
    b, terms = alphas.body, alphas.body.attribute("terms").reshape(1)
    halves = [alphas & 15, alphas.shift_right(b.constant(4, "uint8"))]
    nibbles = b.concat([half.unsqueeze(2) for half in halves], axis=2)  # (G, H, 2, N)
    flat = nibbles.reshape(0, -1, alphas.size(2)).transpose(1, 0, 2).to("int64")
    start, axis = b.constant([0]), b.constant([0])
    kept = b.node("Slice", [flat, start, planes * terms, axis], "int64")
    by_term = kept.reshape(planes, terms, alphas.size(0), alphas.size(2)).transpose(2, 0, 1, 3)
    is_first = b.range(b.constant(0), b.attribute("terms")).reshape(-1, 1) < 1  # (S, 1)
    gaps = b.where(is_first, -by_term, b.constant(GAPS).take(by_term))
    exponents = -b.node("CumSum", [gaps, b.constant(2)], "int64")
    powers = b.constant(POWERS).take(exponents.at_least(0))
    signed = powers * b.where(is_first, b.constant(1), b.constant(SIGNS).take(by_term))
    return b.node("ReduceSum", [signed, b.constant([2])], "int64")


def _example(
    name: str,
    sizes: tuple[int, int, int],
    shape: tuple[int, int, int],
    codes: draw.Codes = draw.codes,
    top: int = 12,
) -> Example:
    """Draw an example; ``top`` is the largest exponent."""
    tokens, k, n = sizes
    bits, terms, group = shape
    rng = np.random.default_rng(12)
    planes = pack_bit_planes(rng.integers(0, 1, (bits, n, k), np.uint8, endpoint=True))
    nibbles = rng.integers(0, 16, (-(-k // group), bits, terms, n), np.uint8)
    nibbles[:, :, 0] %= top + 2
    attributes = {"group_size": group, "shift": 8, "terms": terms}
    return Example(name, (codes(rng, tokens, k), planes, pack_nibbles(nibbles)), attributes)


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    for bits, terms in ((1, 1), (2, 2), (3, 3), (4, 3), (8, 1), (1, 8)):
        name = f"random_{bits}_planes_{terms}_terms"
        yield _example(name, (2, 128, 65), (bits, terms, 32), top=MAX_EXPONENT)
    yield _example("one_of_all", (1, 1, 1), (1, 1, 8))
    yield _example("last_group_is_shorter", (3, 172, 67), (3, 2, 64))
    yield _example("one_group", (1, 520, 9), (2, 3, 520))
    yield _example("one_token", (1, 1100, 131), (3, 3, 128))
    yield _example("many_rows", (1, 172, 2117), (2, 2, 64))
    yield _example("small_codes", (2, 1100, 131), (3, 2, 256), draw.codes_of_two_sizes)
    yield _example("many_groups", (1, 2048, 330), (4, 1, 8))
    yield _example("more_groups", (1, 2064, 130), (4, 1, 8))
    yield _example("many_tokens", (19, 264, 70), (2, 3, 128))
    yield _example("more_tokens", (130, 1100, 65), (4, 1, 40))
    yield _example("levels_of_more_than_16_bits", (33, 1100, 70), (4, 3, 128), top=MAX_EXPONENT)
    yield _example("more_planes_of_many_tokens", (33, 264, 65), (5, 2, 64))
    for exponent in (14, 13, 12):
        yield _largest(f"largest_sums_{exponent}", (2, 4096), [[exponent + 1, 1, 1]] * 4)
    # 2^14 + 2^12 + 2^10 and so on: 32,634 together, the most of two int8; then 32,640.
    alphas = [[15, 1, 1], [14, 1, 1], [9, 1, 1], [6, 1, 1]]
    yield _largest("largest_levels", (32, 1024), alphas)
    alphas[3] = [7, MINUS + 1, 0]
    yield _largest("levels_just_too_large", (32, 1024), alphas)


def _largest(name: str, sizes: tuple[int, int], alphas: list[list[int]]) -> Example:
    """Return the largest activations times rows of bits that are all 1, and all 0."""
    tokens, columns = sizes
    x = np.tile(np.resize(np.array([127, -127, -128], np.int8), (tokens, 1)), columns)
    bits = np.broadcast_to(np.array([[1], [0]], np.uint8), (len(alphas), 2, columns))
    nibbles = np.array(alphas, np.uint8)[None, :, :, None]
    groups = np.broadcast_to(nibbles, (columns // 128, *nibbles.shape[1:3], 2))
    attributes = {"group_size": 128, "shift": 4, "terms": 3}
    return Example(name, (x, pack_bit_planes(bits), pack_nibbles(groups)), attributes)
