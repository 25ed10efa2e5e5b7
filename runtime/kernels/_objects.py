"""Compiled kernels: from a cache of object files, compiled where they are not there.

The key of an object is the source it was made from, the compilers' versions and the processor, so
that an edit, an upgrade or a move to another board never meets old code. A hit imports no Numba.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgellm import ops
from edgellm.runtime import cpu
from edgellm.runtime.kernels import _jit, simd
from edgellm.runtime.kernels._jit import Kernel

logger = logging.getLogger(__name__)

EXECUTOR = "edgellm_run"
CREW = "edgellm_crew"
DIGEST_BYTES = 32


def cache_directory() -> Path:
    """Return where compiled kernels are kept: $EDGELLM_CACHE, or edgellm in the user's cache."""
    if chosen := os.environ.get("EDGELLM_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgellm"


def can_keep() -> bool:
    """Tell whether compiled kernels can be kept."""
    folder = cache_directory()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


@cache
def executor_address() -> int:
    """Return the address of the compiled executor."""
    compile_object = partial(_jit.compile_executor, EXECUTOR, cpu.host())
    return _address(EXECUTOR, executor_path(), compile_object)


def executor_path() -> Path:
    """Return where the compiled executor is kept."""
    return _path(EXECUTOR, ())


@cache
def crew_address() -> int:
    """Return the address of the compiled calls of several threads."""
    compile_object = partial(_jit.compile_crew, CREW, cpu.host())
    return _address(CREW, crew_path(), compile_object)


def crew_path() -> Path:
    """Return where the compiled calls of several threads are kept."""
    return _path(CREW, ())


@cache
def dot_peak_address(variant: str) -> int:
    """Return the address of the loop of a vector unit's dot products (see ``_dot_peak``)."""
    symbol = f"edgellm_dot_peak_{variant}"
    compile_object = partial(_jit.compile_dot_peak, symbol, variant, cpu.host())
    return _address(symbol, _path(symbol, _unit_sources(variant)), compile_object)


@cache
def kernel_address(kernel: Kernel) -> int:
    """Return the address of a compiled kernel."""
    compile_object = partial(_jit.compile_kernel, kernel, cpu.host())
    return _address(kernel.symbol, kernel_path(kernel), compile_object)


def kernel_path(kernel: Kernel) -> Path:
    """Return where a compiled kernel is kept, whether it is there or not."""
    return cache_directory() / _kernel_file(kernel)


@cache
def _kernel_file(kernel: Kernel) -> str:
    name = f"{kernel.py.__name__}.py"
    sources = [_folder(_jit) / name, _folder(ops) / name]
    if kernel.variant != simd.PORTABLE:
        loops = _folder(_jit) / "vector"
        sources += [*_unit_sources(kernel.variant), loops / name, *loops.glob("_*.py")]
    return _path(kernel.symbol, sources).name


def _unit_sources(variant: str) -> list[Path]:
    return [_folder(simd) / f"{variant}.py", *_folder(simd).glob("_*.py")]


def _folder(module: Any) -> Path:  # noqa: ANN401
    return Path(module.__file__).parent


def _address(symbol: str, path: Path, compile_object: Callable[[], bytes]) -> int:
    code = _read(path)
    if code is None:
        logger.info("compiling %s", symbol)
        code = compile_object()
        write_at_once(path, hashlib.sha256(code).digest() + code)
    return _link(symbol, code)


def _path(symbol: str, sources: Iterable[Path]) -> Path:
    """Return the file of an object; its name has the digest of everything that decides the code."""
    digest = _common_digest().copy()
    _add_sources(digest, sources)
    return cache_directory() / f"{symbol}-{digest.hexdigest()[:32]}.o"


@cache
def sources_digest() -> str:
    """Return the digest of all kernels' sources."""
    digest = hashlib.sha256()
    _add_sources(digest, _folder(_jit).rglob("*.py"))
    return digest.hexdigest()


@cache
def _common_digest() -> "hashlib._Hash":
    """Return the digest of what all kernels share: versions, processor, and the common parts."""
    host = cpu.host()
    facts = [version("numba"), version("llvmlite"), host.machine, host.name, host.feature_string]
    digest = hashlib.sha256("|".join(facts).encode())
    _add_sources(digest, [*_folder(_jit).glob("_*.py"), *_folder(ops).glob("_*.py")])
    return digest


def _add_sources(digest: "hashlib._Hash", paths: Iterable[Path]) -> None:
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())


def _read(path: Path) -> bytes | None:
    """Return the object code in a cache file, or None if there is none or it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, code = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(code).digest() == digest:
        return code
    logger.warning("%s is damaged; it is compiled again", path)
    return None


def write_at_once(path: Path, content: bytes) -> None:
    """Write a file of the cache so that no reader meets a part; without one, all still works."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
            os.replace(name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        _warn_not_kept(path.parent, error.strerror or str(error))


@cache
def _warn_not_kept(folder: Path, reason: str) -> None:
    """Say once what each file would say."""
    logger.warning("%s: compiled kernels are not kept: %s (see EDGELLM_CACHE)", folder, reason)


def _link(symbol: str, code: bytes) -> int:
    """Load object code into this process and return the address of ``symbol``."""
    from llvmlite import binding

    engine = _engine()
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address: int = engine.get_function_address(symbol)
    return address


@cache
def _engine() -> Any:  # noqa: ANN401
    """Return the engine that owns all loaded code: it lives as long as the process."""
    from llvmlite import binding

    return binding.create_mcjit_compiler(
        binding.parse_assembly(""), _jit.target_machine(cpu.host())
    )
