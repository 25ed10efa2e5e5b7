"""CacheAppend: quantise new keys or values, one int8 row a head, and append them to the cache."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.graph_names import PAST_LENGTH, TOKENS, present_name
from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._heads import quantize_heads
from edgellm.ops._integers import INT32_MAX
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import Demands, Use
from edgellm.ops._work import moved

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="CacheAppend",
    inputs=(
        Port("x", "int32", ("T", "M")),
        Port("past", "int8", ("S", "H", "D")),
        Port("past_absmax", "int32", ("S", "H")),
    ),
    outputs=(
        Port("present", "int8", ("S+T", "H", "D")),
        Port("present_absmax", "int32", ("S+T", "H")),
    ),
)
work = moved("T", "M")


def demands(use: Use) -> Demands:
    """Demand that it continues its own input of the graph."""
    heads, dim = use.sizes["H"], use.sizes["D"]
    in_place = tuple(present_name(name) for name in use.inputs[1:])
    appends = use.sizes["T"] == TOKENS and use.sizes["S"] == PAST_LENGTH
    return [
        (appends, "it appends the tokens to the past"),
        (use.outputs == in_place, f"its outputs are {', '.join(in_place)}"),
        (
            isinstance(heads, int) and isinstance(dim, int) and use.sizes["M"] == heads * dim,
            "a row is one vector for each key/value head",
        ),
    ]


def reference(
    x: npt.NDArray[np.int32],
    past: npt.NDArray[np.int8],
    past_absmax: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32]]:
    """Append ``round(127 * x / max|x|)`` of each head, and the max.

    The scale of a row is its absmax, an integer in the fixed point of x: so all keys of a head are
    in one unit, and no calibration is needed.

    Args:
        x: (T, M), M = H * D, |x| <= 2^31 - 1.
        past: (S, H, D) codes.
        past_absmax: (S, H).
    """
    heads = x.reshape(x.shape[0], past.shape[1], past.shape[2])
    codes, absmax = quantize_heads(heads.astype(np.int64))
    present = np.concatenate([past, codes.astype(np.int8)])
    return present, np.concatenate([past_absmax, absmax[..., 0].astype(np.int32)])


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    x, past, past_absmax = b.inputs
    heads = x.to("int64").reshape(-1, past.size(1), past.size(2))
    codes, absmax = graph.quantize_heads(heads)
    present = b.concat([past, codes.to("int8")], axis=0)
    new_absmax = absmax.reshape(-1, past.size(1)).to("int32")
    return b.function(present, b.concat([past_absmax, new_absmax], axis=0))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(14)
    for past, tokens, heads, dim in ((5, 3, 2, 8), (0, 1, 1, 1), (0, 4, 3, 7), (1, 1, 2, 80)):
        x = draw.narrow(rng, 22, tokens, heads * dim)
        yield Example(f"random_{past}+{tokens}x{heads}x{dim}", (x, *_cache(rng, past, heads, dim)))
    x = draw.narrow(rng, 22, 2, 24)
    x[1, 8:16] = 0
    yield Example("zero_head", (x, *_cache(rng, 2, 3, 8)))
    peaks = np.array([[1, -1, 0, INT32_MAX, -INT32_MAX, 1, INT32_MAX - 1, 2**24, -(2**30)]])
    yield Example("largest", (peaks.astype(np.int32), *_cache(rng, 0, 3, 3)))


def _cache(
    rng: np.random.Generator, past: int, heads: int, dim: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int32]]:
    return draw.codes(rng, past, heads, dim), np.abs(draw.narrow(rng, 22, past, heads))
