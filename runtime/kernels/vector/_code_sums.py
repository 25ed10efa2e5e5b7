"""Products of one token with the codes of a block of rows, a group of columns at a time."""

# mypy: disable-error-code="untyped-decorator"

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._bit_planes import BLOCKS, ROWS, SUMS, join_planes
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int32
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._code_blocks import code_blocks
from edgellm.runtime.kernels.vector._look_up_tables import (
    MAX_COLUMNS,
    OCTET,
    OCTET_TABLES,
    TABLE_BYTES,
    fill_tables,
)
from edgellm.runtime.kernels.vector._look_ups import group_chooser
from edgellm.runtime.kernels.vector._plane_dots import (
    BESIDE,
    BY_TURNS,
    MOST_PLANES,
    block_dots,
    plane_dots,
)

MAX_GROUPS = MAX_COLUMNS // 8

Codes = npt.NDArray[np.int8]
Planes = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]
Grid = tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class CodeSums:
    """How one token is multiplied.

    Attributes:
        prepare: (x, group_size, prepared): write what ``multiply`` takes of a token.
        multiply: (octets, prepared, least, codes): write the products of 64 rows with the codes of
            the octets (octets, P, 64), whose columns begin where ``prepared`` does; least is the
            sum of the negative activations there.
        room: bytes of what is prepared.
        column_bytes: bytes of a column there.
        whole_blocks: (octets, prepared, (whole, least), grid, numbers, totals) -> of how many it
            wrote the totals, from the first on; see ``_plane_dots.block_dots``.
        blocks: for how many ``whole_blocks`` is called at most, up to BLOCKS.
    """

    prepare: Callable[..., None]
    multiply: Callable[..., None]
    room: int
    column_bytes: int
    whole_blocks: Callable[..., int]
    blocks: int


def code_sums(unit: VectorUnit) -> CodeSums:
    """Return what is faster on a unit: products of bytes, or look-ups."""
    return _by_dots(unit) if unit.turns_bits else _by_look_ups(unit)


def _by_look_ups(unit: VectorUnit) -> CodeSums:
    choose = group_chooser(unit)

    @register_jitable(**PART_POLICY)
    def multiply(octets: Planes, tables: Codes, least: Int, codes: Sums) -> None:
        sums = stack_int32(SUMS)
        choose(octets, tables, least, sums)
        join_planes(sums, octets.shape[1], codes)

    column_bytes, blocks = OCTET_TABLES // OCTET, code_blocks(unit)
    return CodeSums(fill_tables, multiply, TABLE_BYTES, column_bytes, blocks, BLOCKS)


def _by_dots(unit: VectorUnit) -> CodeSums:
    dots, all_dots = plane_dots(unit), block_dots(unit)
    most, beside = MOST_PLANES, BESIDE

    @register_jitable(**PART_POLICY)
    def multiply(octets: Planes, x: Codes, least: Int, codes: Sums) -> None:
        planes = octets.shape[1]
        stride = planes * ROWS
        dots(octets[0, 0], stride, octets.shape[0], min(planes, most), x, codes)
        if planes > most:
            upper = stack_int32(ROWS)
            dots(octets[0, most], stride, octets.shape[0], planes - most, x, upper)
            for row in range(ROWS):
                codes[row] += upper[row] << np.int32(most)

    @register_jitable(**PART_POLICY)
    def whole_blocks(
        octets: Planes,
        x: Codes,
        by_group: tuple[Sums, Sums],
        grid: Grid,
        numbers: tuple[Int, Int],
        totals: Totals,
    ) -> int:
        (whole, _), (scale, zero) = by_group, grid
        blocks = octets.shape[0] // beside * beside if octets.shape[2] <= most else 0
        totals[: blocks * ROWS] = 0
        if blocks > 0:
            all_dots(octets[:blocks], x, whole, scale, zero, numbers, totals)
        return blocks

    return CodeSums(copy_row, multiply, MAX_COLUMNS, 1, whole_blocks, BY_TURNS)


@register_jitable(**PART_POLICY)
def copy_row(x: Codes, _: Int, copy: Codes) -> None:
    """Copy a row, with zeros behind it up to whole octets."""
    for k in range(x.shape[0]):
        copy[k] = x[k]
    for k in range(x.shape[0], (x.shape[0] + 7) // 8 * 8):
        copy[k] = np.int8(0)
