from pathlib import Path

import pytest

from edgellm.runtime import doctor, process_memory


def findings() -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine()}


def test_this_machine_is_sound() -> None:
    found = findings()

    assert [finding for finding in found.values() if not finding.ok] == []
    assert set(doctor.REQUIRED) <= found.keys()


def test_a_missing_package_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "REQUIRED", ("numpy", "no-such-package"))
    monkeypatch.setattr(doctor, "OPTIONAL", ("no-such-extra",))
    found = findings()

    assert not found["no-such-package"].ok
    assert "pip install no-such-package" in found["no-such-package"].value
    assert found["no-such-extra"].ok
    assert found["numpy"].ok


def test_little_memory_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable: 1024 kB\n")
    monkeypatch.setattr(process_memory, "MEMINFO", tmp_path / "meminfo")

    assert not findings()["memory"].ok


def test_a_cache_that_is_a_file_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "file"))

    assert "EDGELLM_CACHE" in findings()["kernel cache"].value
    assert not findings()["kernel cache"].ok


def test_kernels_that_this_processor_lacks_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_KERNELS", "no-such-unit")

    assert "no-such-unit" in findings()["kernels"].value
    assert not findings()["kernels"].ok
