"""Look at this machine: is everything here that edgellm needs, and what will it use?"""

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm import registry
from edgellm.errors import ConfigError
from edgellm.runtime.process_memory import available_memory_bytes, total_memory_bytes

if TYPE_CHECKING:
    from edgellm.runtime.cpu import Cpu
    from edgellm.runtime.kernels.simd._unit import VectorUnit

REQUIRED = (
    "numpy", "numba", "llvmlite", "onnx", "onnxruntime", "tokenizers", "safetensors", "jinja2",
    "tqdm",
)  # fmt: skip
OPTIONAL = ("huggingface_hub",)
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MIN_MEMORY_BYTES = 256 << 20
"""Python with NumPy and a small model takes about half of it."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fact, and whether it is a problem."""

    name: str
    value: str
    ok: bool = True


def examine(*, measure: bool = False) -> list[Finding]:
    """Return what there is to know; findings that are not ok say what to do.

    Args:
        measure: also read bandwidth and dot products, which takes a second or two.
    """
    findings = [*_python(), *_packages(), *_processor()]
    if all(finding.ok for finding in findings):
        findings += _layout()
        findings += _tuning()
        findings += _measurements() if measure else ()
    return [*findings, *_cache(), *_memory(), *_large_pages()]


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
        yield Finding(name="kernels", value=f"{simd.chosen(host)}: {_reason(simd.forced())}")
    except ConfigError as error:
        yield Finding(name="kernels", value=str(error), ok=False)
    for name in registry.names(simd):
        yield Finding(name=f"  {name}", value=_suitability(host, simd.find(name)))
    cores = f"{host.physical_cores} cores, {host.logical_cores} with hyper-threads"
    yield Finding(name="threads", value=cores)


def _reason(forced: str | None) -> str:
    if forced:
        return "EDGELLM_KERNELS says so"
    return "the best that this processor has, where edgellm tune found no better"


def _suitability(host: "Cpu", unit: "VectorUnit") -> str:
    """Tell whether a processor runs a vector unit's kernels, and what it lacks."""
    if unit.runs_on(host):
        return f"runs (has {' '.join(unit.features)})"
    if host.machine not in unit.machines:
        return f"does not run: it is for {unit.machines[0]}"
    missing = [name for name in unit.features if not host.has(name)]
    return f"does not run: the processor lacks {' '.join(missing)}"


def _layout() -> Iterator[Finding]:
    """Tell which layout of ternary weights is mapped as these kernels read it fastest."""
    from edgellm.runtime import cpu
    from edgellm.runtime.kernels import simd
    from edgellm.runtime.layouts import best_layout, packed_again

    variant = simd.chosen(cpu.host())
    alias = best_layout(variant).alias
    others = " and ".join(packed_again(variant))
    value = f"edgellm export --layout {alias} suits these kernels; packed again at load: {others}"
    yield Finding(name="ternary weights", value=value)


def _tuning() -> Iterator[Finding]:
    from edgellm.runtime.tuning import tuning_path

    path = tuning_path()
    known = f"{path}" if path.is_file() else "nothing yet; edgellm tune BUNDLE finds the fastest"
    yield Finding(name="tuned", value=known)


def _large_pages() -> Iterator[Finding]:
    try:
        modes = HUGE_PAGES.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        yield Finding(name="large pages", value="the system does not say")
        return
    yield Finding(name="large pages", value=f"{modes} (the mode in brackets is on)")


def _measurements() -> Iterator[Finding]:
    """Measure the limits of one thread and of all; half a second."""
    from edgellm.runtime import cpu
    from edgellm.runtime.kernels import simd
    from edgellm.runtime.limits import dot_peak, read_bandwidth

    host = cpu.host()
    variant = simd.chosen(host)
    for threads in sorted({1, host.physical_cores}):
        speed = f"{read_bandwidth(threads) / 1e9:.1f} GB/s, {threads} threads"
        yield Finding(name="read bandwidth", value=speed)
        peak = dot_peak(variant, threads)
        if peak is not None:
            value = f"{peak / 1e9:.0f} GMAC/s, {threads} threads, {variant}"
            yield Finding(name="dot products", value=value)


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
