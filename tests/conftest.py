"""What all tests share: settings of the property tests, and a small ternary bundle."""

import json
from pathlib import Path

import pytest
from hypothesis import settings

from edgellm import api
from edgellm.exporters.architectures import bitnet

# A time limit an example would make slow or busy machines fail.
settings.register_profile("any-machine", settings(), deadline=None)
settings.load_profile("any-machine")


@pytest.fixture(scope="session")
def random_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of random weights, exported once."""
    folder = tmp_path_factory.mktemp("random")
    (folder / "config.json").write_text(json.dumps(bitnet.TINY))
    return api.export_random(folder / "config.json", folder / "bundle").path
