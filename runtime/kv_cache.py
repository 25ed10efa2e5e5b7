"""The key/value cache of one session: int8 rows by position, appended in place by the kernels."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgellm.errors import ConfigError
from edgellm.runtime.plan import Value

CacheArray = npt.NDArray[np.generic]


class KvCache:
    """Keys and values of the positions seen so far.

    The arrays have room for ``capacity`` positions; the system gives memory to those in use only.
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
        self._arrays: dict[str, CacheArray] = {
            value.name: np.zeros((capacity, *map(int, value.shape[1:])), value.dtype)
            for value in self._values
        }
        self.addresses = np.array(
            [array.ctypes.data for array in self._arrays.values()], dtype=np.int64
        )

    def advance(self, count: int) -> None:
        """Count ``count`` positions that were written as part of the cache."""
        self.length += count

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
        self.length = length

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
