"""Weights are mapped or copied to huge pages: the same bytes, read-only, whatever is chosen."""

import os
from pathlib import Path

import numpy as np
import pytest

from edgellm.errors import BundleError, ConfigError
from edgellm.runtime import huge_pages, weights_memory
from edgellm.runtime.model import Model
from edgellm.runtime.weights_memory import ENVIRONMENT, map_weights, place_weights

SIZE = (5 << 20) + 64
"""Some whole huge pages, and a part of one."""


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(np.random.default_rng(3).bytes(SIZE))
    return path


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)


@pytest.fixture
def small_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that offers huge pages and has none of the file in them, and small copies."""
    (tmp_path / "enabled").write_text("always [madvise] never")
    (tmp_path / "smaps").write_text("")
    monkeypatch.setattr(huge_pages, "ENABLED", tmp_path / "enabled")
    monkeypatch.setattr(weights_memory, "SMAPS", tmp_path / "smaps")
    monkeypatch.setattr(weights_memory, "COPY_BYTES", SIZE)


@pytest.mark.parametrize("choice", ["mapped", "copied", "auto", ""])
def test_every_choice_gives_the_bytes_of_the_file(
    weights: Path, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, choice)
    placed = place_weights(weights)

    assert isinstance(placed, np.memmap) == (choice != "copied")
    assert not placed.flags.writeable
    assert placed.ctypes.data % 64 == 0
    np.testing.assert_array_equal(placed, np.fromfile(weights, np.uint8))


@pytest.mark.usefixtures("small_pages")
def test_weights_in_small_pages_are_copied(weights: Path) -> None:
    copy = place_weights(weights)

    assert not isinstance(copy, np.memmap)
    assert copy.ctypes.data % huge_pages.PAGE_BYTES == 0
    assert copy.tobytes() == weights.read_bytes()


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("kept", [0.5, 1.0])
def test_weights_in_huge_pages_stay_mapped(
    weights: Path, kept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_memory, "map_weights", lambda _: mapped)
    mapped = map_weights(weights)
    begin = mapped.ctypes.data
    lines = [f"{begin:x}-{begin + SIZE:x} r--s 00000000 08:01 1 weights.bin"]
    lines.append(f"FilePmdMapped: {int(kept * SIZE) // 1024} kB")
    weights_memory.SMAPS.write_text("\n".join(["7f0-7f1 r--p", "FilePmdMapped: 9 kB", *lines]))

    assert (place_weights(weights) is mapped) == (kept == 1.0)


@pytest.mark.usefixtures("small_pages")
def test_a_copy_leaves_memory_for_others(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_memory, "available_memory_bytes", lambda: 3 * SIZE)

    assert not isinstance(place_weights(weights, SIZE), np.memmap)
    assert isinstance(place_weights(weights, SIZE + 2), np.memmap)


@pytest.mark.usefixtures("small_pages")
def test_without_huge_pages_weights_stay_mapped(weights: Path) -> None:
    huge_pages.ENABLED.write_text("always madvise [never]")
    assert isinstance(place_weights(weights), np.memmap)

    huge_pages.ENABLED.unlink()
    assert isinstance(place_weights(weights), np.memmap)


def test_an_unknown_choice_is_refused(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "fast")

    with pytest.raises(ConfigError, match="EDGELLM_WEIGHTS is 'fast'; allowed are auto, mapped"):
        place_weights(weights)


def test_a_file_that_shrinks_is_refused(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "copied")
    mapped = map_weights(weights)
    monkeypatch.setattr(weights_memory, "map_weights", lambda _: mapped)
    os.truncate(weights, 1000)

    with pytest.raises(BundleError, match=f"ends after 1000 of {SIZE} bytes"):
        place_weights(weights)


def test_an_empty_file_has_no_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.bin").touch()
    for choice in ("mapped", "copied"):
        monkeypatch.setenv(ENVIRONMENT, choice)
        assert len(place_weights(tmp_path / "weights.bin")) == 0


def test_a_model_answers_the_same_from_a_copy(
    random_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model(random_bundle, threads=1) as model:
        expected = model.logits([3, 1, 4])
    monkeypatch.setenv(ENVIRONMENT, "copied")
    with Model(random_bundle, threads=1) as model:
        large = [a for a in model.engine.plan.constants.values() if a.nbytes >= 1024]
        assert not any(isinstance(array, np.memmap) for array in large)
        np.testing.assert_array_equal(model.logits([3, 1, 4]), expected)
