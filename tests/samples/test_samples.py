"""The samples run and print what they say."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SAMPLES = Path(__file__).resolve().parents[2] / "samples"


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(SAMPLES / script), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_quickstart_generates_streams_and_chats() -> None:
    output = run("quickstart.py", "--tokens", "12")

    assert [line[:12] for line in output.splitlines() if line.startswith("---")] == [
        "--- generate",
        "--- stream: ",
        "--- chat: me",
    ]
    assert "tokens/s, ended by length" in output


def test_export_your_model_exports_and_verifies(tmp_path: Path) -> None:
    output = run("export_your_model.py", str(SAMPLES / "stories-bitnet"), str(tmp_path / "b"))

    assert "bits a weight" in output
    assert "onnxruntime" in output


def test_see_digit_draws_what_counts_in_an_image(tmp_path: Path) -> None:
    picture = tmp_path / "seven.png"
    output = run("see_digit.py", "--image", str(SAMPLES / "digits" / "7.png"), "-o", str(picture))

    assert "7.png is 7; row" in output
    halves = np.hsplit(np.asarray(Image.open(picture), np.int16), 2)
    ink, heat = halves[0].max(axis=2) > 128, halves[1][..., 0] - halves[1][..., 2]
    assert heat[ink].mean() > 5 * heat[~ink].mean()  # the strokes count, not the paper


def test_see_digit_draws_a_confusion_matrix(tmp_path: Path) -> None:
    folder, picture = SAMPLES / "digits", tmp_path / "matrix.png"
    words = ("--images", str(folder), "--labels", str(folder / "labels.txt"), "-o", str(picture))
    output = run("see_digit.py", *words)

    assert output.startswith("10 of 10 are right (100.00%)")
    pixels = np.asarray(Image.open(picture))
    cells = pixels[70::44, 70::44][:10, :10]  # near the upper left corner of each
    blue = (cells == (25, 60, 140)).all(axis=2)
    np.testing.assert_array_equal(blue, np.eye(10, dtype=bool))


needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="the extra `train` is not installed"
)


@needs_torch
def test_train_bitnet_trains_a_checkpoint_that_can_be_exported(tmp_path: Path) -> None:
    """A few steps on a few stories."""
    import edgellm

    story = "Once upon a time there was a cat. The cat saw a dog. They ran and played. "
    text = tmp_path / "stories.txt"
    text.write_text("<|endoftext|>".join(story * (1 + i % 3) for i in range(60)))
    sizes = "--steps 3 --hidden-size 64 --intermediate-size 128 --layers 2 --heads 2 --context 64"
    arguments = [*sizes.split(), "--batch", "4", "--vocab-size", "320"]
    run("train_bitnet.py", str(text), *arguments, "--output", str(tmp_path / "checkpoint"))

    edgellm.export(tmp_path / "checkpoint", tmp_path / "bundle")


@needs_torch
def test_train_vit_learns_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Ten images of bars that stand at different places, which any model can tell apart."""
    import edgellm

    images = np.zeros((10, 28, 28), np.uint8)
    for number, image in enumerate(images):
        image[:, 2 * number + 4 : 2 * number + 8] = 255
    labels = np.arange(10, dtype=np.uint8)
    for name, array in (("images", images), ("labels", labels)):
        header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
        (tmp_path / name).write_bytes(header + array.tobytes())
    data = [str(tmp_path / name) for name in ("images", "labels")]
    words = [*data, "--test", *data, "--output", str(tmp_path / "checkpoint"), "--batch", "5"]
    words += ["--state", str(tmp_path / "state.pt"), "--hidden-size", "32"]
    run("train_vit.py", *words, "--epochs", "2")
    output = run("train_vit.py", *words, "--epochs", "4")

    assert "of 10 test images" in output
    edgellm.export(tmp_path / "checkpoint", tmp_path / "bundle")
    with edgellm.load(tmp_path / "bundle", task="image-classification") as model:
        assert [len(found) for found in model.classify(list(images), top=3)] == [3] * 10


def test_compare_devices_lists_costs_and_designs() -> None:
    lines = run("compare_devices.py").splitlines()

    assert lines[0].startswith("bitnet-2b-4t, 64 + 64 tokens")
    assert sum("J a token" in line for line in lines) == 4
    assert any(line.startswith("array.n=") for line in lines)
