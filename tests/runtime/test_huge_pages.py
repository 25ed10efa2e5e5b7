"""Memory that fills huge pages, and what is asked of the system."""

from pathlib import Path

import numpy as np
import pytest

from edgellm.runtime import huge_pages
from edgellm.runtime.huge_pages import PAGE_BYTES, Memory

SIZE = 2 * PAGE_BYTES + 100


def test_memory_is_zero_aligned_and_as_large_as_asked() -> None:
    memory = Memory(SIZE)

    assert memory.bytes.ctypes.data % PAGE_BYTES == 0
    assert memory.bytes.shape == (SIZE,)
    assert not memory.bytes.any()


def test_bytes_stay_where_they_are_when_huge_pages_are_asked_for() -> None:
    memory = Memory(SIZE)
    content = np.frombuffer(np.random.default_rng(4).bytes(SIZE), np.uint8)
    memory.bytes[:] = content
    address = memory.bytes.ctypes.data
    memory.fill_huge()

    assert memory.bytes.ctypes.data == address
    np.testing.assert_array_equal(memory.bytes, content)


def test_memory_that_is_not_there_is_refused() -> None:
    with pytest.raises(MemoryError, match=str(1 << 62)):
        Memory(1 << 62)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("[always] madvise never", True), ("always [madvise] never", True), ("[never]", False)],
)
def test_the_system_says_whether_there_are_huge_pages(
    policy: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huge_pages, "ENABLED", tmp_path / "enabled")
    assert not huge_pages.offered()
    (tmp_path / "enabled").write_text(policy)
    monkeypatch.setattr(huge_pages.mmap, "MADV_HUGEPAGE", 14, raising=False)

    assert huge_pages.offered() == expected
