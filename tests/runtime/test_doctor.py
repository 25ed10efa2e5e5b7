from dataclasses import replace
from pathlib import Path

import pytest

from edgellm.runtime import cpu, doctor, limits, process_memory
from edgellm.runtime.kernels import simd


def find_unit(name: str) -> str:
    return findings()[f"  {name}"].value


def test_each_vector_unit_says_why_it_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    features = ("+avx2", "-avxvnni")
    host = replace(cpu.host(), machine="x86_64", features=features)
    monkeypatch.setattr(cpu, "host", lambda: host)
    monkeypatch.delenv(simd.ENVIRONMENT, raising=False)

    assert find_unit("avx2") == "runs (has avx2)"
    assert find_unit("avx_vnni") == "does not run: the processor lacks avxvnni"
    assert find_unit("neon") == "does not run: it is for aarch64"
    assert findings()["kernels"].value.startswith("avx2: the best")
    assert findings()["ternary weights"].value == (
        "edgellm export --layout lookup suits these kernels; packed again at load: 2bit and 5trit"
    )

    monkeypatch.setenv(simd.ENVIRONMENT, "portable")
    assert findings()["kernels"].value == "portable: EDGELLM_KERNELS says so"
    assert findings()["ternary weights"].value == (
        "edgellm export --layout 2bit suits these kernels; packed again at load: 5trit and lookup"
    )


def test_limits_are_measured_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BANDWIDTH_BYTES", 1 << 20)

    measured = {finding.name for finding in doctor.examine(measure=True)}

    assert "read bandwidth" in measured
    assert "read bandwidth" not in findings()
    assert "tuned" in findings()


def test_a_system_without_large_pages_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "HUGE_PAGES", tmp_path / "none")
    assert findings()["large pages"].value == "the system does not say"

    (tmp_path / "enabled").write_text("always [madvise] never\n")
    monkeypatch.setattr(doctor, "HUGE_PAGES", tmp_path / "enabled")
    assert "[madvise]" in findings()["large pages"].value


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
