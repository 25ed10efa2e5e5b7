"""Inputs that an encoder is calibrated on: images or sentences of the user, or random ones."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.errors import ConfigError
from edgellm.runtime.calibration import load_calibration_text
from edgellm.runtime.encoder_evaluate import read_idx
from edgellm.runtime.encoder_golden import soft_images
from edgellm.runtime.evaluate import SEPARATOR
from edgellm.runtime.images import ImageReader, find_images
from edgellm.runtime.tokenizer import Tokenizer

MOST_INPUTS = 256
"""More make no scale better: of vit-mnist 16, 64 and 256 images give 4,812, 4,809 and 4,809 right
answers of 5,000."""
MOST_TO_QUANTIZE = 1024
"""To find codes for weights takes more."""
RANDOM_INPUTS = 16
SEED = 11
IMAGES = "images"
"""Which array of an .npz file with several has the images."""

Pixels = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int64]


def read_images(path: Path, reader: ImageReader, most: int = MOST_INPUTS) -> list[Pixels]:
    """Return some images (height, width, channels) from all over a set.

    Args:
        path: a folder of images, an IDX file or an .npz file of bytes.
        reader: makes them what the model takes.
        most: how many at most.

    Raises:
        ConfigError: there is none, or one cannot be read.
    """
    if path.is_dir():
        return [reader.read(file) for file in _spread(find_images([path]), most)]
    images = _read_npz(path) if path.suffix == ".npz" else read_idx(path, 3)
    return [reader.read(image) for image in _spread(images, most)]


def _read_npz(path: Path) -> npt.NDArray[np.generic]:
    try:
        if not zipfile.is_zipfile(path):
            raise ConfigError(f"{path}: cannot be read as arrays: it is no .npz file")
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            names = arrays.files
            name = names[0] if len(names) == 1 else IMAGES
            if name not in names:
                raise ConfigError(f"{path}: has {len(names)} arrays, none is called {IMAGES!r}")
            images: npt.NDArray[np.generic] = arrays[name]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: cannot be read as arrays: {error}") from error
    if images.ndim not in (3, 4) or images.dtype != np.uint8 or len(images) == 0:
        raise ConfigError(
            f"{path}: has {images.dtype} {images.shape}; needed is uint8 (images, height, width) "
            "or (images, height, width, channels)"
        )
    return images


def read_texts(
    path: Path | None, tokenizer: Tokenizer, longest: int, most: int = MOST_INPUTS
) -> list[Ids]:
    """Return the ids of some lines from all over a text.

    Args:
        path: of the text; None: the built-in one.
        tokenizer: of the model.
        longest: most tokens of a line; what is over is left out.
        most: how many lines at most.

    Raises:
        ConfigError: the text cannot be read, or has no token.
    """
    content = load_calibration_text(path).content.replace(SEPARATOR, "\n")
    lines = [line for line in content.split("\n") if line.strip()]
    ids = [np.array(tokenizer.encode(line)[:longest], np.int64) for line in _spread(lines, most)]
    return [text for text in ids if len(text)]


def random_images(height: int, width: int, channels: int) -> list[Pixels]:
    """Return images for a model of random weights."""
    rng = np.random.default_rng(SEED)
    return list(soft_images(rng, (RANDOM_INPUTS, height, width, channels)))


def random_texts(vocab_size: int, longest: int) -> list[Ids]:
    """Return ids for a model of random weights."""
    rng = np.random.default_rng(SEED)
    lengths = rng.integers(1, min(longest, 64), RANDOM_INPUTS, endpoint=True)
    return [rng.integers(0, vocab_size, length) for length in lengths]


def _spread(items: Sequence[Any] | npt.NDArray[Any], most: int) -> list[Any]:
    count = min(len(items), most)
    return [items[index] for index in np.linspace(0, len(items) - 1, count).astype(int)]
