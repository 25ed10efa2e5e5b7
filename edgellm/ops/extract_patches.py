"""ExtractPatches: images of bytes to rows of int8 codes, a row a patch.

A convolution whose stride is its kernel is then an Int8Linear. Rescaling and normalising of pixels
are part of that linear's weights and bias: codes are ``pixel - 128``.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.graph_names import PIXELS
from edgellm.ops._body import Body
from edgellm.ops._schema import Example, OpSchema, Port
from edgellm.ops._use import Demands, Use, at_most
from edgellm.ops._work import moved

if TYPE_CHECKING:
    from onnx import FunctionProto

SCHEMA = OpSchema(
    name="ExtractPatches",
    inputs=(Port("pixels", "uint8", ("B", "R", "P", "S", "K")),),
    outputs=(Port("codes", "int8", ("B*R*S", "P*K")),),
)
work = moved("B", "R", "P", "S", "K")

MAX_PATCH_BYTES = 131_071


def demands(use: Use) -> Demands:
    """Demand the images of the call."""
    height, width = use.sizes["P"], use.sizes["K"]
    small = isinstance(height, int) and at_most(width, MAX_PATCH_BYTES // height)
    return [
        (use.inputs[0] == PIXELS, f"its images are the input {PIXELS}"),
        (small, f"a patch has at most {MAX_PATCH_BYTES} bytes"),
    ]


def reference(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Return ``pixel - 128`` of each patch.

    Args:
        pixels: (images, rows of patches, patch height, patches a row, patch width * channels): an
            image (height, width, channels) in another shape, its bytes in the same order.

    Returns:
        (patches, patch height * patch width * channels), images and their patches in order;
        codes are in [-128, 127].
    """
    patches = pixels.transpose(0, 1, 3, 2, 4)
    flat = patches.reshape(-1, pixels.shape[2] * pixels.shape[4])
    return (flat ^ np.uint8(128)).view(np.int8)


def body() -> "FunctionProto":
    """Return the operator in standard ONNX operators."""
    b = Body(SCHEMA)
    (pixels,) = b.inputs
    patches = pixels.transpose(0, 1, 3, 2, 4)
    rows = patches.reshape(-1, pixels.size(2) * pixels.size(4))
    return b.function((rows.to("int64") - 128).to("int8"))


def examples() -> Iterator[Example]:
    """Yield inputs on which every executor must agree."""
    rng = np.random.default_rng(26)
    for shape in ((1, 1, 1, 1, 1), (2, 7, 4, 7, 4), (3, 2, 5, 3, 9), (1, 3, 16, 2, 48)):
        pixels = rng.integers(0, 256, shape, np.uint8)
        yield Example(f"random_{'x'.join(map(str, shape))}", (pixels,))
    every = np.arange(256, dtype=np.uint8).reshape(1, 4, 4, 4, 4)
    yield Example("every_byte", (every,))
