"""A lowered plan on its arena and threads: addresses and sizes of a call go in, kernels run."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgellm.ops import evaluate_dim
from edgellm.runtime.crew import Crew
from edgellm.runtime.memory import ALIGNMENT
from edgellm.runtime.plan import Plan, Step
from edgellm.runtime.program import lower

Array = npt.NDArray[np.generic]


class Machine:
    """The table of a plan; the caller sees to it that inputs are checked and stay in memory."""

    def __init__(self, plan: Plan, most: Mapping[str, int], threads: int) -> None:
        """Compile or load the kernels, and lower the plan.

        Args:
            plan: a checked graph.
            most: the largest value of each dynamic size.
            threads: how many run each step, the caller's own included.

        Raises:
            ConfigError: threads is out of range.
        """
        self.plan = plan
        self.threads = threads
        self._program = lower(plan, most)
        self.arena_bytes = self._program.arena.size
        self._arena = _aligned(self.arena_bytes)
        self._program.table[:, 0] = self._program.many_tokens
        self._table = self._program.table.reshape(-1)
        places, offsets = self._program.offsets
        self._table[places] = offsets + self._arena.ctypes.data
        for name, constant in plan.constants.items():
            self.bind(name, constant)
        self._crew = Crew(threads)
        self._sizes: dict[str, int] = {}

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps in the order they run."""
        return self._program.steps

    def bind(self, name: str, array: Array) -> None:
        """Let a graph input, output or constant be in this memory, in C order."""
        places = self._program.addresses.get(name)
        if places is not None:
            self._table[places] = array.__array_interface__["data"][0]

    def resize(self, sizes: Mapping[str, int]) -> None:
        """Write the dynamic sizes of the next call."""
        self._sizes = dict(sizes)
        for dim, places in self._program.sizes.items():
            self._table[places] = evaluate_dim(dim, sizes)

    def run(self, first: int = 0, count: int | None = None, *, alone: bool = False) -> None:
        """Run ``count`` steps from ``first``, default: all; ``alone``: on one thread."""
        row_bytes = self._program.table.strides[0]
        begin = self._table.ctypes.data + first * row_bytes
        steps = len(self._program.table) - first if count is None else count
        self._crew.run(begin, steps, row_bytes, alone=alone)

    def copy_value(self, name: str) -> Array | None:
        """Return a copy of a value between steps, None if it is none of these."""
        begin = self._program.arena.offsets.get(name)
        if begin is None:
            return None
        value = self.plan.values[name]
        shape = [evaluate_dim(dim, self._sizes) for dim in value.shape]
        end = begin + int(np.prod(shape)) * np.dtype(value.dtype).itemsize
        return self._arena[begin:end].view(value.dtype).reshape(shape).copy()

    def close(self) -> None:
        """End the threads."""
        self._crew.close()


def _aligned(size: int) -> npt.NDArray[np.uint8]:
    """Return ``size`` zero bytes at an aligned address; untouched pages cost nothing."""
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    skip = -raw.ctypes.data % ALIGNMENT
    return raw[skip : skip + size]
