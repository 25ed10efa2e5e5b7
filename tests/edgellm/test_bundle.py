"""The bundle on disk: what a manifest may say, and that a writer leaves all or nothing."""

import json
import math
import os
from pathlib import Path

import pytest

from edgellm import bundle_writer
from edgellm.bundle import Bundle, Manifest, open_bundle
from edgellm.bundle_writer import BundleWriter
from edgellm.errors import BundleError, ExportError

FACTS = Manifest(
    task="text-generation",
    model_type="bitnet",
    vocab_size=8,
    hidden_size=4,
    num_hidden_layers=1,
    num_attention_heads=1,
    num_key_value_heads=1,
    head_dim=4,
    context_length=16,
    logits_frame=16,
)


def write(destination: Path, content: bytes = b"weights", *, force: bool = False) -> Bundle:
    with BundleWriter(destination, force=force) as writer:
        for name in ("model.onnx", "weights.bin"):
            with writer.open(name) as stream:
                stream.write(content)
        writer.write_manifest(FACTS)
        return writer.finish()


def change(directory: Path, **fields: object) -> Path:
    path = directory / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return directory


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("num_hidden_layers", 1 << 20, "allowed are 1 to 4096"),
        ("num_hidden_layers", True, "an integer is needed"),
        ("bos_token_id", "1", "an integer is needed"),
        ("vocab_size", 0, "allowed are 1 to"),
        ("num_parameters", -1, "allowed are 0 to"),
        ("bits_per_weight", math.nan, "allowed are 0 to"),
        ("bits_per_weight", math.inf, "allowed are 0 to"),
        ("bits_per_weight", 10**400, "allowed are 0 to"),
        ("logits_frame", -1, "allowed are 0 to 31"),
        ("bos_token_id", -1, "special token -1"),
        ("bos_token_id", 8, "special token 8"),
        ("eos_token_ids", [1, 10**30], "special token 1000"),
        ("eos_token_ids", [1.0], "a list of integers is needed"),
        ("bits_per_weight", "2", "a number is needed"),
        ("licence", None, "a text is needed"),
    ],
)
def test_numbers_out_of_range_are_named(
    tmp_path: Path, name: str, value: object, reason: str
) -> None:
    write(tmp_path / "b")
    change(tmp_path / "b", **{name: value})

    with pytest.raises(BundleError, match=f"{reason}"):
        open_bundle(tmp_path / "b")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../x", "leads out"),
        ("/etc/passwd", "leads out"),
        ("a" * 5000, "longer than 255 bytes"),
        ("\N{EURO SIGN}" * 100, "longer than 255 bytes"),
        ("a\0b", "not in the bundle"),
        ("\ud800", "not in the bundle"),
    ],
)
def test_names_of_files_are_checked(tmp_path: Path, name: str, reason: str) -> None:
    files = json.loads((write(tmp_path / "b").path / "manifest.json").read_text())["files"]
    change(tmp_path / "b", files={**files, name: {"size": 1, "sha256": "0" * 64}})

    with pytest.raises(BundleError, match=reason):
        open_bundle(tmp_path / "b")


def test_a_link_out_of_the_bundle_is_refused(tmp_path: Path) -> None:
    inside = write(tmp_path / "b").path / "weights.bin"
    inside.rename(tmp_path / "weights.bin")
    inside.symlink_to(tmp_path / "weights.bin")

    with pytest.raises(BundleError, match="a link that leads out"):
        open_bundle(tmp_path / "b")


def test_a_bundle_may_be_moved_and_linked_to(tmp_path: Path) -> None:
    moved = write(tmp_path / "b").path.rename(tmp_path / "a b \N{LATIN SMALL LETTER E WITH ACUTE}")
    (tmp_path / "link").symlink_to(moved)

    open_bundle(tmp_path / "link").verify_checksums()


def test_nothing_stays_of_an_export_that_fails(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        BundleWriter(tmp_path / "b") as writer,
        writer.open("golden/case"),
    ):
        raise KeyboardInterrupt

    assert not list(tmp_path.iterdir())


def test_force_replaces_a_bundle_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "b", b"old")
    with pytest.raises(ExportError, match="--force"):
        BundleWriter(tmp_path / "b")
    assert write(tmp_path / "b", b"new", force=True).weights_path.read_bytes() == b"new"
    (tmp_path / "folder").mkdir()
    with pytest.raises(ExportError, match="no bundle"):
        BundleWriter(tmp_path / "folder", force=True)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "folder"]


@pytest.mark.parametrize("target", ["b", "nowhere"])
def test_a_link_is_not_written_through(tmp_path: Path, target: str) -> None:
    write(tmp_path / "b")
    (tmp_path / "link").symlink_to(tmp_path / target)

    with pytest.raises(ExportError, match="is a link"):
        BundleWriter(tmp_path / "link", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "link"]


@pytest.mark.parametrize("force", [False, True])
def test_of_two_exports_at_once_one_is_kept_whole(tmp_path: Path, force: bool) -> None:
    with BundleWriter(tmp_path / "b", force=force) as slow:
        for name in ("model.onnx", "weights.bin"):
            slow.open(name).close()
        slow.write_manifest(FACTS)
        write(tmp_path / "b", b"quick")
        if force:
            assert slow.finish().weights_path.read_bytes() == b""
        else:
            with pytest.raises(ExportError, match="it is kept"):
                slow.finish()

    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    open_bundle(tmp_path / "b").verify_checksums()


def test_the_old_bundle_comes_back_when_the_new_one_cannot_be_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "b", b"old")
    replace = os.replace

    def failing(source: Path, destination: Path) -> None:
        if Path(source).name == "bundle":
            raise OSError(28, "No space left on device")
        replace(source, destination)

    monkeypatch.setattr(bundle_writer.os, "replace", failing)
    with pytest.raises(ExportError, match="No space left"):
        write(tmp_path / "b", b"new", force=True)

    assert open_bundle(tmp_path / "b").weights_path.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_the_longest_name_can_be_exported(tmp_path: Path) -> None:
    assert write(tmp_path / ("n" * 255)).path.is_dir()


def test_a_checkpoint_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(
        BundleError, match=r"is a checkpoint .*; make a bundle with: edgellm export"
    ):
        open_bundle(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ExportError, match=r"file/b: nothing can be written to .*file: "):
        BundleWriter(tmp_path / "file" / "b")


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(ExportError, match=r"b: No space left on device; free some"),
        BundleWriter(tmp_path / "b"),
        open("/dev/full", "wb", buffering=0) as stream,
    ):
        stream.write(b"a")

    assert not list(tmp_path.iterdir())
