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


LEAST_ROOM = 256
"""Positions there is room for from the start."""
ROOM_STEP = 64
"""Room is a multiple, so that each array begins at a cache line."""


class KvCache:
    """What a model keeps of the positions seen so far.

    All that grows lies in one block of memory, array behind array with room for some positions, so
    that it fills huge pages soon: from scattered small ones, attention to 1,024 positions takes a
    sixth longer, and to 4,096 a third. Where the room is used up, the arrays move apart in place,
    by half of what they have: at most a third of the room is not used then.

    Attributes:
        capacity: positions there can be.
        length: positions there are.
        addresses: (values,) int64 of the arrays, and of the next states; another array once they
            have moved.
    """

    def __init__(self, values: Sequence[Value], capacity: int) -> None:
        """Make an empty cache.

        Args:
            values: the cache inputs of the graph.
            capacity: positions there can be; the system gives memory to those in use only.

        Raises:
            MemoryError: the system does not give so much.
        """
        self._values = tuple(values)
        self.capacity = capacity
        self.length = 0
        self._growing = [value for value in self._values if grows(value)]
        self._position_bytes = sum(map(_position_bytes, self._growing))
        self._memory = huge_pages.Memory(_rounded(capacity) * self._position_bytes)
        self._arrays: dict[str, CacheArray] = {}
        self._states = RecurrentStates([value for value in self._values if not grows(value)])
        self._lay_out(_rounded(min(capacity, LEAST_ROOM)))

    def make_room(self, length: int) -> None:
        """Make room for ``length`` positions, at most the capacity; arrays may move."""
        if length > self._room:
            self._lay_out(_rounded(min(self.capacity, max(length, self._room * 3 // 2))))

    def _lay_out(self, room: int) -> None:
        """Place the arrays, behind where they were, with room for so many positions each."""
        self._room, end = room, room * self._position_bytes
        if end >= huge_pages.PAGE_BYTES:
            self._memory.fill_huge()
        moved: dict[str, CacheArray] = {}
        for value in reversed(self._growing):  # the last one moves to where nothing is yet
            begin = end - room * _position_bytes(value)
            shape = (room, *map(int, value.shape[1:]))
            array = self._memory.bytes[begin:end].view(value.dtype).reshape(shape)
            if self.length:
                array[: self.length] = self._arrays[value.name][: self.length]
            moved[value.name], end = array, begin
        self._arrays = {value.name: moved[value.name] for value in self._growing}
        inputs = {**self._arrays, **self._states.past}
        memory = [inputs[value.name] for value in self._values]
        memory += self._states.present.values()
        self.addresses = np.array([array.ctypes.data for array in memory], dtype=np.int64)

    @property
    def is_recurrent(self) -> bool:
        """Whether it can go back to some lengths only: see ``truncate``."""
        return len(self._states) > 0

    def advance(self, count: int) -> None:
        """Count ``count`` positions that were written behind the others, and take the states.

        There was room for them: see ``make_room``.
        """
        if self.is_recurrent:
            self._states.advance(self.length)
        self.length += count

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

    def repeat(self, length: int) -> None:
        """Fill up to ``length`` positions with those there are, in turn: what they say is no text.

        States, which know of no positions, stay.
        """
        self.make_room(length)
        for array in self._arrays.values():
            array[:length] = np.resize(array[: self.length], (length, *array.shape[1:]))
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
        self.length = 0
        self.make_room(length)
        for name, own in self._arrays.items():
            own[:length] = arrays[name]
        self._states.replace({name: arrays[name] for name in self._states.past})
        self.length = length


def _position_bytes(value: Value) -> int:
    """Return the bytes of a position."""
    return math.prod(map(int, value.shape[1:])) * np.dtype(value.dtype).itemsize


def _rounded(positions: int) -> int:
    return -(-positions // ROOM_STEP) * ROOM_STEP
