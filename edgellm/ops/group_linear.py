"""GroupLinear: int8 activations times weights of 1 to 8 bits with a scale and a zero a group."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.device import MatMul, Work
from edgellm.dtypes import pack_bit_planes, unpack_bit_planes
from edgellm.ops import _bit_planes
from edgellm.ops import _examples as draw
from edgellm.ops._bit_planes import GROUP_SIZE
from edgellm.ops._body import Body
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import Demands, Use
from edgellm.ops._work import Sizes

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="GroupLinear",
    inputs=(
        Port("x", "int8", ("T", "K")),
        Port("planes", "uint8", ("B", "C", "P", "64")),
        Port("scale", "int16", ("G", "N")),
        Port("zero", "uint8", ("G", "N")),
    ),
    outputs=(Port("acc", "int32", ("T", "N")),),
    attributes={"group_size": GROUP_SIZE, "shift": (0, 62)},
)


def work(sizes: Sizes) -> Work:
    """Return what a call amounts to; a group has a scale of 16 and a zero of 8 bits."""
    return MatMul(
        m=sizes["T"],
        k=sizes["K"],
        n=sizes["N"],
        weight_bits=sizes["P"],
        group_size=sizes["group_size"],
        group_bits=16 + 8,
    )


def demands(use: Use) -> Demands:
    """Demand planes that fit the scales and the activations."""
    of_each = use.sizes["G"] == _bit_planes.group_count(use)
    return [*_bit_planes.planes_fit(use), (of_each, "it has one scale for each group")]


def reference(
    x: npt.NDArray[np.int8],
    planes: npt.NDArray[np.uint8],
    scale: npt.NDArray[np.int16],
    zero: npt.NDArray[np.uint8],
    *,
    group_size: int,
    shift: int,
) -> npt.NDArray[np.int32]:
    """Return ``sum over groups of scale * ((code - zero) . x)``, shifted right by ``shift``.

    Each group is dequantised after its products were summed, as MixPE does (arXiv 2411.16158); the
    int64 sum is rounded once and saturated. It stays below 2^55: 255 * 127 * 2^15 * K.

    Args:
        x: (T, K), K <= 65,536.
        planes: codes of P bits in the layout ``bit-planes/v1``, bit p in plane p; N rows.
        scale: (G, N), G = ceil(K / group_size).
        zero: (G, N): the code that stands for 0.
        group_size: columns of a group, a multiple of 8; the last group may be shorter.
        shift: 0 <= shift <= 62.
    """
    bits = unpack_bit_planes(planes, scale.shape[1], x.shape[1]).astype(np.int64)
    codes = np.tensordot(1 << np.arange(len(bits)), bits, axes=1)  # (N, K)
    products = _bit_planes.group_products(x, codes, group_size)
    sums = _bit_planes.split_groups(x.astype(np.int64), group_size).sum(axis=2).T  # (G, T)
    centered = products - sums[:, :, None] * zero.astype(np.int64)[:, None, :]
    total = (centered * scale.astype(np.int64)[:, None, :]).sum(axis=0)
    return _bit_planes.rounded(total, shift)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, planes, scale, zero = b.inputs
    size, groups, rows = b.attribute("group_size").reshape(1), scale.size(0), scale.size(1)
    bits = _bit_planes.body_bits(planes, rows, groups * size)  # (P, N, G * size)
    places = b.constant([1 << bit for bit in range(_bit_planes.MAX_PLANES)], "int32")
    start, end = b.constant([0]), planes.size(2)
    worth = b.node("Slice", [places, start, end], "int32").reshape(-1, 1, 1)
    summed = b.node("ReduceSum", [bits.to("int32") * worth, b.constant([0])], "int32")
    codes = summed.to("uint8").reshape(rows, groups, size).transpose(1, 2, 0)
    left, sums = _bit_planes.body_groups(b, x, groups, size)
    products = _bit_planes.body_products(left, codes)  # (G, T, N)
    centered = products - sums * zero.to("int64").unsqueeze(1)
    scaled = centered * scale.to("int64").unsqueeze(1)
    total = b.node("ReduceSum", [scaled, b.constant([0])], "int64").reshape(-1, rows)
    return b.function(_bit_planes.body_rounded(total, b.attribute("shift")))


def _example(
    name: str,
    sizes: tuple[int, int, int],
    bits: int,
    group: int,
    shift: int,
    codes: draw.Codes = draw.codes,
) -> Example:
    tokens, k, n = sizes
    rng = np.random.default_rng(11)
    groups = -(-k // group)
    planes = pack_bit_planes(rng.integers(0, 1, (bits, n, k), np.uint8, endpoint=True))
    scale = rng.integers(-(2**15), 2**15, (groups, n), np.int16)
    zero = rng.integers(0, 2**bits, (groups, n), np.int64).astype(np.uint8)
    attributes = {"group_size": group, "shift": shift}
    return Example(name, (codes(rng, tokens, k), planes, scale, zero), attributes)


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    for bits in range(1, 9):
        yield _example(f"random_{bits}_bits", (2, 128, 65), bits, 32, 6)
    yield _example("one_of_all", (1, 1, 1), 2, 8, 0)
    yield _example("last_group_is_shorter", (3, 172, 67), 3, 64, 9)
    yield _example("one_group", (1, 520, 9), 4, 520, 12)
    yield _example("one_token", (1, 1100, 131), 4, 128, 9)
    yield _example("many_rows", (1, 172, 2117), 3, 64, 9)
    yield _example("small_codes", (2, 1100, 131), 3, 256, 9, draw.codes_of_two_sizes)
    yield _example("many_tokens", (19, 264, 70), 4, 128, 9)
    yield _example("more_tokens", (130, 1100, 65), 2, 8, 9)
    yield _example("long_groups", (9, 2104, 33), 3, 2048, 12)
    for tokens, k, n, bits, group in (
        (9, 1280, 70, 4, 128),
        (130, 320, 65, 2, 64),
        (8, 1056, 131, 3, 96),
        (11, 1152, 3, 1, 1152),
    ):
        yield _example(f"{tokens}_tokens_groups_of_{group}", (tokens, k, n), bits, group, 9)
    yield _example("many_tokens_8_bits", (5, 136, 3), 8, 64, 9)
    x, planes, scale, _ = _example("", (5, 136, 70), 4, 64, 9).inputs
    zero = np.random.default_rng(13).integers(0, 256, scale.shape, np.uint8)
    yield Example("zeros_are_no_codes", (x, planes, scale, zero), {"group_size": 64, "shift": 9})
    yield _example("many_tokens_6_bits", (9, 128, 70), 6, 64, 9)
    x, planes, scale, _ = _example("", (9, 128, 70), 4, 64, 9).inputs
    for most in (16, 128, 255):
        zero = np.random.default_rng(14).integers(0, most, scale.shape, np.uint8, endpoint=True)
        zero[-1, -1] = most
        inputs = (x, planes, scale, zero)
        yield Example(f"zeros_up_to_{most}", inputs, {"group_size": 64, "shift": 9})
    x = np.full((2, 4096), 127, np.int8) * np.array([[1], [-1]], np.int8)
    ones = pack_bit_planes(np.ones((8, 1, 4096), np.uint8))
    extremes = (x, ones, np.full((16, 1), 32767, np.int16), np.zeros((16, 1), np.uint8))
    for shift in (0, 12, 62):
        yield Example(f"largest_sums_{shift}", extremes, {"group_size": 256, "shift": shift})
    x = np.resize(np.array([127, -127, -128], np.int8), (9, 1))
    codes = pack_bit_planes(np.resize([[1], [0]], (4, 128, 2048)).astype(np.uint8))
    zero = np.resize(np.array([0, 15], np.uint8), (16, 128))
    extremes = (np.tile(x, 2048), codes, np.full((16, 128), -32768, np.int16), zero)
    yield Example("largest_sums_of_many_tokens", extremes, {"group_size": 128, "shift": 12})
    x, fifteens = np.full((13, 192), -128, np.int8), np.ones((4, 17, 192), np.uint8)
    grid = np.full((2, 17), 32767, np.int16), np.zeros((2, 17), np.uint8)
    inputs = (x, pack_bit_planes(fifteens), *grid)
    yield Example("largest_codes_of_many_tokens", inputs, {"group_size": 128, "shift": 12})
    x, zeros = np.full((3, 256), -128, np.int8), np.zeros((2, 70, 256), np.uint8)
    grid = np.full((2, 70), 32767, np.int16), np.ones((2, 70), np.uint8)
    inputs = (x, pack_bit_planes(zeros), *grid)
    yield Example("largest_entries_of_tables", inputs, {"group_size": 128, "shift": 12})
