"""The bundles of the golden tests: the embedded checkpoint, and random weights of some shapes.

$EDGELLM_GOLDEN_BUNDLES names a folder that has them already: so the tests run on another machine on
the bundles that were exported, and verified, here (``make test-arm``).
"""

import os
from pathlib import Path

import pytest

from edgellm import api

HERE = Path(__file__).resolve().parent
CHECKPOINT = HERE.parents[1] / "samples" / "stories-bitnet"
NAMES = ["stories-bitnet", *sorted(path.stem for path in (HERE / "configs").glob("*.json"))]


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle for each name."""
    if given := os.environ.get("EDGELLM_GOLDEN_BUNDLES"):
        return Path(given)
    folder = tmp_path_factory.mktemp("golden")
    api.export(CHECKPOINT, folder / CHECKPOINT.name)
    for config in (HERE / "configs").glob("*.json"):
        api.export_random(config, folder / config.stem)
    return folder


@pytest.fixture(params=NAMES)
def bundle(request: pytest.FixtureRequest, bundles: Path) -> Path:
    """Each bundle in turn."""
    return bundles / request.param
