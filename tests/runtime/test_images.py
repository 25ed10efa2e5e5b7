"""Image files to bytes: sizes, modes, crops, and what is no image."""

import copy
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgellm import api, registry
from edgellm.bundle import open_bundle
from edgellm.errors import ConfigError
from edgellm.exporters import architectures
from edgellm.exporters.source import JsonFields
from edgellm.image_processor import parse_image_processor
from edgellm.runtime.images import ImageReader, _crop, find_images, reader_of


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ImageReader:
    """Of a DeiT that takes 30 x 20 in colour."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "deit.json").write_text(json.dumps(registry.load(architectures, "deit").TINY))
    api.export_random(folder / "deit.json", folder / "deit")
    return reader_of(open_bundle(folder / "deit"))


def content(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def test_an_image_of_the_right_size_comes_through(reader: ImageReader) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
    for given in (pixels, Image.fromarray(pixels), content(Image.fromarray(pixels))):
        np.testing.assert_array_equal(reader.read(given), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_modes_of_eight_bits_are_converted(reader: ImageReader, mode: str) -> None:
    pixels = reader.read(Image.new("RGB", (50, 70), (255, 255, 255)).convert(mode))
    assert pixels.shape == (30, 20, 3)
    assert pixels.min() >= 250


def test_an_animation_counts_by_its_first_frame(reader: ImageReader) -> None:
    frames = [Image.new("RGB", (20, 30), color) for color in ("white", "black")]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    assert reader.read(stream.getvalue()).min() == 255


def test_a_camera_that_was_turned_is_turned_back(reader: ImageReader) -> None:
    image = Image.new("L", (30, 20), 0)
    image.paste(255, (0, 0, 30, 10))  # above, which is to the right when turned by 90 degrees
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    image.save(stream, "PNG", exif=exif)
    pixels = reader.read(stream.getvalue())
    assert pixels[:, 15].min() == 255
    assert pixels[:, 5].max() == 0


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"", "cannot be read as an image"),
        (b"no image at all", "cannot be read as an image"),
        (content(Image.effect_noise((64, 64), 50))[:900], "cannot be read as an image"),
        (content(Image.new("I;16", (20, 30))), "mode I;16"),
        (content(Image.new("1", (1 << 14, (1 << 13) + 1))), "134234112 pixels|allowed are"),
        (np.zeros((30, 20, 3), np.float32), "float32"),
        (np.zeros((30, 20), np.uint8), "needed is uint8"),
        (np.zeros((0, 20, 3), np.uint8), "no pixels"),
        (7, "cannot be read as an image"),
    ],
    ids=["empty", "text", "truncated", "deep", "huge", "float", "grey", "none", "number"],
)
def test_what_is_no_image_is_refused(reader: ImageReader, bad: object, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        reader.read(bad)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "ICO"])
def test_damaged_files_give_pixels_or_one_kind_of_error(reader: ImageReader, kind: str) -> None:
    """Whatever a decoder raises or warns of (warnings are errors here) stays inside."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.effect_noise((40, 30), 50).convert("RGB").save(stream, kind, exif=exif)
    whole, rng, refused = stream.getvalue(), np.random.default_rng(0), 0
    for number in range(150):
        damaged = np.frombuffer(whole, np.uint8).copy()
        reach = min(len(damaged), 200) if number % 2 else len(damaged)
        damaged[rng.integers(0, reach, 4)] = rng.integers(0, 256, 4)
        try:
            pixels = reader.read(damaged[: rng.integers(1, 2 * len(damaged))].tobytes())
        except ConfigError:
            refused += 1
        else:
            assert pixels.shape == (30, 20, 3)
    assert refused


def test_an_image_that_would_become_vast_is_refused(reader: ImageReader) -> None:
    """1 x 700,000 with the shorter edge at 20 is 20 x 14,000,000."""
    fields = {"size": {"shortest_edge": 20}, "crop_size": {"height": 30, "width": 20}}
    wide = copy.copy(reader)
    wide.processor = parse_image_processor(JsonFields(fields, "preprocessor_config.json"), 3)
    with pytest.raises(ConfigError, match="would be resized to 20 x 14000000"):
        wide.read(Image.new("L", (1, 700_000)))


def test_formats_that_start_other_programs_are_not_read(reader: ImageReader) -> None:
    with pytest.raises(ConfigError, match="cannot be read as an image; allowed are"):
        reader.read(content(Image.new("L", (20, 30)), "EPS"))


def test_a_missing_file_is_named(reader: ImageReader, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cat\.png"):
        reader.read(tmp_path / "cat.png")


def test_folders_give_their_images_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt", "page.pdf"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in find_images([tmp_path])] == ["a.JPG", "b.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no image in this folder"):
        find_images([tmp_path / "empty"])
    with pytest.raises(ConfigError, match="no such file"):
        find_images([tmp_path / "none"])


def test_crops_keep_the_middle_and_pad_with_black() -> None:
    pixels = np.arange(25, dtype=np.uint8).reshape(5, 5, 1) + np.uint8(1)
    np.testing.assert_array_equal(_crop(pixels, (3, 3)), pixels[1:4, 1:4])
    wide = _crop(pixels, (5, 7))
    assert (wide[:, 0].max(), wide[:, 6].max()) == (0, 0)
    np.testing.assert_array_equal(wide[:, 1:6], pixels)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"image_std": [0, 1, 1]}, "image_std"),
        ({"image_mean": [0.5]}, "3 numbers"),
        ({"size": {"longest_edge": 3}}, "shortest_edge"),
        ({"size": "large"}, "size"),
        ({"resample": 9}, "resample"),
        ({"rescale_factor": "much"}, "rescale_factor"),
    ],
)
def test_a_damaged_processor_is_refused(fields: dict[str, object], reason: str) -> None:
    from edgellm.errors import CheckpointError

    with pytest.raises(CheckpointError, match=reason):
        parse_image_processor(JsonFields(fields, "preprocessor_config.json"), 3)
