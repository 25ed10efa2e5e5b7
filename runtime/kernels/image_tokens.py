"""ImageTokens: the token rows of images: class tokens, then patches, each with its position."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel
from edgellm.runtime.kernels._scalar import INT32_MAX, clamp, round_shift

Ints = npt.NDArray[np.int32]


@kernel("ImageTokens")
def image_tokens(
    thread: int,
    threads: int,
    acc: Ints,  # (B * P, N)
    ends: npt.NDArray[np.int64],  # (B,)
    multiplier: Ints,  # (N,)
    prefix: Ints,  # (F, N)
    position: Ints,  # (P, N)
    hidden: Ints,  # (B * (F + P), N)
    shift: int,
) -> None:
    """Split by rows."""
    first, patches = prefix.shape[0], position.shape[0]
    for t in range(thread, ends.shape[0] * (first + patches), threads):
        image, place = t // (first + patches), t % (first + patches)
        out = hidden[t]
        if place < first:
            for n in range(out.shape[0]):
                out[n] = prefix[place, n]
            continue
        row, added = acc[image * patches + place - first], position[place - first]
        for n in range(out.shape[0]):
            wide = round_shift(np.int64(row[n]) * np.int64(multiplier[n]), shift)
            out[n] = clamp(wide + np.int64(added[n]), -INT32_MAX, INT32_MAX)
