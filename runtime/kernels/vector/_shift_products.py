"""Tokens times sums of binary matrices by look-ups, as many together as there is room for tables.

Blocks of weights are read once for these tokens.
"""

# mypy: disable-error-code="untyped-decorator"

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from edgellm.runtime.kernels._bit_planes import (
    BLOCK_TOTALS,
    ROWS,
    SUMS,
    first_row,
    last_row,
    sum_of,
    write_rounded,
)
from edgellm.runtime.kernels._jit import PART_POLICY
from edgellm.runtime.kernels._scalar import Int, stack_int8, stack_int32, stack_int64
from edgellm.runtime.kernels._shift_alphas import add_alphas, fill_alphas
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._code_sums import MAX_GROUPS
from edgellm.runtime.kernels.vector._look_up_tables import (
    OCTET,
    OCTET_TABLES,
    TABLE_BYTES,
    TOGETHER_BYTES,
    fill_tables,
    table_size,
)
from edgellm.runtime.kernels.vector._look_ups import group_chooser, least_sum
from edgellm.runtime.kernels.vector._plane_blocks import PAIR, begin_blocks, octets_ahead
from edgellm.runtime.kernels.vector._shift_blocks import (
    MOST_PLANES,
    fill_magnitudes,
    shift_blocks,
    span_count,
)
from edgellm.runtime.kernels.vector._shift_scales import (
    BLOCK_BYTES,
    SCALE_BYTES,
    scale_filler,
)

Codes = npt.NDArray[np.int8]
Planes = npt.NDArray[np.uint8]
Alphas = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]
Totals = npt.NDArray[np.int64]
Range = tuple[Int, Int]
Numbers = tuple[Int, Int, Int]


def look_up_products(unit: VectorUnit) -> Callable[..., None]:
    """Return ``products(x, planes, alphas, acc, (begin, end), (group_size, shift, terms))``.

    For the rows from begin to end: what ShiftAddLinear means.
    """
    fill_scales, add_blocks, add_groups = scale_filler(unit), shift_blocks(unit), group_sums(unit)

    @register_jitable(**PART_POLICY)
    def products(
        x: Codes, planes: Planes, alphas: Alphas, acc: Sums, rows: Range, numbers: Numbers
    ) -> None:
        (begin, end), (size, shift, terms) = rows, numbers
        shape = (planes.shape[2], terms)
        totals, scales = stack_int64(BLOCK_TOTALS), stack_int8(SCALE_BYTES)
        tables, magnitudes = stack_int8(TABLE_BYTES), stack_int32(MAX_GROUPS)
        last_block = (end + ROWS - 1) // ROWS
        whole = min(alphas.shape[0] // ROWS, last_block)  # the last block may have fewer rows
        groups = (x.shape[1] + size - 1) // size
        block_scales = groups * shape[0] * BLOCK_BYTES
        fitting = SCALE_BYTES // block_scales // PAIR * PAIR
        step, fits = max(fitting, PAIR), fitting > 0 and shape[0] <= MOST_PLANES
        octets = size // OCTET
        ahead = octets_ahead(octets, shape[0])
        table_bytes, spans = table_size(x.shape[1]), span_count(x.shape[1], size)
        tokens = max(min(TOGETHER_BYTES // table_bytes, MAX_GROUPS // spans), 1)
        for t in range(0, x.shape[0], tokens):
            some = x[t : t + tokens]
            begin_blocks(planes[begin // ROWS : whole][:PAIR], ahead)
            for i in range(some.shape[0]):
                fill_tables(some[i], size, tables[i * table_bytes :])
                fill_magnitudes(some[i], size, magnitudes[i * spans :])
            for first in range(begin // ROWS, last_block, step):
                last = min(first + step, last_block)
                if fits:
                    fill_scales(alphas, (groups, *shape), (first, min(last, whole)), scales)
                for block in range(first, last, PAIR):
                    stop = min(block + PAIR, last)
                    done = max(min(stop, whole), block) if fits else block
                    row, row_end = first_row(block, begin), last_row(stop - 1, end)
                    for i in range(some.shape[0]):
                        own = tables[i * table_bytes :]
                        if block < done:
                            sizes = (octets, min(done, whole - PAIR) - block, ahead)
                            add_blocks(
                                planes[block:done],
                                own,
                                magnitudes[i * spans :],
                                scales[(block - first) * block_scales :],
                                sizes,
                                totals,
                            )
                        for one in range(done, stop):
                            place = (first_row(one, begin), last_row(one, end), size)
                            out = totals[(one - block) * ROWS :]
                            add_groups(some[i], planes[one], own, (alphas, terms), place, out)
                        write_rounded(totals[row % ROWS :], shift, acc[t + i][row:row_end])

    return products


def group_sums(unit: VectorUnit) -> Callable[..., None]:
    """Return ``add_groups(x, planes, tables, scales, (first, last, group_size), totals)``.

    It writes the totals of some rows of a block, however many planes there are, from the place of
    the first on. scales are the alphas and the most terms of one. planes are (octets, P, 64),
    tables those of ``fill_tables``.
    """
    choose = group_chooser(unit)

    @register_jitable(**PART_POLICY)
    def add_groups(
        x: Codes,
        planes: Planes,
        tables: Codes,
        scales: tuple[Alphas, Int],
        place: Numbers,
        totals: Totals,
    ) -> None:
        (packed, terms), (first, last, group_size) = scales, place
        sums, alphas = stack_int32(SUMS), stack_int32(SUMS)
        out = totals[first % ROWS : first % ROWS + last - first]
        out[:] = 0
        for group in range((x.shape[0] + group_size - 1) // group_size):
            start, stop = group * group_size, (group + 1) * group_size
            own = x[start:stop]
            octets = planes[start // OCTET : stop // OCTET]
            choose(octets, tables[start // OCTET * OCTET_TABLES :], least_sum(own), sums)
            fill_alphas(packed, group, (planes.shape[1], terms), (first, last), alphas)
            add_alphas(sums[first % ROWS :], sum_of(own), planes.shape[1], alphas, out)

    return add_groups
