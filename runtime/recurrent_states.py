"""The recurrent states of one text: they do not grow with it, and each call replaces them."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgellm.runtime.plan import Value

MOST_KEPT = 16
"""Earlier states that are kept to go back to. Each takes 8 bytes a channel and layer, 196 KB for
24 layers of 1024; spread as ``_drop_one`` does, 16 reach back some thousand tokens."""

StateArray = npt.NDArray[np.generic]


class RecurrentStates:
    """The states after the tokens so far, memory for those after the next call, and some earlier.

    A call reads one memory and writes the other, so that one that is interrupted changes nothing.
    """

    def __init__(self, values: Sequence[Value]) -> None:
        """Make the states of an empty text, which are zeros.

        Args:
            values: the inputs of the graph that hold them.
        """
        sizes = [math.prod(map(int, v.shape)) * np.dtype(v.dtype).itemsize for v in values]
        self._past, self._present = (np.zeros(sum(sizes), np.uint8) for _ in range(2))
        self._earlier: list[tuple[int, npt.NDArray[np.uint8]]] = []
        ends = np.cumsum(sizes).tolist()
        self.past, self.present = (
            {
                value.name: memory[end - size : end].view(value.dtype).reshape(_shape(value))
                for value, size, end in zip(values, sizes, ends, strict=True)
            }
            for memory in (self._past, self._present)
        )

    def __len__(self) -> int:
        """Return how many states there are; without any, all the rest is nothing."""
        return len(self.past)

    def advance(self, length: int) -> None:
        """Take what a call has written; there were ``length`` tokens before it."""
        if length:
            self._earlier.append((length, self._past.copy()))
        if len(self._earlier) > MOST_KEPT:
            self._drop_one()
        self._past[:] = self._present

    def go_back(self, length: int) -> int:
        """Become the latest states that are kept of at most ``length`` tokens; return of how many.

        The present ones are not asked: the caller has more tokens than that.
        """
        while self._earlier and self._earlier[-1][0] > length:
            self._earlier.pop()
        kept, memory = self._earlier.pop() if self._earlier else (0, np.uint8(0))
        self._past[:] = memory
        return kept

    def copy_from(self, other: "RecurrentStates") -> None:
        """Become the same states, with the same way back."""
        self._past[:] = other._past
        self._earlier = list(other._earlier)

    def replace(self, arrays: dict[str, StateArray]) -> None:
        """Become these states; there is no way back but to the beginning."""
        self._earlier.clear()
        for name, array in arrays.items():
            self.past[name][:] = array

    def _drop_one(self) -> None:
        """Drop the state whose loss is the smallest beside how far back it is.

        What it costs is to compute again from the one before it: so they end up the denser the
        nearer to the end, and a step back costs about as much as it is far.
        """
        places = [0, *(length for length, _ in self._earlier)]
        end = places[-1]
        costs = [
            (places[i + 1] - places[i - 1]) / (end - places[i - 1])
            for i in range(1, len(places) - 1)
        ]
        del self._earlier[costs.index(min(costs))]


def _shape(value: Value) -> tuple[int, ...]:
    return tuple(map(int, value.shape))
