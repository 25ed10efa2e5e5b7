"""What this processor can do: its name, its instruction set, and the cores this process may use."""

import ctypes
import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
TOPOLOGY = Path("/sys/devices/system/cpu")
AT_HWCAP, AT_HWCAP2 = 16, 26
ARM_FEATURES = (
    (AT_HWCAP, 1, "neon"),
    (AT_HWCAP, 20, "dotprod"),
    (AT_HWCAP2, 13, "i8mm"),
)
"""(word, bit, LLVM's name): what Linux tells a process on aarch64 (its asm/hwcap.h)."""
REQUEST_TILES = (158, 0x1023, 18)
"""Of Linux on x86: arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA (its asm/prctl.h)."""
FULL_WIDTH = "-prefer-256-bit"
"""For x86 with AVX-512: LLVM keeps plain loops to 256 bits on some processors, because the first
lowered their clock for more. Without, attention is 10 % and SiluGate 30 % faster on a server of
2024, and nothing slower."""


@dataclass(frozen=True)
class Cpu:
    """The processor as the code generator sees it.

    ``name`` and ``features`` are LLVM's (``znver5``, ``+avx2,...``) and part of the key of every
    compiled kernel; ``model`` is for people.
    """

    machine: str
    name: str
    features: tuple[str, ...]
    model: str
    logical_cores: int
    physical_cores: int

    @property
    def feature_string(self) -> str:
        """The features as LLVM's target machine takes them: ``+avx2,-sse4a,...``."""
        return ",".join(self.features)

    def has(self, feature: str) -> bool:
        """Tell whether code for this processor may use ``feature`` (LLVM's name, without sign)."""
        return f"+{feature}" in self.features


@cache
def host() -> Cpu:
    """Return the processor this process runs on.

    NUMBA_CPU_NAME and NUMBA_CPU_FEATURES override what is detected.
    """
    from llvmlite import binding

    name = os.environ.get("NUMBA_CPU_NAME") or binding.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        # A name that was given does not have the features of the processor that runs this.
        given = "NUMBA_CPU_NAME" in os.environ
        features = "" if given else _detect_features()
    if "+amx-tile" in features.split(",") and not _lets_use_tiles():
        features = features.replace("+amx-", "-amx-")
    cores = usable_cores()
    return Cpu(
        machine=platform.machine(),
        name=name,
        features=tuple(sorted(filter(None, features.split(",")))),
        model=_model_name(),
        logical_cores=len(cores),
        physical_cores=_count_physical(cores),
    )


def _detect_features() -> str:
    """Return LLVM's features of this processor, and on Arm those that the kernel vouches for.

    LLVM reads /proc/cpuinfo there, which under qemu describes another machine.
    """
    from llvmlite import binding

    features: str = binding.get_host_cpu_features().flatten()
    if (platform.system(), platform.machine()) != ("Linux", "aarch64"):
        return f"{features},{FULL_WIDTH}" if "+avx512vl" in features.split(",") else features
    known = {name: _auxiliary_word(word) >> bit & 1 for word, bit, name in ARM_FEATURES}
    others = [f for f in features.split(",") if f and f[1:] not in known]
    return ",".join([*others, *(f"{'+' if has else '-'}{name}" for name, has in known.items())])


def _lets_use_tiles() -> bool:
    """Ask Linux on x86 for the tile registers of AMX; without its leave their use is a fault."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return False
    result: int = ctypes.CDLL(None).syscall(*map(ctypes.c_long, REQUEST_TILES))
    return result == 0


def _auxiliary_word(number: int) -> int:
    """Return what the kernel told this process at its start (getauxval of the C library)."""
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    word: int = getauxval(number)
    return word


def usable_cores() -> set[int]:
    """Return the ids of the cores that the scheduler may give this process."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _count_physical(cores: set[int]) -> int:
    """Count cores, not hyper-threads; where the system does not tell, each logical core counts."""
    siblings = set()
    for core in cores:
        listing = TOPOLOGY / f"cpu{core}" / "topology" / "thread_siblings_list"
        try:
            siblings.add(listing.read_text().strip())
        except OSError:
            siblings.add(str(core))
    return len(siblings)


def _model_name() -> str:
    try:
        lines = CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    for key in ("model name", "Model", "Hardware"):
        if facts.get(key):
            return facts[key]
    return platform.machine()
