"""Find the states of a column of weights: the way through the trellis that comes nearest (Viterbi).

The rows of a column are a ring, in which neighbours share bits (``trellis_codes.TRELLIS``). It is
cut at some rows, whose states the rows around them choose; between two of them the best way is
found. What the ring loses by being cut is less than 1 % of the error, with 128 rows in a part.
"""

# mypy: disable-error-code="untyped-decorator"
# Numba has no types.

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import pairwise
from os import cpu_count

import numpy as np
import numpy.typing as npt
from numba import njit

from edgellm.exporters.quantizers.cholesky import Singles
from edgellm.trellis_codes import STATE_BITS, STATES, States, first_bits, state_levels

PART = 128
"""Rows between cuts."""
AROUND = 16
"""Rows on either side that choose the state of a cut: with 2.5 bits, more than three times 12."""
ROUNDS = 1
"""How often the ring is cut elsewhere."""
ROUNDS_OF_ONE = 4
"""The same of a ring that is one part, which takes little time anyway."""
GOLDEN = 0.382
"""By this share of a part the cuts move: they meet no cut again soon."""
LEAST = 4 * PART
"""Rows that are worth several threads."""
FREE = -1
"""Stands for no state in particular."""
FAR = np.float32(1e30)

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Slice = tuple[int, int]


class TrellisSearch:
    """Finds states of columns with so many rows and planes."""

    def __init__(self, rows: int, planes: int) -> None:
        """Cut the ring."""
        firsts = np.append(first_bits(rows, planes), 8 * planes)
        self._new = np.diff(firsts)  # bits of a row that the next row does not have
        parts = -(-rows // PART)
        self._cuts = np.arange(parts) * rows // parts
        levels = state_levels().astype(np.float32)
        # By the lowest bits first: those of all states that come from the same one.
        self._levels = np.stack([levels.reshape(-1, 1 << bits).T.ravel() for bits in range(9)])

    def nearest(self, values: Singles, costs: Singles) -> States:
        """Return states (N,) whose levels are near values (N,).

        Args:
            values: (N,).
            costs: (N,) what the square of an error costs in each row.
        """
        if len(values) == 1:
            return self._nearest_of_few(values)
        states, ends = np.empty(len(values), np.int64), np.empty(len(self._cuts), np.int64)
        column = values, costs, self._new, self._levels
        self._share(partial(_choose_cuts, column, self._cuts, ends))
        self._share(partial(_fill_parts, column, self._cuts, ends, states))
        count = len(self._cuts)
        for turn in range(1, 1 + (ROUNDS if count > 1 else ROUNDS_OF_ONE)):
            cuts = self._cuts + int(turn * GOLDEN % 1 * len(values) / count)
            self._share(partial(_fill_parts, column, cuts, states[cuts], states))
        return states.astype(np.uint16)

    def _nearest_of_few(self, values: Singles) -> States:
        """Return the best state of a ring of 8 bits, in which 4 of 12 come twice."""
        rings = np.arange(256)
        states = rings | (rings & 15) << 8
        best = np.argmin((self._levels[0][states] - values) ** 2)
        return states[[best]].astype(np.uint16)

    def _share(self, work: Callable[[Slice], None]) -> None:
        """Have the work on all cuts done, by several threads if it is worth it."""
        count = len(self._cuts)
        threads = min(cpu_count() or 1, count) if len(self._new) >= LEAST else 1
        bounds = [count * i // threads for i in range(threads + 1)]
        if threads == 1:
            work((0, count))
        else:
            list(_pool().map(work, pairwise(bounds)))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor()


Column = tuple[Singles, Singles, Ints, Singles]
"""Values (N,), costs (N,), new bits (N,), (9, 4096): the level of each state, turned for so many
new bits."""
Target = tuple[float, float]
"""A value, and what the square of an error costs."""

jit = njit(nogil=True, error_model="numpy")


@jit
def _choose_cuts(column: Column, cuts: Ints, ends: Ints, part: Slice) -> None:
    """Choose the states of some cuts, by the rows around them."""
    rows = len(column[0])
    around = min(AROUND, (rows + 1) // 2)
    path = np.empty(2 * around + 1, np.int64)
    for i in range(part[0], part[1]):
        _walk(column, cuts[i] + around, (FREE, FREE), path)
        ends[i] = path[around]


@jit
def _fill_parts(column: Column, cuts: Ints, ends: Ints, states: Ints, part: Slice) -> None:
    """Find the best way from cut to cut, each of which has its state."""
    rows = len(column[0])
    for i in range(part[0], part[1]):
        is_last = i + 1 == len(cuts)
        end = cuts[0] + rows if is_last else cuts[i + 1]
        path = np.empty(end - cuts[i], np.int64)
        _walk(column, end - 1, (ends[0] if is_last else ends[i + 1], ends[i]), path)
        for j in range(len(path)):
            states[(end - 1 - j) % rows] = path[j]


def _step_of(bits: int) -> Callable[..., None]:
    """Return the step over a row with so many new bits: loops of known lengths, which are fast."""
    after_one, count = 1 << bits, STATES >> bits

    @jit
    def step(cost: Singles, after: Singles, chosen: Bytes, levels: Singles, target: Target) -> None:
        value, price = target
        best = np.empty(count, np.float32)
        for p in range(count):  # states that differ only in the bits that leave
            least, number = cost[p], np.int32(0)
            for high in range(1, after_one):
                other = cost[high * count + p]
                number = np.int32(high) if other < least else number
                least = min(other, least)
            best[p] = least
            chosen[p] = np.uint8(number)
        for p in range(count):
            for low in range(after_one):
                gap = value - levels[low * count + p]
                after[after_one * p + low] = best[p] + price * gap * gap

    return step


_one, _two, _three, _four = (_step_of(bits) for bits in range(1, 5))


@jit
def _step(
    cost: Singles, after: Singles, chosen: Bytes, levels: Singles, target: Target, bits: int
) -> None:
    """Go on to the next row: what the best way to each of its states costs, and where it leads."""
    if bits == 2:
        _two(cost, after, chosen, levels, target)
    elif bits == 3:
        _three(cost, after, chosen, levels, target)
    elif bits == 1:
        _one(cost, after, chosen, levels, target)
    elif bits == 4:
        _four(cost, after, chosen, levels, target)
    else:  # of very few rows
        count = STATES >> bits
        value, price = target
        for state in range(STATES):
            p, low = state >> bits, state & (1 << bits) - 1
            ways = cost[p::count]
            chosen[p] = np.argmin(ways)
            gap = value - levels[low * count + p]
            after[state] = ways[chosen[p]] + price * gap * gap


@jit
def _walk(column: Column, first: int, ends: Slice, path: Ints) -> None:
    """Find the best states of so many rows as the path has, from the row ``first`` downwards.

    ``ends`` are the state of the row above the first and that of the last one, or FREE.
    """
    values, costs, new, levels = column
    rows = len(values)
    cost, after = np.zeros(STATES, np.float32), np.empty(STATES, np.float32)
    chosen = np.empty((len(path), STATES), np.uint8)
    if ends[0] != FREE:
        cost[:] = FAR
        cost[ends[0]] = 0
    for i in range(len(path)):
        row = (first - i) % rows
        target = values[row], costs[row]
        _step(cost, after, chosen[i], levels[new[row]], target, new[row])
        cost, after = after, cost
    state = np.argmin(cost) if ends[1] == FREE else ends[1]
    for i in range(len(path) - 1, -1, -1):
        path[i] = state
        bits = new[(first - i) % rows]
        before = state >> bits
        state = before | np.int64(chosen[i, before]) << (STATE_BITS - bits)
