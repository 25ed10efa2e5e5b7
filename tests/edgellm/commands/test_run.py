"""``edgellm run``: what it says of bundles that are not what they should be."""

import json
import shutil
from pathlib import Path


def test_a_vast_value_does_not_make_a_vast_message(
    random_bundle: Path, tmp_path: Path, main
) -> None:
    bundle = shutil.copytree(random_bundle, tmp_path / "b")
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "task": ["x" * 100_000]}))

    status, _, err = main("run", bundle, "-p", "a")

    assert status == 1
    assert "manifest.json: task is [" in err
    assert err.endswith("a text is needed\n")
    assert len(err) < 2100
