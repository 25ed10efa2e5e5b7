"""The key/value cache of one session: int8 rows by position, appended in place by the kernels."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgellm.errors import ConfigError
from edgellm.runtime import huge_pages
from edgellm.runtime.plan import Value

CacheArray = npt.NDArray[np.generic]


class KvCache:
    """Keys and values of the positions seen so far.

    The arrays have room for ``capacity`` positions; the system gives memory to those in use only.
    Large ones move to huge pages as they fill: from scattered small pages, attention to 4096
    positions takes 200 us a layer longer, of 800. Half a page of positions must be there first, so
    that a short text takes little memory.
    """

    def __init__(self, values: Sequence[Value], capacity: int) -> None:
        """Make an empty cache.

        Args:
            values: the cache inputs of the graph; their first size is the position.
            capacity: positions there is room for.
        """
        self._values = tuple(values)
        self.capacity = capacity
        self.length = 0
        self._large: dict[int, list[huge_pages.Memory]] = {}  # by the bytes of a position
        self._arrays: dict[str, CacheArray] = {
            value.name: self._allocate((capacity, *map(int, value.shape[1:])), value.dtype)
            for value in self._values
        }
        self.addresses = np.array(
            [array.ctypes.data for array in self._arrays.values()], dtype=np.int64
        )

    def _allocate(self, shape: tuple[int, ...], dtype: str) -> CacheArray:
        """Return zeros; for large ones, note their memory."""
        position_bytes = math.prod(shape[1:]) * np.dtype(dtype).itemsize
        if self.capacity * position_bytes < huge_pages.PAGE_BYTES:
            return np.zeros(shape, dtype)
        memory = huge_pages.Memory(self.capacity * position_bytes)
        self._large.setdefault(position_bytes, []).append(memory)
        return memory.bytes.view(dtype).reshape(shape)

    def advance(self, count: int) -> None:
        """Count ``count`` positions that were written as part of the cache."""
        before, self.length = self.length, self.length + count
        for position_bytes, memories in self._large.items():
            pages = _half_full(before * position_bytes), _half_full(self.length * position_bytes)
            for number in range(*pages):
                for memory in memories:
                    memory.make_huge(number)

    def truncate(self, length: int) -> None:
        """Forget the positions from ``length`` on.

        Raises:
            ConfigError: the cache is shorter than that.
        """
        if not 0 <= length <= self.length:
            raise ConfigError(f"cannot rewind to {length}: the cache holds {self.length} positions")
        self.length = length

    def copy(self) -> "KvCache":
        """Return an independent cache with the same content."""
        twin = KvCache(self._values, self.capacity)
        twin.import_arrays(self.export_arrays())
        return twin

    def export_arrays(self) -> dict[str, CacheArray]:
        """Return copies of the arrays, ``length`` rows each, by the name of the graph's input."""
        return {name: array[: self.length].copy() for name, array in self._arrays.items()}

    def import_arrays(self, arrays: Mapping[str, CacheArray]) -> None:
        """Replace the content by arrays as ``export_arrays`` returns them.

        Raises:
            ConfigError: an array is missing or unknown, or has another type or shape.
        """
        if unknown := sorted(set(arrays) ^ set(self._arrays)):
            raise ConfigError(f"cache arrays do not fit this model: {', '.join(unknown[:4])}")
        length = self._common_length(arrays)
        for name, array in arrays.items():
            self._arrays[name][:length] = array
        self.length = 0
        self.advance(length)

    def _common_length(self, arrays: Mapping[str, CacheArray]) -> int:
        length = -1
        for name, array in arrays.items():
            own = self._arrays[name]
            if array.dtype != own.dtype or array.ndim != own.ndim:
                raise ConfigError(f"{name} is {array.dtype}{array.shape}; it must be {own.dtype}")
            length = array.shape[0] if length < 0 else length
            if array.shape != (length, *own.shape[1:]) or length > self.capacity:
                raise ConfigError(
                    f"{name} has shape {array.shape}; it must be ({length}, *{own.shape[1:]}) with "
                    f"at most {self.capacity} rows"
                )
        return max(length, 0)


def _half_full(size: int) -> int:
    """Return how many huge pages so many bytes fill, the last one by half at least."""
    return (2 * size + huge_pages.PAGE_BYTES) // (2 * huge_pages.PAGE_BYTES)
