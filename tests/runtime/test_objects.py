"""The cache of compiled kernels: filled once, never trusted when damaged, keyed by what matters."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgellm.runtime import cpu
from edgellm.runtime.kernels import _jit, _objects, find

SYMBOL = "edgellm_add_bias"


@pytest.fixture(scope="module")
def code() -> bytes:
    return _jit.compile_kernel(find("AddBias"), cpu.host())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(code: bytes, sources: list[Path]) -> tuple[int, int]:
    """Return the address of the kernel, and how often it was compiled for that."""
    compiled = []

    def compile_object() -> bytes:
        compiled.append(1)
        return code

    path = _objects._path(SYMBOL, sources)
    return _objects._address(SYMBOL, path, compile_object), len(compiled)


def test_a_kernel_is_compiled_once(code: bytes, folder: Path) -> None:
    first, compiled = load(code, [])
    assert first
    assert compiled == 1

    again, compiled = load(code, [])
    assert again
    assert compiled == 0
    assert [path.suffix for path in folder.iterdir()] == [".o"]


def test_an_edit_compiles_again(code: bytes, folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "kernel.py"
    for content, expected in (("a = 1", 1), ("a = 1", 0), ("a = 2", 1)):
        source.write_text(content)
        assert load(code, [source])[1] == expected
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("keep", [0, 10, 40, -1])
def test_a_damaged_object_is_compiled_again(
    code: bytes, folder: Path, keep: int, caplog: pytest.LogCaptureFixture
) -> None:
    load(code, [])
    (path,) = folder.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[:keep])

    with caplog.at_level(logging.WARNING):
        address, compiled = load(code, [])
    assert address
    assert compiled == 1
    assert "damaged" in caplog.text
    assert path.read_bytes() == content


def test_without_a_place_for_the_cache_it_still_works(
    code: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "file"))

    with caplog.at_level(logging.WARNING):
        address, compiled = load(code, [])
    assert address
    assert compiled == 1
    assert "not kept" in caplog.text


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert _objects.cache_directory() == Path("/a")
    monkeypatch.delenv("EDGELLM_CACHE")
    assert _objects.cache_directory() == Path("/b/edgellm")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert _objects.cache_directory() == Path.home() / ".cache" / "edgellm"


def test_objects_need_nothing_of_python(code: bytes) -> None:
    """Python's and Numba's own symbols would end a program without them."""
    for word in (b"Py_", b"PyErr", b"NRT_", b"numba_"):
        assert word not in code


def test_a_warm_start_does_not_import_numba(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from edgellm.runtime.kernels import _objects, find\n"
        "assert _objects.kernel_address(find('AddBias'))\n"
        "assert _objects.executor_address()\n"
        "print('numba' in sys.modules)\n"
    )
    environment = {**os.environ, "EDGELLM_CACHE": str(tmp_path)}
    seen = [
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env=environment,
        ).stdout.strip()
        for _ in range(2)
    ]
    assert seen == ["True", "False"]
