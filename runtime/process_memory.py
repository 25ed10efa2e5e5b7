"""How much memory this process has used, and how much the machine can still give."""

import os
import resource
import sys
from pathlib import Path

MEMINFO = Path("/proc/meminfo")


def peak_memory_bytes() -> int:
    """Return the largest resident size so far; mapped weights count once they were read."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_memory_bytes() -> int:
    """Return what can be allocated without swapping; all memory where the system does not say."""
    try:
        for line in MEMINFO.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # no Linux: the total is the best there is
    return total_memory_bytes()


def total_memory_bytes() -> int:
    """Return the memory of the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
