from pathlib import Path

import pytest

from edgellm.runtime import process_memory


def test_the_peak_includes_what_was_just_used() -> None:
    before = process_memory.peak_memory_bytes()
    block = bytearray(64 << 20)
    block[::4096] = b"x" * len(block[::4096])

    assert process_memory.peak_memory_bytes() >= max(before, 64 << 20)


def test_available_memory_is_what_the_system_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  123 kB\n")
    monkeypatch.setattr(process_memory, "MEMINFO", tmp_path / "meminfo")

    assert process_memory.available_memory_bytes() == 123 * 1024


@pytest.mark.parametrize("text", ["", "MemAvailable: none\n", "MemAvailable:\n"])
def test_without_it_all_memory_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "meminfo").write_text(text)
    monkeypatch.setattr(process_memory, "MEMINFO", tmp_path / "meminfo")

    assert process_memory.available_memory_bytes() == process_memory.total_memory_bytes() > 1 << 20
