"""Operands of kernels that are timed apart from an engine, where an engine would have them.

Kernels load whole cache lines. Of activations that begin in the middle of one, each load takes two:
on Zen 5 a product with weights of five trits a byte from memory then takes twice the time.
"""

import numpy as np

from edgellm.runtime import huge_pages


def in_huge_pages(array: np.ndarray) -> np.ndarray:
    """Return a copy in such memory as a loaded bundle has."""
    memory = huge_pages.Memory(array.nbytes)
    memory.fill_huge()
    copy = memory.bytes.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def copies_in_huge_pages(array: np.ndarray, count: int) -> np.ndarray:
    """Return (count, ...) copies in one such piece of memory; each begins a cache line if it can.

    Their size is a multiple of a line wherever rows are.
    """
    return in_huge_pages(np.broadcast_to(array, (count, *array.shape)))
