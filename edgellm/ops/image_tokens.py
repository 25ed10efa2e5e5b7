"""ImageTokens: the token rows of images: class tokens, then patches, each with its position."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.graph_names import ENDS, IMAGES
from edgellm.ops import _body_integers as graph
from edgellm.ops import _examples as draw
from edgellm.ops._body import Body
from edgellm.ops._integers import INT32_MAX, round_shift, saturate
from edgellm.ops._ranges import RIGHT_SHIFT
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import Demands, Use
from edgellm.ops._work import elements

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="ImageTokens",
    inputs=(
        Port("acc", "int32", ("T", "N")),
        Port("ends", "int64", ("B",)),
        Port("multiplier", "int32", ("N",)),
        Port("prefix", "int32", ("F", "N")),
        Port("position", "int32", ("P", "N")),
    ),
    outputs=(Port("hidden", "int32", ("B*F+T", "N")),),
    attributes={"shift": RIGHT_SHIFT},
)
work = elements("add", binary=True)


def demands(use: Use) -> Demands:
    """Demand a position for each patch of the images of the call."""
    first, patches = use.sizes["F"], use.sizes["P"]
    if not isinstance(first, int) or not isinstance(patches, int):
        return [(False, "an image has a fixed number of patches")]
    rows = IMAGES if patches == 1 else f"{IMAGES}*{patches}"
    whole = first + patches == use.context_length
    return [
        (use.inputs[1] == ENDS, f"its images are counted by {ENDS}"),
        (use.sizes["T"] == rows, "it has a position for each patch of an image"),
        (whole, f"an image has {use.context_length} rows"),
    ]


def reference(
    acc: npt.NDArray[np.int32],
    ends: npt.NDArray[np.int64],
    multiplier: npt.NDArray[np.int32],
    prefix: npt.NDArray[np.int32],
    position: npt.NDArray[np.int32],
    *,
    shift: int,
) -> npt.NDArray[np.int32]:
    """Return the rows of each image: the prefix, then ``acc * multiplier * 2^-shift + position``.

    Args:
        acc: (T, N) sums of the patch embedding, T = B * P.
        ends: (B,) of which the length counts.
        multiplier: (N,) 0 <= multiplier < 2^31.
        prefix: (F, N) rows that every image begins with.
        position: (P, N) what is added to the patches of an image.
        shift: 1 to 62.
    """
    images, (count, columns) = ends.shape[0], position.shape
    wide = round_shift(acc.astype(np.int64) * multiplier, shift)
    patches = wide.reshape(images, count, columns) + position
    rows = saturate(patches, INT32_MAX).astype(np.int32)
    first = np.broadcast_to(prefix, (images, *prefix.shape))
    return np.concatenate([first, rows], axis=1).reshape(-1, columns)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    acc, ends, multiplier, prefix, position = b.inputs
    images, columns = ends.size(0), position.size(1)
    wide = graph.round_shift(acc.to("int64") * multiplier.to("int64"), b.attribute("shift"))
    patches = wide.reshape(images, position.size(0), columns) + position.to("int64")
    rows = graph.saturate(patches, INT32_MAX).to("int32")
    shape = b.concat([images, prefix.size(0), columns], axis=0)
    first = b.node("Expand", [prefix, shape], "int32")
    return b.function(b.concat([first, rows], axis=1).reshape(-1, columns))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(27)
    for images, first, patches, columns in (
        (1, 1, 1, 1),
        (2, 1, 9, 64),
        (3, 2, 4, 7),
        (5, 1, 1, 3),
    ):
        inputs = (
            draw.narrow(rng, 20, images * patches, columns),
            np.arange(1, images + 1) * (first + patches),
            draw.multipliers(rng, columns),
            draw.narrow(rng, 20, first, columns),
            draw.narrow(rng, 20, patches, columns),
        )
        yield Example(f"random_{images}x{first}+{patches}x{columns}", inputs, {"shift": 30})
    top = np.full((1, 3), INT32_MAX, np.int32)
    inputs = (top, np.array([2]), top[0], -top, top)
    for shift in (1, 62):
        yield Example(f"extremes_shift_{shift}", inputs, {"shift": shift})
