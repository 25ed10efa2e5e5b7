"""A lowered plan on its arena and threads: addresses and sizes of a call go in, kernels run."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgellm.ops import evaluate_dim
from edgellm.runtime.choices import Choices
from edgellm.runtime.crew import Crew
from edgellm.runtime.memory import ALIGNMENT
from edgellm.runtime.phases import ALWAYS_COLUMNS
from edgellm.runtime.plan import Plan, Step
from edgellm.runtime.program import Places, lower

Array = npt.NDArray[np.generic]


class Machine:
    """The table of a plan; the caller sees to it that inputs are checked and stay in memory."""

    def __init__(
        self,
        plan: Plan,
        most: Mapping[str, int],
        threads: int,
        choices: Choices | None = None,
        least_rows: int = ALWAYS_COLUMNS,
    ) -> None:
        """Compile or load the kernels, and lower the plan.

        Args:
            plan: a checked graph.
            most: the largest value of each dynamic size.
            threads: how many run each step, the caller's own included.
            choices: which kernels run; default: the best for this processor.
            least_rows: rows from which ``divide_by_rows`` divides a step by rows.

        Raises:
            ConfigError: threads is out of range.
        """
        self.plan = plan
        self.threads = threads
        self._program = lower(plan, most, choices, threads, least_rows)
        self.arena_bytes = self._program.memory.arena.size
        self._arena = _aligned(self.arena_bytes)
        self._words = self._program.table.reshape(-1)
        self._table_address = self._words.ctypes.data
        self._many = False
        self._by_rows = False
        self.use_kernels_for(many=True)
        places, offsets = self._program.offsets
        self._words[places] = offsets + self._arena.ctypes.data
        for name, constant in plan.constants.items():
            self.bind(name, constant)
        self._crew = Crew(threads)
        self._sizes: dict[str, int] = {}

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps in the order they run."""
        return self._program.steps

    @property
    def table(self) -> npt.NDArray[np.int64]:
        """(steps, width) int64, a row a step, in the order of ``steps``."""
        return self._program.table

    def use_kernels_for(self, *, many: bool) -> None:
        """Write the addresses of the kernels for one token or for many, where they differ."""
        if many != self._many:
            self._many = many
            chosen = self._program.many_tokens if many else self._program.one_token
            self._program.table[:, 0] = chosen

    def divide_by_rows(self, by_rows: bool) -> None:
        """Let threads share the rows of steps that have many, or the columns."""
        if by_rows != self._by_rows:
            self._by_rows = by_rows
            division = self._program.by_rows if by_rows else self._program.by_columns
            self._program.table[:, -division.shape[1] :] = division

    def bind(self, name: str, array: Array) -> None:
        """Let a graph input, output or constant be in this memory, in C order."""
        places = self._program.addresses.get(name)
        if places is not None:
            self._words[places] = array.__array_interface__["data"][0]

    def slots(self, names: Sequence[str]) -> tuple[Places, Places]:
        """Return where the addresses of graph inputs and outputs stand, and whose each is.

        Returns:
            (places,) for ``bind_slots``, and (places,) the number of the name of each.
        """
        places = [self._program.addresses[name] for name in names]
        owners = np.repeat(np.arange(len(places)), [len(found) for found in places])
        return np.concatenate([*places, np.empty(0, np.intp)]), owners

    def bind_slots(self, places: Places, addresses: npt.NDArray[np.int64]) -> None:
        """Write addresses, as ``bind`` does, at places that ``slots`` told."""
        self._words[places] = addresses

    def write_size(self, dim: str, size: int) -> None:
        """Write a dynamic size of the next call where it differs from the last one's."""
        if self._sizes.get(dim) != size:
            self._sizes[dim] = size
            self._words[self._program.sizes.get(dim, [])] = size

    def resize(self, sizes: Mapping[str, int]) -> None:
        """Write all dynamic sizes of the next call."""
        for dim in self._program.sizes:
            self.write_size(dim, evaluate_dim(dim, sizes))
        self._sizes.update(sizes)

    def run(self, first: int = 0, count: int | None = None, *, alone: bool = False) -> None:
        """Run ``count`` steps from ``first``, default: all; ``alone``: on one thread."""
        row_bytes = self._program.table.strides[0]
        begin = self._table_address + first * row_bytes
        steps = len(self._program.table) - first if count is None else count
        self._crew.run(begin, steps, row_bytes, alone=alone)

    def run_rows(self, rows: npt.NDArray[np.int64]) -> None:
        """Run rows of the table, or copies of them, on this thread alone."""
        address = rows.__array_interface__["data"][0]
        self._crew.run(address, len(rows), rows.strides[0], alone=True)

    def waited_seconds(self) -> npt.NDArray[np.float64]:
        """Return (threads,) how long each thread has waited for the others so far."""
        return self._crew.waited_seconds()

    def copy_value(self, name: str) -> Array | None:
        """Return a copy of a value between steps, None if it is none of these.

        Where threads share rows, they may have them apart: not after ``divide_by_rows(True)``.
        """
        begin = self._program.memory.arena.offsets.get(name)
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
