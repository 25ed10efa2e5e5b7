"""ShiftAddLinear: int8 activations times sums of binary matrices with power-of-two scales."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.device import MatMul, Work
from edgellm.dtypes import SHIFT_TERMS, pack_bit_planes, unpack_bit_planes
from edgellm.ops import _bit_planes
from edgellm.ops import _examples as draw
from edgellm.ops._bit_planes import GROUP_SIZE
from edgellm.ops._body import Body
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import Demands, Use, at_most
from edgellm.ops._work import Sizes

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="ShiftAddLinear",
    inputs=(
        Port("x", "int8", ("T", "K")),
        Port("planes", "uint8", ("B", "C", "P", "64")),
        Port("terms", "uint8", ("G", "P", "S", "N")),
    ),
    outputs=(Port("acc", "int32", ("T", "N")),),
    attributes={"group_size": GROUP_SIZE, "shift": (0, 62)},
)

MAX_TERMS = 8


def work(sizes: Sizes) -> Work:
    """Return what a call amounts to; a term is a byte."""
    return MatMul(
        m=sizes["T"],
        k=sizes["K"],
        n=sizes["N"],
        weight_bits=sizes["P"],
        group_size=sizes["group_size"],
        group_bits=sizes["P"] * sizes["S"] * 8,
        shifts=sizes["P"] * sizes["S"],
    )


def demands(use: Use) -> Demands:
    """Demand planes that fit the terms and the activations."""
    few = at_most(use.sizes["S"], MAX_TERMS)
    return [*_bit_planes.planes_fit(use), (few, f"at most {MAX_TERMS} terms")]


def reference(
    x: npt.NDArray[np.int8],
    planes: npt.NDArray[np.uint8],
    terms: npt.NDArray[np.uint8],
    *,
    group_size: int,
    shift: int,
) -> npt.NDArray[np.int32]:
    """Return ``sum over groups, planes and terms of +-((b . x) << exponent)``, b of +1 and -1.

    ShiftAddLLM's product (arXiv 2406.05981) with activations in int8: every weight is
    ``sum of b_p * (+-2^e +-2^e ...)``, so look-ups, shifts and additions are enough, and they are
    exact. The signs of all terms are kept (its kernels lose them beyond the first). The int64 sum
    is shifted right by ``shift``, rounded once and saturated; it stays below 2^61:
    8 planes * S <= 8 terms * 127 * 2^31 * K.

    Args:
        x: (T, K), K <= 65,536.
        planes: (B, C, P, 64) in the layout ``bit-planes/v1``, 1 for +1 and 0 for -1; N rows.
        terms: (G, P, S, N) in the layout ``shift-terms/v1``.
        group_size: columns of a group, a multiple of 8; the last group may be shorter.
        shift: 0 <= shift <= 62.
    """
    bits = unpack_bit_planes(planes, terms.shape[3], x.shape[1])
    scales = SHIFT_TERMS[terms].sum(axis=2)  # (G, P, N)
    total = np.zeros((len(x), terms.shape[3]), np.int64)
    for plane, plane_bits in enumerate(bits):
        products = _bit_planes.group_products(x, 2 * plane_bits.astype(np.int64) - 1, group_size)
        total += (products * scales[:, plane, None, :]).sum(axis=0)
    return _bit_planes.rounded(total, shift)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, planes, terms = b.inputs
    size, groups, rows = b.attribute("group_size").reshape(1), terms.size(0), terms.size(3)
    count = planes.size(2)
    bits = _bit_planes.body_bits(planes, rows, groups * size)
    by_group = bits.reshape(count, rows, groups, size).transpose(0, 2, 3, 1)  # (P, G, size, N)
    left, sums = _bit_planes.body_groups(b, x, groups, size)
    products = _bit_planes.body_products(left.unsqueeze(0), by_group)  # (P, G, T, N)
    signed = products * 2 - sums.unsqueeze(0)
    worth = b.constant(SHIFT_TERMS).take(terms.to("int64"))  # (G, P, S, N)
    scales = b.node("ReduceSum", [worth, b.constant([2])], "int64").transpose(1, 0, 2, 3)
    total = b.node("ReduceSum", [signed * scales, b.constant([0, 1])], "int64").reshape(-1, rows)
    return b.function(_bit_planes.body_rounded(total, b.attribute("shift")))


def _example(
    name: str,
    sizes: tuple[int, int, int],
    shape: tuple[int, int, int],
    codes: draw.Codes = draw.codes,
) -> Example:
    tokens, k, n = sizes
    bits, terms, group = shape
    rng = np.random.default_rng(12)
    planes = pack_bit_planes(rng.integers(0, 1, (bits, n, k), np.uint8, endpoint=True))
    chosen = rng.integers(0, 13, (-(-k // group), bits, terms, n), np.uint8, endpoint=True)
    chosen |= rng.integers(0, 1, chosen.shape, np.uint8, endpoint=True) << np.uint8(7)
    attributes = {"group_size": group, "shift": 8}
    return Example(name, (codes(rng, tokens, k), planes, chosen), attributes)


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    for bits, terms in ((1, 1), (2, 2), (3, 3), (4, 3), (8, 1)):
        yield _example(f"random_{bits}_planes_{terms}_terms", (2, 128, 65), (bits, terms, 32))
    yield _example("one_of_all", (1, 1, 1), (1, 1, 8))
    yield _example("last_group_is_shorter", (3, 172, 67), (3, 2, 64))
    yield _example("one_group", (1, 520, 9), (2, 3, 520))
    yield _example("one_token", (1, 1100, 131), (3, 2, 128))
    yield _example("many_rows", (1, 172, 2117), (2, 2, 64))
    yield _example("small_codes", (2, 1100, 131), (3, 2, 256), draw.codes_of_two_sizes)
    yield _example("many_groups", (1, 2048, 330), (4, 1, 8))
    yield _example("more_groups", (1, 2064, 130), (4, 1, 8))
    yield _example("many_tokens", (19, 264, 70), (2, 3, 128))
    yield _example("more_tokens", (130, 1100, 65), (4, 1, 40))
    yield _example("levels_of_more_than_16_bits", (33, 1100, 70), (4, 3, 128))
    yield _example("more_planes_of_many_tokens", (33, 264, 65), (5, 2, 64))
    x = np.full((2, 4096), 127, np.int8) * np.array([[1], [-1]], np.int8)
    ones = pack_bit_planes(np.ones((4, 1, 4096), np.uint8))
    for exponent in (31, 14, 13, 12):
        terms_ = np.full((16, 4, 3, 1), exponent + 1, np.uint8)
        attributes = {"group_size": 256, "shift": 12}
        yield Example(f"largest_sums_{exponent}", (x, ones, terms_), attributes)
    exponents = np.array([[14, -32, -32], [13, -32, -32], [12, 11, 10], [9, 8, 6]])
    terms_ = np.tile((exponents + 1).clip(0).astype(np.uint8)[None, :, :, None], (8, 1, 1, 2))
    terms_[:, :, :, 1] |= np.uint8(128) * (terms_[:, :, :, 1] > 0)
    x = np.tile(np.resize(np.array([127, -127, -128], np.int8), (32, 1)), 1024)
    inputs = (x, pack_bit_planes(np.ones((4, 2, 1024), np.uint8)), terms_)
    yield Example("largest_levels", inputs, {"group_size": 128, "shift": 4})
