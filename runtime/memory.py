"""Place values in one arena: each gets bytes that no other value uses while it is needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector."""


@dataclass(frozen=True)
class Lifetime:
    """A value of ``size`` bytes, needed from step ``first`` to step ``last``, both included."""

    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Arena:
    """Where each value is, and how many bytes all of them take."""

    offsets: Mapping[str, int]
    size: int


def lifetimes(
    steps: Sequence[tuple[Sequence[str], Sequence[str]]], sizes: Mapping[str, int]
) -> dict[str, Lifetime]:
    """Return the lifetime of each value that has a size.

    Args:
        steps: (inputs, outputs) of each step; names without a size are not in the arena.
        sizes: bytes of each value.
    """
    found: dict[str, Lifetime] = {}
    for index, (inputs, outputs) in enumerate(steps):
        for name in [*inputs, *outputs]:
            if name in sizes:
                first = found[name].first if name in found else index
                found[name] = Lifetime(sizes[name], first, index)
    return found


def place(values: Mapping[str, Lifetime]) -> Arena:
    """Give each value the lowest offset at which it meets no living neighbour, large ones first."""
    order = sorted(values, key=lambda name: (-values[name].size, values[name].first, name))
    offsets: dict[str, int] = {}
    end = 0
    for name in order:
        value = values[name]
        taken = sorted(
            (offsets[other], offsets[other] + values[other].size)
            for other in offsets
            if values[other].first <= value.last and value.first <= values[other].last
        )
        offset = _first_gap(taken, value.size)
        offsets[name] = offset
        end = max(end, offset + value.size)
    return Arena(offsets, _align(end))


def neighbours(values: Mapping[str, Lifetime], arena: Arena) -> dict[str, set[str]]:
    """Return for each value the others that have some of its memory at other times."""
    ends = {name: arena.offsets[name] + value.size for name, value in values.items()}
    return {
        name: {
            other
            for other in values
            if other != name
            and arena.offsets[other] < ends[name]
            and arena.offsets[name] < ends[other]
        }
        for name in values
    }


def _first_gap(taken: Sequence[tuple[int, int]], size: int) -> int:
    offset = 0
    for begin, end in taken:
        if offset + size <= begin:
            break
        offset = max(offset, _align(end))
    return offset


def _align(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
