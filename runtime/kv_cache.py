"""The cache of one session: rows by position, appended in place by the kernels, and states.

Keys and values grow with the text; recurrent states, which some models have instead, do not.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgellm.errors import ConfigError
from edgellm.runtime import huge_pages
from edgellm.runtime.plan import Value, grows
from edgellm.runtime.recurrent_states import RecurrentStates

CacheArray = npt.NDArray[np.generic]


class KvCache:
    """What a model keeps of the positions seen so far.

    The arrays have room for ``capacity`` positions; the system gives memory to those in use only.
    Large ones move to huge pages as they fill: from scattered small pages, attention to 4096
    positions takes 200 us a layer longer, of 800. Half a page of positions must be there first, so
    that a short text takes little memory.
    """

    def __init__(self, values: Sequence[Value], capacity: int) -> None:
        """Make an empty cache.

        Args:
            values: the cache inputs of the graph.
            capacity: positions there is room for.
        """
        self._values = tuple(values)
        self.capacity = capacity
        self.length = 0
        self._large: dict[int, list[huge_pages.Memory]] = {}  # by the bytes of a position
        self._arrays: dict[str, CacheArray] = {
            value.name: self._allocate((capacity, *map(int, value.shape[1:])), value.dtype)
            for value in self._values
            if grows(value)
        }
        self._states = RecurrentStates([value for value in self._values if not grows(value)])
        inputs = {**self._arrays, **self._states.past}
        memory = [inputs[value.name] for value in self._values]
        memory += self._states.present.values()
        self.addresses = np.array([array.ctypes.data for array in memory], dtype=np.int64)

    @property
    def is_recurrent(self) -> bool:
        """Whether it can go back to some lengths only: see ``truncate``."""
        return len(self._states) > 0

    def _allocate(self, shape: tuple[int, ...], dtype: str) -> CacheArray:
        """Return zeros; for large ones, note their memory."""
        position_bytes = math.prod(shape[1:]) * np.dtype(dtype).itemsize
        if self.capacity * position_bytes < huge_pages.PAGE_BYTES:
            return np.zeros(shape, dtype)
        memory = huge_pages.Memory(self.capacity * position_bytes)
        self._large.setdefault(position_bytes, []).append(memory)
        return memory.bytes.view(dtype).reshape(shape)

    def advance(self, count: int) -> None:
        """Count ``count`` positions that were written as part of the cache, and take the states."""
        if self.is_recurrent:
            self._states.advance(self.length)
        self._grow(count)

    def truncate(self, length: int) -> None:
        """Forget the positions from ``length`` on.

        With recurrent states, which are kept at some positions only, it may forget more: the caller
        looks at ``length`` afterwards.

        Raises:
            ConfigError: the cache is shorter than that.
        """
        if not 0 <= length <= self.length:
            raise ConfigError(f"cannot rewind to {length}: the cache holds {self.length} positions")
        if self.is_recurrent and length < self.length:
            length = self._states.go_back(length)
        self.length = length

    def copy(self) -> "KvCache":
        """Return an independent cache with the same content."""
        twin = KvCache(self._values, self.capacity)
        twin.import_arrays(self.export_arrays(), self.length)
        twin._states.copy_from(self._states)
        return twin

    def export_arrays(self) -> dict[str, CacheArray]:
        """Return copies by the name of the graph's input; what grows has ``length`` rows."""
        rows = {name: array[: self.length].copy() for name, array in self._arrays.items()}
        return {**rows, **{name: array.copy() for name, array in self._states.past.items()}}

    def import_arrays(self, arrays: Mapping[str, CacheArray], length: int | None = None) -> None:
        """Replace the content by arrays as ``export_arrays`` returns them.

        Args:
            arrays: by the name of the graph's input.
            length: positions that they are of; None: as many as what grows has rows.

        Raises:
            ConfigError: an array is missing or unknown, or has another type or shape.
        """
        known = {**self._arrays, **self._states.past}
        if unknown := sorted(set(arrays) ^ set(known)):
            raise ConfigError(f"cache arrays do not fit this model: {', '.join(unknown[:4])}")
        if length is None and self._arrays:
            length = next((len(arrays[name]) for name in self._arrays if arrays[name].ndim), 0)
        if length is None:
            raise ConfigError("states alone do not tell of how many tokens they are")
        if not 0 <= length <= self.capacity:
            raise ConfigError(f"a cache of {length} positions; at most {self.capacity} rows fit")
        for name, own in known.items():
            shape = (length, *own.shape[1:]) if name in self._arrays else own.shape
            if arrays[name].dtype != own.dtype or arrays[name].shape != shape:
                raise ConfigError(
                    f"{name} is {arrays[name].dtype} of shape {arrays[name].shape}; it must be "
                    f"{own.dtype} of shape {shape}"
                )
        for name, own in self._arrays.items():
            own[:length] = arrays[name]
        self._states.replace({name: arrays[name] for name in self._states.past})
        self.length = 0
        self._grow(length)

    def _grow(self, count: int) -> None:
        """Count positions, and move the memory that they fill to huge pages."""
        before, self.length = self.length, self.length + count
        for position_bytes, memories in self._large.items():
            pages = _half_full(before * position_bytes), _half_full(self.length * position_bytes)
            for number in range(*pages):
                for memory in memories:
                    memory.make_huge(number)


def _half_full(size: int) -> int:
    """Return how many huge pages so many bytes fill, the last one by half at least."""
    return (2 * size + huge_pages.PAGE_BYTES) // (2 * huge_pages.PAGE_BYTES)
