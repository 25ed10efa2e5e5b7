"""Attention over the int8 key/value cache: grouped heads, causal or sliding window, exp2 softmax.

The softmax is normalised after the weighted sum of the values, so that no probability mass is lost
at any length; 2^-f comes from a table of 64 entries. Each query sees the keys up to its own
position and nothing of how the prompt was cut: prefill equals decode, bit for bit.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.device import Attention as CausalAttention
from edgellm.device import Work
from edgellm.graph_names import PAST_LENGTH, TOKENS
from edgellm.ops import _examples as draw
from edgellm.ops._attention import attend, attend_nodes, example_attributes
from edgellm.ops._body import Body
from edgellm.ops._integers import INT32_MAX
from edgellm.ops._ranges import EXPONENT, MANTISSA
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import MAX_HEAD_DIM, Demands, Use, at_most, divides
from edgellm.ops._work import Sizes

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="Attention",
    inputs=(
        Port("query", "int32", ("T", "M")),
        Port("key", "int8", ("L", "H", "D")),
        Port("key_absmax", "int32", ("L", "H")),
        Port("value", "int8", ("L", "H", "D")),
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
    return CausalAttention(
        tokens=sizes["T"],
        length=sizes["L"],
        heads=sizes["M"] // sizes["D"],
        kv_heads=sizes["H"],
        head_dim=sizes["D"],
        window=sizes["window"],
    )


def demands(use: Use) -> Demands:
    """Demand the cache of a text as its keys, and whole groups of query heads."""
    heads, dim = use.sizes["H"], use.sizes["D"]
    whole = isinstance(heads, int) and divides(dim, use.sizes["M"], heads)
    length = f"{PAST_LENGTH}+{TOKENS}"
    return [
        (
            use.sizes["T"] == TOKENS and use.sizes["L"] == length,
            "its keys are the past and the tokens",
        ),
        (at_most(dim, MAX_HEAD_DIM), f"heads have at most {MAX_HEAD_DIM} columns"),
        (whole, "the query heads are a multiple of the key/value heads"),
    ]


def reference(
    query: npt.NDArray[np.int32],
    key: npt.NDArray[np.int8],
    key_absmax: npt.NDArray[np.int32],
    value: npt.NDArray[np.int8],
    value_absmax: npt.NDArray[np.int32],
    *,
    scaling_mantissa: int,
    scaling_exponent: int,
    window: int,
) -> npt.NDArray[np.int64]:
    """Return softmax(query . key) . value of each head.

    Args:
        query: (T, M), the last T of L positions; M = heads * D, heads a multiple of H.
        key: (L, H, D) codes, L <= 65,535, D <= 512.
        key_absmax: (L, H).
        value: (L, H, D) codes.
        value_absmax: (L, H).
        scaling_mantissa: with its exponent, the log2 distance of one step of
            ``query code * query absmax * key code * key absmax``.
        scaling_exponent: see there.
        window: keys that a query sees, its own included; 0 for all.

    Returns:
        (T, M) int64 with 5 fraction bits more than the fixed point of the values.
    """
    caches = (key, key_absmax), (value, value_absmax)
    return attend(query, *caches, (scaling_mantissa, scaling_exponent), window)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    query, key, key_absmax, value, value_absmax = b.inputs
    return b.function(attend_nodes(query, (key, key_absmax), (value, value_absmax)))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(15)
    sizes = (
        (1, 1, 1, 1, 1),
        (5, 5, 2, 1, 8),
        (1, 300, 2, 2, 8),
        (3, 70, 1, 3, 80),
        (2, 67, 3, 1, 7),
        (1, 301, 2, 7, 64),
        (5, 70, 3, 2, 128),
        (2, 130, 1, 5, 512),
        (1, 150, 5, 3, 64),
        (2, 200, 5, 4, 128),
    )
    for tokens, length, groups, share, dim in sizes:
        name = f"random_{tokens}_of_{length}_{groups}x{share}x{dim}"
        inputs = _random_inputs(rng, (tokens, length, groups, share, dim))
        yield Example(name, inputs, example_attributes(dim))
    for window in (1, 4, 29, 30, 1000):
        for dim in (8, 64):
            inputs = _random_inputs(rng, (4, 30, 2, 2, dim))
            yield Example(f"window_{window}_x{dim}", inputs, example_attributes(dim, window=window))
    for tokens, length, window in ((2, 210, 100), (1, 420, 205)):
        inputs = _random_inputs(rng, (tokens, length, 2, 4, 64))
        yield Example(f"window_of_blocks_{tokens}", inputs, example_attributes(64, window=window))
    yield from _degenerate_examples(rng)
    yield from _extreme_examples(rng)


def _random_inputs(
    rng: np.random.Generator, sizes: tuple[int, int, int, int, int]
) -> tuple[npt.NDArray[np.generic], ...]:
    """Return inputs; sizes: tokens, length, heads of the cache, queries to each, head dimension."""
    tokens, length, groups, share, dim = sizes
    return (
        draw.narrow(rng, 20, tokens, groups * share * dim),
        draw.codes(rng, length, groups, dim),
        np.abs(draw.narrow(rng, 20, length, groups)),
        draw.codes(rng, length, groups, dim),
        np.abs(draw.narrow(rng, 20, length, groups)),
    )


def _degenerate_examples(rng: np.random.Generator) -> Iterator[Example]:
    """Yield rows in which something is zero, or all scores are the same."""
    for name, port in (("query", 0), ("key", 1), ("value", 3)):
        inputs = list(_random_inputs(rng, (3, 20, 2, 2, 8)))
        inputs[port] = np.zeros_like(inputs[port])
        if port:  # a zero row of the cache has the absmax 0
            inputs[port + 1] = np.zeros_like(inputs[port + 1])
        yield Example(f"zero_{name}", tuple(inputs), example_attributes(8))
    query, key, key_absmax, value, value_absmax = _random_inputs(rng, (2, 40, 1, 2, 8))
    same = (np.repeat(key[:1], 40, axis=0), np.repeat(key_absmax[:1], 40, axis=0))
    yield Example("identical_scores", (query, *same, value, value_absmax), example_attributes(8))


def _extreme_examples(rng: np.random.Generator) -> Iterator[Example]:
    """Yield the largest magnitudes, the longest row, and scalings far from any model's."""
    query = draw.alternating(512, INT32_MAX, np.int32)[None]
    opposite = draw.alternating(2 * 512, 127, np.int8).reshape(2, 1, 512)
    opposite[0] *= -1
    absmax = np.full((2, 1), INT32_MAX, np.int32)
    largest = (query, opposite, absmax, opposite, absmax)
    for frame in (0, 9, 18, 30):
        yield Example(f"largest_frame_{frame}", largest, example_attributes(512, frame=frame))
    for exponent in (0, 40, 60, 80, 140):
        scaling = {"scaling_mantissa": INT32_MAX, "scaling_exponent": exponent, "window": 0}
        inputs = _random_inputs(rng, (2, 30, 2, 1, 8))
        yield Example(f"scaling_exponent_{exponent}", inputs, scaling)
    peaks = np.full((65_535, 1), INT32_MAX, np.int32)
    for dim in (2, 64):
        values = np.full((65_535, 1, dim), 127, np.int8)
        values[:, :, 1::2] = -127
        query, zeros = draw.alternating(dim, 5, np.int32)[None], np.zeros_like(values)
        yield Example(
            f"longest_row_x{dim}", (query, zeros, peaks, values, peaks), example_attributes(dim)
        )
