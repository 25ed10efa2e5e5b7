"""``--arithmetic ivit`` through the API: where its calibration comes from, and what is refused."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from edgellm import api
from edgellm.config import JsonFields
from edgellm.errors import ConfigError
from edgellm.exporters import tokenizer_files
from edgellm.exporters.architectures import bert, llama, vit
from edgellm.exporters.lowering.encoder_inventory import EncoderInventory
from edgellm.exporters.source import load_model


def write(folder: Path, config) -> Path:
    """A random checkpoint whose scores are too far apart for Shiftmax."""
    inventory = EncoderInventory()
    load_model(JsonFields(config, "config.json")).build(inventory)
    rng = np.random.default_rng(0)
    tensors = {item.name: rng.normal(0, 0.3, item.shape) for item in inventory.parameters}
    for name in tensors:
        if "query" in name or "key" in name:
            tensors[name] *= 8
    folder.mkdir()
    save_file({name: x.astype(np.float32) for name, x in tensors.items()},
              folder / "model.safetensors")  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    size = {"height": 28, "width": 28}
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": size}))
    tokenizer_files.write_byte_tokenizer(folder)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "images.npz"
    np.savez(path, images=np.random.default_rng(1).integers(0, 256, (6, 28, 28), np.uint8))
    return path


def test_images_calibrate_and_faults_are_told(tmp_path, images, caplog):
    checkpoint = write(tmp_path / "in", vit.TINY)
    with caplog.at_level(logging.WARNING):
        bundle = api.export(checkpoint, tmp_path / "out", arithmetic="ivit", calibration=images)

    assert (bundle.manifest.arithmetic, bundle.manifest.calibration) == ("ivit", "images.npz")
    assert "Shiftmax: scores need a scale of" in caplog.text
    assert "--arithmetic sound has no such limit" in caplog.text


def test_sentences_calibrate_and_the_built_in_text_is_the_default(tmp_path):
    checkpoint = write(tmp_path / "in", bert.TINY)
    bundle = api.export(checkpoint, tmp_path / "out", arithmetic="ivit")
    assert bundle.manifest.calibration == "built-in"

    lines = tmp_path / "lines.txt"
    lines.write_text("a dog runs\nthe grass is wet\n")
    bundle = api.export(checkpoint, tmp_path / "two", arithmetic="ivit", calibration=lines)
    assert bundle.manifest.calibration == "lines.txt"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"arithmetic": "ivit"}, "takes images like those that the model will see"),
        ({"arithmetic": "float"}, "allowed are sound, ivit"),
        ({"calibration": "x"}, "cannot be read"),
        ({"arithmetic": "ivit", "smooth": "on"}, "smooths already"),
        ({"smooth": "yes"}, "allowed are auto, on, off"),
        (
            {"calibration": "x", "smooth": "off"},
            "an encoder in the sound arithmetic is not calibrated",
        ),
        ({"arithmetic": "ivit", "calibration": "x"}, "cannot be read"),
        ({"arithmetic": "ivit", "calibration": "x", "calibration_range": "max"}, "allowed are"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, reason):
    checkpoint = write(tmp_path / "in", vit.TINY)
    with pytest.raises(ConfigError, match=reason):
        api.export(checkpoint, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_language_model_has_no_such_arithmetic(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(llama.TINY))
    with pytest.raises(ConfigError, match="language models have 'sound' alone"):
        api.export_random(tmp_path / "config.json", tmp_path / "out", arithmetic="ivit")
