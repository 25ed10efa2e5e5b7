"""The weights of a bundle in memory: mapped from their file, or copied to huge pages to be faster.

Decoding reads all weights once a token. Where the file lies in the page cache in scattered pages of
4 KiB, that takes half as long again as from pages of 2 MiB (measured: 12.5 against 18.1 tokens/s).
"""

import mmap
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm.errors import BundleError, ConfigError
from edgellm.runtime import huge_pages
from edgellm.runtime.process_memory import available_memory_bytes

Bytes = npt.NDArray[np.uint8]

ENVIRONMENT = "EDGELLM_WEIGHTS"
AUTO, MAPPED, COPIED = "auto", "mapped", "copied"
COPY_BYTES = 32 << 20
"""Smaller weights stay mapped: they fit in the caches of a processor, or load faster than that."""
COPY_SHARE = 0.5
"""Of the memory that is available, what a copy may take at most."""
ENOUGH_HUGE = 0.9
"""Share of a mapping in huge pages from which a copy is no faster."""
PIECE_BYTES = 8 << 20
SMAPS = Path("/proc/self/smaps")


def map_weights(path: Path) -> Bytes:
    """Return the bytes of a file, read-only and mapped: nothing is read, and processes share it."""
    if path.stat().st_size == 0:
        return np.empty(0, np.uint8)
    mapped = np.memmap(path, np.uint8, mode="r")
    if huge_pages.offered() and isinstance(mapped.base, mmap.mmap):
        mapped.base.madvise(mmap.MADV_HUGEPAGE)  # what is not in the page cache may come so
    return mapped


def place_weights(path: Path, reserved_bytes: int = 0) -> Bytes:
    """Return the bytes of a file, read-only, where they are read fastest: mapped or copied.

    They are copied when the system offers huge pages, the mapping has few of them, and there is
    memory enough; EDGELLM_WEIGHTS=mapped or copied decides otherwise.

    Args:
        path: the file.
        reserved_bytes: of the available memory, what is wanted for other things.

    Raises:
        ConfigError: EDGELLM_WEIGHTS says something else, or there is no memory for a copy it wants.
        BundleError: the file became shorter.
    """
    choice = os.environ.get(ENVIRONMENT) or AUTO
    if choice not in (AUTO, MAPPED, COPIED):
        raise ConfigError(f"{ENVIRONMENT} is {choice!r}; allowed are {AUTO}, {MAPPED}, {COPIED}")
    mapped = map_weights(path)
    if (
        choice == MAPPED
        or len(mapped) == 0
        or (choice == AUTO and not _copy_pays(mapped, reserved_bytes))
    ):
        return mapped
    return _copy(path, len(mapped))


def _copy_pays(mapped: Bytes, reserved_bytes: int) -> bool:
    size = len(mapped)
    if size < COPY_BYTES or size > COPY_SHARE * (available_memory_bytes() - reserved_bytes):
        return False
    return huge_pages.offered() and _huge_bytes(mapped) < ENOUGH_HUGE * size


def _huge_bytes(mapped: Bytes) -> int:
    """Return how many bytes of a mapping are in huge pages; every page has to be looked at."""
    int(mapped[:: huge_pages.PAGE_BYTES].sum())
    begin = f"{mapped.ctypes.data:x}-"
    try:
        with SMAPS.open(encoding="utf-8", errors="replace") as stream:
            lines = iter(stream)
            next(line for line in lines if line.startswith(begin))
            line = next(line for line in lines if line.startswith("FilePmdMapped:"))
    except (OSError, StopIteration):
        return 0  # the system does not tell: a copy is safe
    return int(line.split()[1]) * 1024


def _copy(path: Path, size: int) -> Bytes:
    """Return a copy of a file's bytes; they are read past the mapping, so that they count once."""
    try:
        memory = huge_pages.Memory(size)
    except MemoryError as error:
        raise ConfigError(
            f"{path}: no memory for a copy of its {size} bytes; {ENVIRONMENT}={MAPPED} does without"
        ) from error
    memory.fill_huge()
    copy = memory.bytes
    with path.open("rb", buffering=0) as stream:
        view, done = copy.data, 0
        while done < size:
            count = stream.readinto(view[done : done + PIECE_BYTES])
            if not count:
                raise BundleError(f"{path}: ends after {done} of {size} bytes")
            done += count
    copy.flags.writeable = False
    return copy
