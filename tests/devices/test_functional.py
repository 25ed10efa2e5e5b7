"""Every kind of device computes the integers of the CPU: ternary, groups of 4 bits, images."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgellm import api, device_api
from edgellm.bundle import open_bundle
from edgellm.devices import _catalog
from edgellm.exporters.architectures import llama, vit

COMPUTING = {
    _catalog.describe(name).device.model: name
    for name in _catalog.names()
    if _catalog.describe(name).device.model != "null"
}
"""One device of each model; null computes nothing."""
STORIES = Path(__file__).resolve().parents[2] / "samples" / "stories-bitnet"
BUNDLES = ("random_bundle", "default_bundle", "grouped_bundle", "image_bundle")


@pytest.fixture(scope="session")
def default_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint that comes with edgellm."""
    return api.export(STORIES, tmp_path_factory.mktemp("default") / "bundle").path


@pytest.fixture(scope="session")
def grouped_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of W4A8 with groups, of random weights."""
    folder = tmp_path_factory.mktemp("grouped")
    (folder / "config.json").write_text(json.dumps(llama.TINY))
    quantization = api.Quantization(name="w4a8", group_size=32)
    return api.export_random(
        folder / "config.json", folder / "bundle", quantization=quantization
    ).path


@pytest.fixture(scope="session")
def image_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image classifier of random weights."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "config.json").write_text(json.dumps(vit.TINY))
    return api.export_random(folder / "config.json", folder / "bundle").path


def test_a_classifier_on_a_device_gives_the_same_logits(image_bundle: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, *image_size(image_bundle)), np.uint8)
    with api.load(image_bundle, task="image-classification") as model:
        expected = model.logits(images)

    with api.load(image_bundle, task="image-classification", device="reference") as model:
        assert np.array_equal(model.logits(images), expected)


def image_size(bundle: Path) -> tuple[int, int, int]:
    facts = open_bundle(bundle).manifest
    return facts.image_height, facts.image_width, facts.num_channels


@pytest.mark.parametrize("name", COMPUTING.values())
@pytest.mark.parametrize("bundle", BUNDLES)
def test_integers_are_those_of_the_cpu(
    name: str, bundle: str, request: pytest.FixtureRequest
) -> None:
    report = device_api.functional(request.getfixturevalue(bundle), name, prompt=5, new=2)

    assert report.difference == ""
    assert report.integers > 1000
    assert sum(report.on_device.values()) > 0
