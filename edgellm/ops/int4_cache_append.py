"""Int4CacheAppend: CacheAppend in 4 bits a number."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.graph_names import PAST_LENGTH, TOKENS, present_name
from edgellm.int4 import BLOCK, INT4_LIMIT, pack_int4
from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._heads import quantize_heads
from edgellm.ops._integers import INT32_MAX
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import Demands, Use, divides
from edgellm.ops._work import moved

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="Int4CacheAppend",
    inputs=(
        Port("x", "int32", ("T", "M")),
        Port("past", "uint8", ("S", "H", "P")),
        Port("past_absmax", "int32", ("S", "H")),
    ),
    outputs=(
        Port("present", "uint8", ("S+T", "H", "P")),
        Port("present_absmax", "int32", ("S+T", "H")),
    ),
)
work = moved("T", "H", "P")


def demands(use: Use) -> Demands:
    """Demand that it continues its own input of the graph, in whole blocks of columns."""
    heads, half = use.sizes["H"], use.sizes["P"]
    in_place = tuple(present_name(name) for name in use.inputs[1:])
    appends = use.sizes["T"] == TOKENS and use.sizes["S"] == PAST_LENGTH
    return [
        (appends, "it appends the tokens to the past"),
        (use.outputs == in_place, f"its outputs are {', '.join(in_place)}"),
        (
            isinstance(heads, int) and isinstance(half, int) and use.sizes["M"] == 2 * heads * half,
            "a row is one vector for each key/value head",
        ),
        (divides(BLOCK // 2, half), f"a head is a multiple of {BLOCK} columns"),
    ]


def reference(
    x: npt.NDArray[np.int32],
    past: npt.NDArray[np.uint8],
    past_absmax: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Append ``round(7 * x / max|x|)`` of each head, and the max.

    Args:
        x: (T, M), M = H * D, |x| <= 2^31 - 1, D a multiple of 64.
        past: (S, H, D / 2) codes of -7 to 7 in ``int4/v1``.
        past_absmax: (S, H).
    """
    heads = x.reshape(x.shape[0], past.shape[1], 2 * past.shape[2])
    codes, absmax = quantize_heads(heads.astype(np.int64), INT4_LIMIT)
    packed = pack_int4(codes.astype(np.int8).reshape(-1, heads.shape[2]))
    present = np.concatenate([past, packed.reshape(-1, *past.shape[1:])])
    return present, np.concatenate([past_absmax, absmax[..., 0].astype(np.int32)])


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, past, past_absmax = b.inputs
    heads = x.to("int64").reshape(x.size(0), past.size(1), -1)
    codes, absmax = graph.quantize_heads(heads, INT4_LIMIT)
    halves = (codes + 8).to("uint8").reshape(x.size(0), past.size(1), -1, 2, BLOCK // 2)
    low, high = halves.take(0, axis=3), halves.take(1, axis=3)
    packed = (low | high.shift_left(4)).reshape(x.size(0), past.size(1), -1)
    new_absmax = absmax.reshape(-1, past.size(1)).to("int32")
    return b.function(b.concat([past, packed], axis=0), b.concat([past_absmax, new_absmax], axis=0))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(31)
    for past, tokens, heads, dim in ((5, 3, 2, 64), (0, 1, 1, 128), (0, 4, 3, 64), (1, 1, 5, 192)):
        x = draw.narrow(rng, 22, tokens, heads * dim)
        yield Example(f"random_{past}+{tokens}x{heads}x{dim}", (x, *_cache(rng, past, heads, dim)))
    x = draw.narrow(rng, 22, 2, 192)
    x[1, 64:128] = 0
    yield Example("zero_head", (x, *_cache(rng, 2, 3, 64)))
    peaks = np.zeros((2, 64), np.int32)
    peaks[0, :9] = [1, -1, 0, INT32_MAX, -INT32_MAX, 1, INT32_MAX - 1, 2**24, -(2**30)]
    peaks[1, 30:34] = [1, -1, 0, 1]
    yield Example("largest", (peaks, *_cache(rng, 0, 1, 64)))


def _cache(
    rng: np.random.Generator, past: int, heads: int, dim: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    return draw.nibbles(rng, past, heads, dim), np.abs(draw.narrow(rng, 22, past, heads))
