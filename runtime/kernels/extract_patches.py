"""ExtractPatches: images of bytes to rows of int8 codes, a row a patch."""

import numpy as np
import numpy.typing as npt

from edgellm.runtime.kernels._jit import kernel


@kernel("ExtractPatches")
def extract_patches(
    thread: int,
    threads: int,
    pixels: npt.NDArray[np.uint8],  # (B, R, P, S, K)
    codes: npt.NDArray[np.int8],  # (B * R * S, P * K)
) -> None:
    """Split by patches."""
    images, rows, height, across, width = pixels.shape
    for patch in range(thread, images * rows * across, threads):
        image, row, column = patch // (rows * across), patch // across % rows, patch % across
        for line in range(height):
            source = pixels[image, row, line, column]
            out = codes[patch, line * width : (line + 1) * width]
            for k in range(width):
                out[k] = np.int16(source[k]) - np.int16(128)
