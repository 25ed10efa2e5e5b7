"""Memory in pages of 2 MiB, where the system offers them: small ones are slower to read from."""

import mmap
from pathlib import Path

import numpy as np
import numpy.typing as npt

PAGE_BYTES = 2 << 20
ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def offered() -> bool:
    """Tell whether this system gives huge pages to those who ask for them."""
    try:
        policy = ENABLED.read_text(encoding="ascii")
    except OSError:  # no Linux, or built without them
        return False
    return hasattr(mmap, "MADV_HUGEPAGE") and "[never]" not in policy


class Memory:
    """Zero bytes at an address where a huge page can begin; what is never touched costs nothing."""

    def __init__(self, size: int) -> None:
        """Reserve ``size`` bytes.

        Raises:
            MemoryError: the system does not give so many.
        """
        try:
            self._mapping = mmap.mmap(-1, size + PAGE_BYTES, flags=PRIVATE)
        except OSError as error:
            raise MemoryError(f"{size} bytes: {error.strerror}") from error
        whole = np.frombuffer(self._mapping, np.uint8)
        self._skip = -whole.ctypes.data % PAGE_BYTES
        self.bytes: npt.NDArray[np.uint8] = whole[self._skip : self._skip + size]

    def fill_huge(self) -> None:
        """Ask for huge pages wherever bytes are touched from now on."""
        if offered():
            self._mapping.madvise(mmap.MADV_HUGEPAGE)
