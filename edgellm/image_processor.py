"""What preprocessor_config.json says: how an image becomes the pixels that a model expects.

Resizing and cropping are done by the runtime; rescaling and normalising are folded into the patch
embedding by the exporter, so that a graph takes bytes.
"""

from dataclasses import dataclass
from pathlib import Path

from edgellm.config import JsonFields
from edgellm.errors import CheckpointError, EdgeLLMError

FILE = "preprocessor_config.json"
MAX_SIDE = 1 << 14
NEAREST, LANCZOS, BILINEAR, BICUBIC, BOX, HAMMING = range(6)
"""Filters by Pillow's numbers, which transformers writes."""
DEFAULT_MEAN = 0.5
DEFAULT_STD = 0.5

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class ImageProcessor:
    """The steps in their order: resize, crop, then ``(byte * rescale_factor - mean) / std``.

    Attributes:
        resize_to: height and width; None keeps the image's own.
        shortest_edge: the smaller side gets this size, the other the same factor; 0: not so.
        resample: filter, by Pillow's number.
        crop_to: height and width of the middle that is kept; None keeps all.
        rescale_factor: 1 if nothing is rescaled.
        image_mean: of each channel.
        image_std: of each channel.
    """

    resize_to: Size | None
    shortest_edge: int
    resample: int
    crop_to: Size | None
    rescale_factor: float
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]


def read_image_processor(
    path: Path, channels: int, error: type[EdgeLLMError] = CheckpointError
) -> ImageProcessor:
    """Read and check the file.

    Args:
        path: preprocessor_config.json.
        channels: of the model's images.
        error: the class of what is raised.

    Raises:
        EdgeLLMError: of the class ``error``: the file is missing, or a field is not what is needed.
    """
    return parse_image_processor(JsonFields.read(path, error), channels)


def parse_image_processor(fields: JsonFields, channels: int) -> ImageProcessor:
    """Check the content of the file; raises as ``read_image_processor``."""
    resize = fields.flag("do_resize", default=True) and fields.has("size")
    edge, size = _read_size(fields, "size") if resize else (0, None)
    crop = fields.flag("do_center_crop", default=False) and fields.has("crop_size")
    crop_edge, crop_to = _read_size(fields, "crop_size") if crop else (0, None)
    if crop_edge:
        crop_to = (crop_edge, crop_edge)
    normalize = fields.flag("do_normalize", default=True)
    mean = _read_channels(fields, "image_mean", channels, DEFAULT_MEAN) if normalize else ()
    std = _read_channels(fields, "image_std", channels, DEFAULT_STD) if normalize else ()
    if any(value <= 0 for value in std):
        raise fields.fail("image_std", "numbers greater than 0 are needed")
    rescale = fields.flag("do_rescale", default=True)
    return ImageProcessor(
        resize_to=size,
        shortest_edge=edge,
        resample=fields.integer("resample", BILINEAR, low=NEAREST, high=HAMMING),
        crop_to=crop_to,
        rescale_factor=fields.number("rescale_factor", 1 / 255, high=1e3) if rescale else 1.0,
        image_mean=mean or (0.0,) * channels,
        image_std=std or (1.0,) * channels,
    )


def _read_size(fields: JsonFields, name: str) -> tuple[int, Size | None]:
    """Return (shortest edge, None) or (0, (height, width))."""
    if not isinstance(fields.values[name], dict):
        side = fields.integer(name, high=MAX_SIDE)
        return 0, (side, side)
    section = fields.section(name)
    if section is None:
        raise fields.fail(name, "a number or an object is needed")
    if section.has("height") and section.has("width"):
        return 0, (
            section.integer("height", high=MAX_SIDE),
            section.integer("width", high=MAX_SIDE),
        )
    if set(section.values) != {"shortest_edge"}:
        raise fields.fail(name, 'allowed are {"height", "width"} and {"shortest_edge"}')
    return section.integer("shortest_edge", high=MAX_SIDE), None


def _read_channels(
    fields: JsonFields, name: str, channels: int, default: float
) -> tuple[float, ...]:
    values = fields.values.get(name)
    if values is None:
        return (default,) * channels
    values = values if isinstance(values, list) else [values] * channels
    numbers = [value for value in values if type(value) in (int, float) and abs(value) < 1e6]
    if len(numbers) != channels or len(values) != channels:
        raise fields.fail(name, f"{channels} numbers are needed, one a channel")
    return tuple(float(value) for value in numbers)
