"""What a killed export leaves is removed by the next; what another one works in is not."""

import subprocess
import sys
from pathlib import Path

import pytest

from edgellm.bundle_writer import BundleWriter
from edgellm.work_folders import WorkFolder, remove_abandoned

PREFIX = ".edgellm-export-"
EXPORT = """
import sys
from edgellm.bundle_writer import BundleWriter
writer = BundleWriter(sys.argv[1])
writer.open("weights.bin").write(b"half")
print(writer.path.parent, flush=True)
sys.stdin.read()
"""


def begin_export(output: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start an export in a process of its own; it waits once it has begun to write."""
    process = subprocess.Popen(
        [sys.executable, "-c", EXPORT, str(output)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_what_a_killed_export_leaves_goes_with_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process, folder = begin_export(tmp_path / "a")
    with BundleWriter(tmp_path / "b"):
        assert folder.is_dir(), "removed while its export lives"
    kill(process)
    assert folder.is_dir()

    with BundleWriter(tmp_path / "b"):
        assert not folder.exists()

    assert not list(tmp_path.iterdir())
    assert f"{folder}: removed" in caplog.text


def test_a_bundle_that_was_being_replaced_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process, folder = begin_export(tmp_path / "a")
    kill(process)
    (folder / "old").mkdir()

    with BundleWriter(tmp_path / "b"):
        pass

    assert (folder / "old").is_dir()
    assert f"{folder / 'old'}: was being replaced" in caplog.text


def test_links_and_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "mine")
    (tmp_path / f"{PREFIX}file").write_text("mine")

    remove_abandoned(tmp_path, PREFIX, keep="old")

    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_of_this_process_is_held_until_it_is_removed(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path, PREFIX)
    remove_abandoned(tmp_path, PREFIX, keep="old")
    assert folder.path.is_dir()

    folder.remove()

    assert not list(tmp_path.iterdir())
