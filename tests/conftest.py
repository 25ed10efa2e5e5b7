"""A small ternary bundle of random weights, exported once for all tests."""

import json
from pathlib import Path

import pytest

from edgellm import api
from edgellm.exporters.architectures import bitnet


@pytest.fixture(scope="session")
def random_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    (folder / "config.json").write_text(json.dumps(bitnet.TINY))
    return api.export_random(folder / "config.json", folder / "bundle").path
