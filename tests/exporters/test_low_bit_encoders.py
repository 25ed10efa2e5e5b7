"""Encoders with fewer bits: every executor agrees, and calibration helps."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from edgellm import api, registry
from edgellm.config import JsonFields
from edgellm.errors import ConfigError
from edgellm.exporters import architectures, encoder_build, tokenizer_files
from edgellm.exporters.lowering.encoder_inventory import EncoderInventory
from edgellm.exporters.source import load_model

W3 = api.Quantization(name="w3a8", group_size=16)
MIXED = api.Quantization(name="auto", group_size=16, budget=4.5)


def write_checkpoint(path: Path, name: str, layers: int = 2) -> Path:
    """A random encoder with what belongs to it."""
    config = registry.load(architectures, name).TINY | {"num_hidden_layers": layers}
    inventory, rng = EncoderInventory(), np.random.default_rng(0)
    load_model(JsonFields(config, "config.json")).build(inventory)
    tensors = {}
    for parameter in inventory.parameters:
        fan = max(1, int(np.prod(parameter.shape[1:])))
        wide = rng.standard_normal(parameter.shape) / np.sqrt(fan)
        tensors[parameter.name] = (np.abs(wide) if len(parameter.shape) == 1 else wide).astype("f4")
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors")
    if name == "bert":
        tokenizer_files.write_byte_tokenizer(path)
    else:
        sides = config["image_size"]
        height, width = sides if isinstance(sides, list) else (sides, sides)
        processor = {"size": {"height": height, "width": width}}
        (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return path


def write_calibration(folder: Path, checkpoint: Path) -> Path:
    """Lines of text, or images as .npz."""
    config = json.loads((checkpoint / "config.json").read_text())
    if config["model_type"] == "bert":
        path = folder / "lines.txt"
        path.write_text("".join(f"the quick brown fox {n} jumps\n" for n in range(40)))
        return path
    sides = config["image_size"]
    height, width = sides if isinstance(sides, list) else (sides, sides)
    shape = (40, height, width, config["num_channels"])
    path = folder / "images.npz"
    np.savez(path, images=np.random.default_rng(2).integers(0, 256, shape, np.uint8))
    return path


@pytest.mark.parametrize(
    ("name", "quantization", "layers"),
    [("vit", W3, 2), ("deit", W3, 1), ("bert", W3, 2), ("vit", MIXED, 2), ("bert", MIXED, 1)],
    ids=lambda one: getattr(one, "name", one),
)
def test_executors_agree_on_a_low_bit_encoder(
    tmp_path: Path, name: str, quantization: api.Quantization, layers: int
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", name, layers)
    images = write_calibration(tmp_path, checkpoint)

    bundle = api.export(checkpoint, tmp_path / "out", calibration=images, quantization=quantization)

    linears = api.inspect(bundle.path).linears
    inside = [one for one in linears if "encoder" in one.name]
    codes = sum(one.bits * one.rows * one.columns for one in inside)
    # Patches and heads stay int8; scales take bits, too.
    assert 2 < codes / sum(one.rows * one.columns for one in inside) < 4.5
    assert {one.bits for one in linears if "encoder" not in one.name} <= {8}
    assert api.verify(bundle.path).passed
    assert not list(tmp_path.glob("*.quantizing"))


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_a_budget_that_is_too_small_is_refused_before_smoothing(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_build, "find_smoothing", pytest.fail)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", name)
    data = write_calibration(tmp_path, checkpoint)
    small = api.Quantization(name="auto", group_size=16, budget=1.0)

    with pytest.raises(ConfigError, match="the smallest of the schemes takes"):
        api.export(checkpoint, tmp_path / "out", calibration=data, quantization=small, smooth="on")


def test_random_encoders_are_rounded_plainly(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(registry.load(architectures, "bert").TINY))

    bundle = api.export_random(config, tmp_path / "out", quantization=W3)

    assert bundle.manifest.quantization == "W3A8, groups of 16"
    assert api.verify(bundle.path).passed


def test_images_to_calibrate_on_are_asked_for(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "vit")

    with pytest.raises(ConfigError, match="images like those that the model will see"):
        api.export(checkpoint, tmp_path / "out", quantization=W3)
    assert not (tmp_path / "out").exists()


def test_ivit_keeps_int8(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "vit")
    images = write_calibration(tmp_path, checkpoint)

    with pytest.raises(ConfigError, match="has int8 weights"):
        api.export(
            checkpoint,
            tmp_path / "out",
            arithmetic="ivit",
            calibration=images,
            quantization=W3,
        )
