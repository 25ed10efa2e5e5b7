"""Kernels are compiled by several processes at the first start, and by this one if those fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgellm.runtime.kernels import _compiler, _objects, find
from edgellm.runtime.kernels._compiler import compile_missing

SMALL = ("AddBias", "ResidualAdd", "Requantize")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def compiled(folder: Path) -> list[str]:
    return sorted(path.name.rpartition("-")[0] for path in folder.glob("*.o"))


EXPECTED = sorted(["edgellm_crew", "edgellm_run", *(find(name).symbol for name in SMALL)])


@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_missing_is_compiled_once(
    folder: Path, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_compiler, "_processes_for", lambda _: processes)
    for address in (_objects.kernel_address, _objects.executor_address, _objects.crew_address):
        address.cache_clear()
    seen: list[tuple[int, int]] = []
    kernels = [find(name) for name in SMALL] * 2

    compile_missing(kernels, lambda done, total: seen.append((done, total)))

    assert compiled(folder) == EXPECTED
    assert seen == [(done, 4) for done in range(5)]
    seen.clear()
    compile_missing(kernels, lambda done, total: seen.append((done, total)))
    assert seen == []


def test_processes_that_fail_leave_the_work_to_this_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_compiler, "_processes_for", lambda _: 2)
    monkeypatch.setattr(sys, "executable", "/bin/false" if Path("/bin/false").exists() else "")
    kernels = [find(name) for name in SMALL]

    compile_missing(kernels)
    assert compiled(folder) == []

    _objects.kernel_address.cache_clear()
    assert all(_objects.kernel_address(kernel) for kernel in kernels)
    assert compiled(folder) == sorted(kernel.symbol for kernel in kernels)


def test_nothing_is_left_running(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen] = []
    popen = subprocess.Popen
    monkeypatch.setattr(_compiler, "_processes_for", lambda _: 2)

    def record(*words: object, **options: object) -> subprocess.Popen:
        started.append(popen(*words, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", record)

    def interrupt(done: int, _total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_missing([find(name) for name in SMALL], interrupt)

    assert len(started) == 2
    assert all(process.poll() is not None for process in started)


def test_without_a_place_for_the_cache_this_process_compiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What other processes compile would be lost."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(_compiler, "_share", lambda *_: pytest.fail("it cannot be kept"))
    seen: list[int] = []

    compile_missing([find(name) for name in SMALL], lambda done, _: seen.append(done))

    assert seen == [0, 1, 2, 3, 4]


def test_the_folder_it_runs_in_is_not_imported_from(folder: Path, tmp_path: Path) -> None:
    """A file there that is named like a module of ours must not run."""
    (tmp_path / "edgellm.py").write_text("raise SystemExit('this is not edgellm')")
    program = (
        "import sys; sys.path.remove('') if '' in sys.path else None\n"
        "from edgellm.runtime.kernels import _compiler, find\n"
        "_compiler._processes_for = lambda _: 2\n"
        f"_compiler.compile_missing([find(name) for name in {SMALL}])\n"
    )
    command = [sys.executable, "-P", "-c", program]

    subprocess.run(command, check=True, cwd=tmp_path, env=dict(os.environ))

    assert compiled(folder) == EXPECTED
