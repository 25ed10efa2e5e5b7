import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgellm.errors import CheckpointError, ConfigError, MissingDependencyError
from edgellm.exporters.download import FILES, find_checkpoint, is_hub_name


def test_a_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    assert find_checkpoint(str(tmp_path)) == tmp_path
    assert not is_hub_name(str(tmp_path))


def test_a_directory_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="revision is for downloads only"):
        find_checkpoint(str(tmp_path), "main")


@pytest.mark.parametrize("name", ["nothing", "/no/such/folder", "a/b/c", "../a", "a/..", "a b/c"])
def test_what_is_neither_directory_nor_name_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no such directory"):
        find_checkpoint(name)


def test_without_huggingface_hub_it_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)

    with pytest.raises(MissingDependencyError, match=r'pip install "edgellm\[hub\]"'):
        find_checkpoint("org/model")


def test_a_name_is_downloaded_without_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def snapshot_download(name: str, **options: object) -> str:
        asked.update(options, name=name)
        return str(tmp_path)

    hub = ModuleType("huggingface_hub")
    hub.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)

    assert find_checkpoint("org/model", "v1") == tmp_path
    assert asked == {"name": "org/model", "revision": "v1", "allow_patterns": FILES}
    assert not [pattern for pattern in FILES if pattern.endswith((".py", ".bin", ".pt"))]


def test_a_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: object, **__: object) -> str:
        raise OSError("no\nnetwork")

    hub = ModuleType("huggingface_hub")
    hub.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)

    with pytest.raises(CheckpointError, match="org/model: cannot be downloaded: no network"):
        find_checkpoint("org/model")
