"""Int4Attention: Attention over a key/value cache of 4 bits a number."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.device import Attention as CausalAttention
from edgellm.device import Work
from edgellm.graph_names import PAST_LENGTH, TOKENS
from edgellm.int4 import BLOCK, INT4_LIMIT, unpack_int4
from edgellm.ops import _examples as draw
from edgellm.ops._attention import attend, attend_nodes, example_attributes
from edgellm.ops._body import Body, Value
from edgellm.ops._integers import INT32_MAX
from edgellm.ops._ranges import EXPONENT, MANTISSA
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import MAX_HEAD_DIM, Demands, Use, at_most, divides
from edgellm.ops._work import Sizes

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="Int4Attention",
    inputs=(
        Port("query", "int32", ("T", "M")),
        Port("key", "uint8", ("L", "H", "P")),
        Port("key_absmax", "int32", ("L", "H")),
        Port("value", "uint8", ("L", "H", "P")),
        Port("value_absmax", "int32", ("L", "H")),
    ),
    outputs=(Port("y", "int64", ("T", "M")),),
    attributes={
        "scaling_mantissa": MANTISSA,
        "scaling_exponent": EXPONENT,
        "window": (0, 2**31 - 1),
    },
)


def work(sizes: Sizes) -> Work:
    """Return what a call amounts to."""
    dim = 2 * sizes["P"]
    return CausalAttention(
        tokens=sizes["T"],
        length=sizes["L"],
        heads=sizes["M"] // dim,
        kv_heads=sizes["H"],
        head_dim=dim,
        kv_bits=4,
        window=sizes["window"],
    )


def demands(use: Use) -> Demands:
    """Demand the cache of a text as its keys, whole groups of query heads, and whole blocks."""
    heads, half = use.sizes["H"], use.sizes["P"]
    whole = isinstance(heads, int) and divides(half, use.sizes["M"], 2 * heads)
    length = f"{PAST_LENGTH}+{TOKENS}"
    return [
        (
            use.sizes["T"] == TOKENS and use.sizes["L"] == length,
            "its keys are the past and the tokens",
        ),
        (at_most(half, MAX_HEAD_DIM // 2), f"heads have at most {MAX_HEAD_DIM} columns"),
        (whole, "the query heads are a multiple of the key/value heads"),
        (divides(BLOCK // 2, half), f"a head is a multiple of {BLOCK} columns"),
    ]


def reference(
    query: npt.NDArray[np.int32],
    key: npt.NDArray[np.uint8],
    key_absmax: npt.NDArray[np.int32],
    value: npt.NDArray[np.uint8],
    value_absmax: npt.NDArray[np.int32],
    *,
    scaling_mantissa: int,
    scaling_exponent: int,
    window: int,
) -> npt.NDArray[np.int64]:
    """Return softmax(query . key) . value of each head, as Attention does.

    Queries have 8 bits, and weights 15, as there.

    Args:
        query: (T, M), the last T of L positions; M = heads * D, heads a multiple of H.
        key: (L, H, D / 2) codes of -7 to 7 in ``int4/v1``, L <= 65,535, D <= 512.
        key_absmax: (L, H).
        value: (L, H, D / 2) codes.
        value_absmax: (L, H).
        scaling_mantissa: with its exponent, the log2 distance of one step of
            ``query code * query absmax * key code * key absmax``.
        scaling_exponent: see there.
        window: keys that a query sees, its own included; 0 for all.

    Returns:
        (T, M) int64 with 5 fraction bits more than the fixed point of the values.
    """
    keys, values = (_unpacked(key), key_absmax), (_unpacked(value), value_absmax)
    scaling = scaling_mantissa, scaling_exponent
    return attend(query, keys, values, scaling, window, INT4_LIMIT)


def _unpacked(cache: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Return (L, H, D / 2) as (L, H, D)."""
    length, heads, half = cache.shape
    return unpack_int4(cache.reshape(-1, half)).reshape(length, heads, 2 * half)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    query, key, key_absmax, value, value_absmax = b.inputs
    keys, values = (_unpacked_nodes(key), key_absmax), (_unpacked_nodes(value), value_absmax)
    return b.function(attend_nodes(query, keys, values, INT4_LIMIT))


def _unpacked_nodes(cache: Value) -> Value:
    blocks = cache.reshape(cache.size(0), cache.size(1), -1, 1, BLOCK // 2)
    halves = cache.body.concat([blocks & 15, blocks.shift_right(4)], axis=3)
    codes = halves.reshape(cache.size(0), cache.size(1), -1).to("int64") - 8
    return codes.to("int8")


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(32)
    sizes = (
        (1, 1, 1, 1, 64),
        (5, 5, 2, 1, 64),
        (1, 300, 2, 2, 128),
        (3, 70, 1, 3, 192),
        (1, 301, 2, 7, 64),
        (5, 70, 3, 2, 128),
        (2, 130, 1, 5, 512),
        (1, 150, 5, 3, 64),
        (2, 200, 5, 4, 128),
        (20, 90, 1, 4, 64),
    )
    for tokens, length, groups, share, dim in sizes:
        name = f"random_{tokens}_of_{length}_{groups}x{share}x{dim}"
        inputs = _random_inputs(rng, (tokens, length, groups, share, dim))
        yield Example(name, inputs, example_attributes(dim))
    for tokens, length, window in ((4, 30, 4), (2, 210, 100), (1, 420, 205)):
        inputs = _random_inputs(rng, (tokens, length, 2, 4, 64))
        attributes = example_attributes(64, window=window)
        yield Example(f"window_{window}", inputs, attributes)
    for name, port in (("query", 0), ("key", 1), ("value", 3)):
        zeros = list(_random_inputs(rng, (3, 20, 2, 2, 64)))
        zeros[port] = np.full_like(zeros[port], 0x88 if port else 0)
        if port:  # a zero row of the cache has the absmax 0
            zeros[port + 1] = np.zeros_like(zeros[port + 1])
        yield Example(f"zero_{name}", tuple(zeros), example_attributes(64))
    yield from _extreme_examples()


def _random_inputs(
    rng: np.random.Generator, sizes: tuple[int, int, int, int, int]
) -> tuple[npt.NDArray[np.generic], ...]:
    """Return inputs; sizes: tokens, length, heads of the cache, queries to each, head dimension."""
    tokens, length, groups, share, dim = sizes
    return (
        draw.narrow(rng, 20, tokens, groups * share * dim),
        draw.nibbles(rng, length, groups, dim),
        np.abs(draw.narrow(rng, 20, length, groups)),
        draw.nibbles(rng, length, groups, dim),
        np.abs(draw.narrow(rng, 20, length, groups)),
    )


def _extreme_examples() -> Iterator[Example]:
    """Yield the largest magnitudes, and the longest row."""
    query = draw.alternating(512, INT32_MAX, np.int32)[None]
    opposite = np.full((2, 1, 256), 0xF1, np.uint8)
    opposite[0] = 0x1F
    absmax = np.full((2, 1), INT32_MAX, np.int32)
    for frame in (0, 18):
        attributes = example_attributes(512, frame=frame)
        yield Example(
            f"largest_frame_{frame}", (query, opposite, absmax, opposite, absmax), attributes
        )
    peaks = np.full((65_535, 1), INT32_MAX, np.int32)
    values = np.full((65_535, 1, 32), 0x1F, np.uint8)
    query, zeros = draw.alternating(64, 5, np.int32)[None], np.full_like(values, 0x88)
    inputs = query, zeros, peaks, values, peaks
    yield Example("longest_row", inputs, example_attributes(64))
