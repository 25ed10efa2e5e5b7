"""Look at this machine: is everything here that edgellm needs, and what will it use?"""

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgellm.errors import ConfigError
from edgellm.runtime.process_memory import available_memory_bytes, total_memory_bytes

REQUIRED = (
    "numpy", "numba", "llvmlite", "onnx", "onnxruntime", "tokenizers", "safetensors", "jinja2",
    "tqdm",
)  # fmt: skip
OPTIONAL = ("huggingface_hub",)
MIN_MEMORY_BYTES = 256 << 20
"""Python with NumPy and a small model takes about half of it."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fact, and whether it is a problem."""

    name: str
    value: str
    ok: bool = True


def examine() -> list[Finding]:
    """Return what there is to know; findings that are not ok say what to do."""
    return [*_python(), *_packages(), *_processor(), *_cache(), *_memory()]


def _python() -> Iterator[Finding]:
    ok = sys.version_info >= (3, 11)
    hint = "" if ok else "; edgellm needs 3.11 or newer"
    yield Finding(name="python", value=f"{platform.python_version()}{hint}", ok=ok)
    yield Finding(name="system", value=f"{platform.system()} {platform.release()}")


def _packages() -> Iterator[Finding]:
    for name in (*REQUIRED, *OPTIONAL):
        try:
            yield Finding(name=name, value=version(name))
        except PackageNotFoundError:
            needed = name in REQUIRED
            hint = f"missing; pip install {name}" if needed else "not installed (optional)"
            yield Finding(name=name, value=hint, ok=not needed)


def _processor() -> Iterator[Finding]:
    try:
        from edgellm.runtime import cpu
        from edgellm.runtime.kernels import simd

        host = cpu.host()
    except (ImportError, OSError, RuntimeError) as error:
        yield Finding(name="processor", value=f"cannot be examined: {error}", ok=False)
        return
    yield Finding(name="processor", value=f"{host.model} ({host.machine}, {host.name})")
    names = " ".join(name[1:] for name in host.features if name.startswith("+"))
    yield Finding(name="features", value=names or "none known")
    try:
        kernels = f"{simd.chosen(host)} (of {', '.join(simd.available(host))})"
        yield Finding(name="kernels", value=kernels)
    except ConfigError as error:
        yield Finding(name="kernels", value=str(error), ok=False)
    cores = f"{host.physical_cores} cores, {host.logical_cores} with hyper-threads"
    yield Finding(name="threads", value=cores)


def _cache() -> Iterator[Finding]:
    from edgellm.runtime.kernels._objects import cache_directory

    folder = cache_directory()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        hint = "is not writable, so every start compiles; set EDGELLM_CACHE to a folder that is"
        yield Finding(name="kernel cache", value=f"{folder} {hint}", ok=False)
        return
    yield Finding(name="kernel cache", value=f"{folder} ({_count(folder)} kernels)")


def _count(folder: Path) -> int:
    return len(list(folder.glob("*.o"))) if folder.is_dir() else 0


def _memory() -> Iterator[Finding]:
    available, total = available_memory_bytes(), total_memory_bytes()
    ok = available >= MIN_MEMORY_BYTES
    hint = "" if ok else "; close other programs"
    value = f"{available >> 20} MiB available of {total >> 20} MiB{hint}"
    yield Finding(name="memory", value=value, ok=ok)
