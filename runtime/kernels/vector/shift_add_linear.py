"""ShiftAddLinear on a vector unit."""

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
from edgellm.runtime.kernels._scalar import Int, share, stack_int8, stack_int32, stack_int64
from edgellm.runtime.kernels.simd._unit import VectorUnit
from edgellm.runtime.kernels.vector._code_products import LEAST_TOKENS
from edgellm.runtime.kernels.vector._code_sums import MAX_GROUPS
from edgellm.runtime.kernels.vector._level_products import level_products
from edgellm.runtime.kernels.vector._levels import fits_levels
from edgellm.runtime.kernels.vector._look_up_tables import (
    OCTET,
    OCTET_TABLES,
    TABLE_BYTES,
    fill_tables,
)
from edgellm.runtime.kernels.vector._look_ups import group_chooser, least_sum
from edgellm.runtime.kernels.vector._shift_blocks import (
    MOST_PLANES,
    begin_blocks,
    fill_magnitudes,
    octets_ahead,
    shift_blocks,
)
from edgellm.runtime.kernels.vector._shift_scales import (
    BLOCK_BYTES,
    PAIR,
    SCALE_BYTES,
    scale_filler,
)
from edgellm.runtime.kernels.vector._shift_terms import add_group_terms

Codes = npt.NDArray[np.int8]
Terms = npt.NDArray[np.uint8]


def build(unit: VectorUnit) -> Callable[..., None]:
    """Return the kernel."""
    fill_scales, add_blocks = scale_filler(unit), shift_blocks(unit)
    add_groups, products = group_sums(unit), level_products(unit)

    def shift_add_linear(
        thread: int,
        threads: int,
        x: npt.NDArray[np.int8],  # (T, K)
        planes: npt.NDArray[np.uint8],  # (B, C, P, 64)
        terms: npt.NDArray[np.uint8],  # (G, P, S, N)
        acc: npt.NDArray[np.int32],  # (T, N)
        group_size: int,
        shift: int,
    ) -> None:
        begin, end = share(terms.shape[3], thread, threads)
        many = x.shape[0] >= LEAST_TOKENS
        last_block = (end + ROWS - 1) // ROWS
        for block in range(begin // ROWS, last_block):
            many = many and fits_levels(terms, first_row(block, begin), last_row(block, end))
        if many:
            products(x, planes, terms, acc, (begin, end), (group_size, shift))
        totals, scales = stack_int64(BLOCK_TOTALS), stack_int8(SCALE_BYTES)
        tables, magnitudes = stack_int8(TABLE_BYTES), stack_int32(MAX_GROUPS)
        whole = min(terms.shape[3] // ROWS, last_block)  # the last block may have fewer rows
        block_scales = terms.shape[0] * terms.shape[1] * BLOCK_BYTES
        fitting = SCALE_BYTES // block_scales // PAIR * PAIR
        step, fits = max(fitting, PAIR), fitting > 0 and terms.shape[1] <= MOST_PLANES
        octets = group_size // OCTET
        ahead = octets_ahead(octets, terms.shape[1])
        for t in range(0 if many else x.shape[0]):
            begin_blocks(planes[begin // ROWS : whole][:PAIR], ahead)
            fill_tables(x[t], group_size, tables)
            fill_magnitudes(x[t], group_size, magnitudes)
            for first in range(begin // ROWS, last_block, step):
                last = min(first + step, last_block)
                right = fits and fill_scales(terms, (first, min(last, whole)), scales)
                for block in range(first, last, PAIR):
                    stop = min(block + PAIR, last)
                    done = max(min(stop, whole), block) if right else block
                    if block < done:
                        own = scales[(block - first) * block_scales :]
                        numbers = (octets, min(done, whole - PAIR) - block, ahead)
                        add_blocks(planes[block:done], tables, magnitudes, own, numbers, totals)
                    for one in range(done, stop):
                        place = (first_row(one, begin), last_row(one, end), group_size)
                        out = totals[(one - block) * ROWS :]
                        add_groups(x[t], planes[one], tables, terms, place, out)
                    row, row_end = first_row(block, begin), last_row(stop - 1, end)
                    write_rounded(totals[row % ROWS :], shift, acc[t][row:row_end])

    return shift_add_linear


def group_sums(unit: VectorUnit) -> Callable[..., None]:
    """Return ``add_groups(x, planes, tables, terms, (first, last, group_size), totals)``.

    It writes the totals of some rows of a block, whatever the terms are, from the place of the
    first on. planes are (octets, P, 64), tables those of ``fill_tables``.
    """
    choose = group_chooser(unit)

    @register_jitable(**PART_POLICY)
    def add_groups(
        x: Codes,
        planes: Terms,
        tables: Codes,
        terms: Terms,
        place: tuple[Int, Int, Int],
        totals: npt.NDArray[np.int64],
    ) -> None:
        first, last, group_size = place
        sums = stack_int32(SUMS)
        totals[:ROWS] = 0
        for group in range(terms.shape[0]):
            start, stop = group * group_size, (group + 1) * group_size
            own = x[start:stop]
            octets = planes[start // OCTET : stop // OCTET]
            choose(octets, tables[start // OCTET * OCTET_TABLES :], least_sum(own), sums)
            add_group_terms(
                sums[first % ROWS :],
                (sum_of(own), group_size),
                terms[group],
                (first, last),
                totals[first % ROWS :],
            )

    return add_groups
