"""The patch embedding on bytes: rescaling and normalising of pixels folded into its weights."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.exporters.lowering.encoder_interface import ImageEmbedding
from edgellm.exporters.weights import WeightSource

ZERO_POINT = 128
"""ExtractPatches gives byte - 128."""


@dataclass(frozen=True)
class PixelScale:
    """What the bytes of each channel mean: ``(byte * factor - mean) / std``."""

    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


def fold_pixels(
    weights: WeightSource, tokens: ImageEmbedding, pixels: PixelScale
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Return the linear that takes codes of bytes.

    Returns:
        Its weight (hidden, height * width * channels), columns in the order of ExtractPatches, and
        its bias (hidden,): ``weight @ (byte - 128) + bias`` is the convolution of a patch.
    """
    hidden, cut = tokens.hidden_size, tokens.patches
    shape = (hidden, cut.channels, cut.height, cut.width)
    kernel = weights.tensor(f"{tokens.projection}.weight", shape).astype(np.float64)
    bias = weights.vector(f"{tokens.projection}.bias", hidden).astype(np.float64)
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in (pixels.mean, pixels.std))
    middle = (ZERO_POINT * pixels.factor - mean) / std
    folded = (kernel * (pixels.factor / std)).transpose(0, 2, 3, 1).reshape(hidden, -1)
    return folded.astype(np.float32), bias + (kernel * middle).sum(axis=(1, 2, 3))
