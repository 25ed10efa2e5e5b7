"""Image files to the bytes that a bundle takes: decode, orient, resize, crop, as transformers does.

Pillow does the decoding and resizing (the extra ``vision``). An animation counts by its first
frame; alpha is dropped.
"""

import io
import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgellm.bundle import Bundle
from edgellm.errors import BundleError, ConfigError, MissingDependencyError
from edgellm.image_processor import FILE, ImageProcessor, Size, read_image_processor

if TYPE_CHECKING:
    from PIL.Image import Image

    ImageLike = str | os.PathLike[str] | bytes | npt.NDArray[np.uint8] | Image

MAX_PIXELS = 1 << 27
"""Of one image: 400 MB when decoded. More is refused before it is."""
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats that are read. Of the others, EPS would start another program."""
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError,
          RuntimeError, struct.error)  # fmt: skip
"""What Pillow's decoders raise over damaged files."""
MODES = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "RGBa",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
)
"""Pillow's modes of 8 bits a channel."""
COLORS = {1: "L", 3: "RGB", 4: "RGBA"}

Pixels = npt.NDArray[np.uint8]


class ImageReader:
    """Reads images for one model."""

    def __init__(self, processor: ImageProcessor, size: Size, channels: int) -> None:
        """Keep what preprocessor_config.json says, and what the model takes."""
        self.processor = processor
        self.size = size
        self.channels = channels

    def read(self, image: "ImageLike") -> Pixels:
        """Return the bytes (height, width, channels) that the model takes.

        Args:
            image: a path, the content of a file, a Pillow image, or an array of bytes (height,
                width) or (height, width, channels).

        Raises:
            ConfigError: no image, a damaged or too large one, or one of a kind that has no bytes.
            MissingDependencyError: it takes Pillow to read it.
        """
        if isinstance(image, np.ndarray):
            array = self._checked_array(image)
            if array.shape[:2] == self.size:
                return array
            image = self._image_of(array)
        return self._process(image)

    def _checked_array(self, array: npt.NDArray[np.generic]) -> Pixels:
        wide = array[..., None] if array.ndim == 2 else array
        if wide.dtype != np.uint8 or wide.ndim != 3 or wide.shape[2] != self.channels:
            raise ConfigError(
                f"the array is {array.dtype} {array.shape}; needed is uint8 (height, width, "
                f"{self.channels})"
            )
        if 0 in wide.shape:
            raise ConfigError(f"the array {array.shape} has no pixels")
        return wide.astype(np.uint8, copy=False)

    def _image_of(self, array: Pixels) -> "Image":
        with _pillow() as library:
            if self.channels not in COLORS:
                raise ConfigError(f"images of {self.channels} channels must be {self.size}")
            flat = array[..., 0] if self.channels == 1 else array
            return library.fromarray(np.ascontiguousarray(flat))

    def _process(self, source: Any) -> Pixels:  # noqa: ANN401
        if self.channels not in COLORS:
            raise ConfigError(f"images of {self.channels} channels are given as arrays")
        with _pillow() as library, _refusals_named(source):
            if isinstance(source, library.Image):
                pixels = self._decode(source)
            else:
                with _open(source) as image:
                    pixels = self._decode(image)
        pixels = _crop(pixels.reshape(*pixels.shape[:2], self.channels), self.processor.crop_to)
        if pixels.shape[:2] != self.size:
            raise ConfigError(
                f"{_name(source)}: is {pixels.shape[:2]} after {FILE}; the model takes {self.size}"
            )
        return pixels

    def _decode(self, image: "Image") -> Pixels:
        converted = _convert(image, COLORS[self.channels])
        return np.asarray(self._resize(converted), np.uint8)

    def _resize(self, image: "Image") -> "Image":
        target = self.processor.resize_to
        if edge := self.processor.shortest_edge:
            short, long = sorted(image.size)
            longer = int(edge * long / short)
            if edge * longer > MAX_PIXELS:
                raise ConfigError(
                    f"the image is {image.width} x {image.height}, which would be resized to "
                    f"{edge} x {longer}; allowed are {MAX_PIXELS} pixels"
                )
            target = (edge, longer) if image.height <= image.width else (longer, edge)
        if target is None or target == (image.height, image.width):
            return image
        return image.resize((target[1], target[0]), self.processor.resample)


def reader_of(bundle: Bundle) -> ImageReader:
    """Return the reader that a bundle's preprocessor_config.json describes.

    Raises:
        BundleError: the file is missing or damaged.
    """
    facts = bundle.manifest
    path = bundle.file(FILE)
    if path is None:
        raise BundleError(f"{bundle.path}: its manifest lists no {FILE}")
    processor = read_image_processor(path, facts.num_channels, BundleError)
    return ImageReader(processor, (facts.image_height, facts.image_width), facts.num_channels)


def _open(source: Any) -> "Image":  # noqa: ANN401
    from PIL import Image, UnidentifiedImageError

    content = io.BytesIO(source) if isinstance(source, bytes) else Path(source)
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]
    try:
        return Image.open(content, formats=known)
    except UnidentifiedImageError as error:
        raise ConfigError(f"cannot be read as an image; allowed are {', '.join(known)}") from error


def _convert(image: "Image", mode: str) -> "Image":
    from PIL import ImageOps

    if image.width * image.height > MAX_PIXELS:
        raise ConfigError(
            f"the image is {image.width} x {image.height}; allowed are {MAX_PIXELS} pixels"
        )
    if image.mode not in MODES:
        raise ConfigError(
            f"the image has mode {image.mode}; convert it to 8 bits a channel (grey or RGB)"
        )
    return ImageOps.exif_transpose(image).convert(mode)


def _crop(pixels: Pixels, size: Size | None) -> Pixels:
    """Keep the middle; where the image is smaller, put it in the middle of black."""
    if size is None or size == pixels.shape[:2]:
        return pixels
    out = np.zeros((*size, pixels.shape[2]), np.uint8)
    places = []
    for have, want in zip(pixels.shape[:2], size, strict=True):
        first = (have - want) // 2 if have >= want else -((want - have + 1) // 2)
        places.append((max(first, 0), max(-first, 0), min(have, want)))
    (top, down, rows), (left, right, columns) = places
    out[down : down + rows, right : right + columns] = pixels[
        top : top + rows, left : left + columns
    ]
    return out


@contextmanager
def _pillow() -> Iterator[Any]:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "reading images needs Pillow: pip install 'edgellm[vision]'"
        ) from error
    yield Image


@contextmanager
def _refusals_named(source: object) -> Iterator[None]:
    """Turn what Pillow raises over a bad file into one kind of error that names it.

    Its warnings are of metadata that nobody asks for, and of sizes, which are checked here.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ConfigError as error:
        raise ConfigError(f"{_name(source)}: {error}") from error
    except Image.DecompressionBombError as error:
        raise ConfigError(f"{_name(source)}: {error}") from error
    except DAMAGE as error:
        raise ConfigError(f"{_name(source)}: cannot be read as an image: {error}") from error


def _name(source: object) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else "the image"


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Return the files, and of each folder the images in it by their suffixes, by name.

    Raises:
        ConfigError: there is no such file or folder, or a folder has no image.
    """
    with _pillow() as library:
        library.init()
        suffixes = {suffix for suffix, kind in library.EXTENSION.items() if kind in FORMATS}
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
            if not inside:
                raise ConfigError(f"{path}: no image in this folder")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise ConfigError(f"{path}: no such file or folder")
    return found
