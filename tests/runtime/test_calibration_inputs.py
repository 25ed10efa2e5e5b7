"""What an encoder is calibrated on: folders, IDX and .npz files, lines of a text."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgellm.config import JsonFields
from edgellm.errors import ConfigError
from edgellm.exporters import tokenizer_files
from edgellm.image_processor import parse_image_processor
from edgellm.runtime.calibration_inputs import (
    MOST_INPUTS,
    random_images,
    random_texts,
    read_images,
    read_texts,
)
from edgellm.runtime.images import ImageReader
from edgellm.runtime.tokenizer import Tokenizer

PIXELS = np.random.default_rng(0).integers(0, 256, (300, 6, 5), np.uint8)


@pytest.fixture
def reader() -> ImageReader:
    """Of a model that takes 6 x 5 in grey."""
    processor = parse_image_processor(JsonFields({"size": {"height": 6, "width": 5}}, "p"), 1)
    return ImageReader(processor, (6, 5), 1)


def test_images_come_from_all_over_an_idx_file(reader: ImageReader, tmp_path: Path) -> None:
    header = bytes((0, 0, 8, 3)) + np.array(PIXELS.shape, ">u4").tobytes()
    (tmp_path / "images").write_bytes(header + PIXELS.tobytes())

    images = read_images(tmp_path / "images", reader)

    assert len(images) == MOST_INPUTS
    np.testing.assert_array_equal(images[0][..., 0], PIXELS[0])
    np.testing.assert_array_equal(images[-1][..., 0], PIXELS[-1])


@pytest.mark.parametrize("names", [("anything",), ("images", "labels")])
def test_images_come_from_an_npz_file(
    reader: ImageReader, tmp_path: Path, names: tuple[str, ...]
) -> None:
    arrays = dict(zip(names, (PIXELS[:7], np.arange(7)), strict=False))
    np.savez(tmp_path / "set.npz", **arrays)

    images = read_images(tmp_path / "set.npz", reader)

    np.testing.assert_array_equal(np.stack(images)[..., 0], PIXELS[:7])


def test_images_come_from_a_folder(reader: ImageReader, tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(PIXELS[number]).save(tmp_path / f"{number}.png")

    images = read_images(tmp_path, reader)

    np.testing.assert_array_equal(np.stack(images)[..., 0], PIXELS[:3])


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"a": PIXELS, "b": PIXELS}, "none is called 'images'"),
        ({"images": PIXELS.astype(np.float32)}, "needed is uint8"),
        ({"images": PIXELS[0]}, "needed is uint8"),
        ({"images": PIXELS[:0]}, "needed is uint8"),
        ({"images": np.array(["text"], object)}, "cannot be read"),
    ],
)
def test_other_arrays_are_refused(
    reader: ImageReader, tmp_path: Path, arrays: dict[str, np.ndarray], reason: str
) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(ConfigError, match=reason):
        read_images(tmp_path / "set.npz", reader)


def test_a_damaged_file_is_refused(reader: ImageReader, tmp_path: Path) -> None:
    (tmp_path / "set.npz").write_bytes(b"PK\3\4 and nothing more")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_images(tmp_path / "set.npz", reader)


def test_lines_of_a_text_are_cut_at_the_longest(tmp_path: Path) -> None:
    tokenizer_files.write_byte_tokenizer(tmp_path)
    (tmp_path / "lines.txt").write_text("a dog\n\n  \nruns over the grass<|endoftext|>x\n")

    texts = read_texts(tmp_path / "lines.txt", Tokenizer(tmp_path / "tokenizer.json", 288), 8)

    assert [len(ids) for ids in texts] == [5, 8, 1]


def test_the_built_in_text_serves_where_there_is_none(tmp_path: Path) -> None:
    tokenizer_files.write_byte_tokenizer(tmp_path)
    texts = read_texts(None, Tokenizer(tmp_path / "tokenizer.json", 288), 48)
    assert texts
    assert max(len(ids) for ids in texts) <= 48


def test_random_inputs_fit_the_model() -> None:
    assert {image.shape for image in random_images(6, 5, 3)} == {(6, 5, 3)}
    texts = random_texts(100, 20)
    assert all(1 <= len(ids) <= 20 and ids.max() < 100 for ids in texts)
